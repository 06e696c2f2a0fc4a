"""Preshared keys as an operator has them: a file at each of two agents, and nothing to be seen."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, config, has_shaken_hands, pair

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]


def new_secret() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def spellings(secret: str) -> tuple[str, ...]:
    """How a log might show the bytes that SECRET, base64, stands for."""
    raw = base64.b64decode(secret)
    hexadecimal = raw.hex()
    # Part of bytes(...)'s repr will do: in a longer one its quotes may be others.
    return secret.rstrip("="), hexadecimal, raw.hex(":"), repr(raw[:8])[2:-1], repr(raw[8:])[2:-1]


def file_of(node: Node) -> Path:
    return node.directory / "preshared-keys"


def give(node: Node, peer: Node, secret: str | None, mode: int = 0o600) -> None:
    """NODE's file: what it shares with PEER; None: nothing."""
    line = f"{peer.key.public_key} = {secret}\n" if secret else ""
    file_of(node).write_text(f"# of {node.name}\n{line}")
    file_of(node).chmod(mode)


def shown(node: Node) -> str:
    """What WireGuard says that NODE's only peer has. One that never answers is away for a moment
    now and then, while the agent makes it anew."""
    said: list[str] = []

    def is_there() -> bool:
        said[:] = node.output("wg", "show", "wg0", "preshared-keys").split()
        return bool(said)

    wait_for(is_there, 5, "the peer")
    _, secret = said
    return secret


def _has_tried(node: Node) -> bool:
    return node.log.count("making it anew") > 2


def reload(node: Node, said: str) -> None:
    """SIGHUP, until the log says SAID once more."""
    before = node.log.count(said)
    os.kill(node.agent_pid(), signal.SIGHUP)
    wait_for(lambda: node.log.count(said) > before, 5, f"{said}: {node.log}")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        for node in (alice, bob):
            node.settings["wireguard"] = {"preshared_keys": str(file_of(node))}
        yield alice, bob


def start(alice: Node, bob: Node) -> None:
    for node, other in ((alice, bob), (bob, alice)):
        node.start_agent(config(node, other), wait=False, verbose=True)
    for node in (alice, bob):
        node.wait_ready()


def test_two_agents_with_the_same_secret_talk_and_it_is_nowhere_to_be_seen(
    nodes: tuple[Node, Node],
) -> None:
    alice, bob = nodes
    secret = new_secret()
    for node, other in ((alice, bob), (bob, alice)):
        give(node, other, secret)
    start(alice, bob)
    wait_for(lambda: alice.pings(BOB), 10, "the tunnel")
    # A refusal, too, says what is wrong and not what was written.
    file_of(bob).write_text(f"{alice.key.public_key} = {secret}\n{secret} = {secret}x\n")
    reload(bob, "line 2: ")
    bob.zt("apply", str(bob.write(config(bob, alice))))
    for node in nodes:
        assert shown(node) == secret  # control: it is what is in force
        assert [peer["has_preshared_key"] for peer in node.status()["peers"]] == [True]
        processes = [
            node.output("cat", f"/proc/{pid}/{file}")
            for pid in node.output("ps", "-eo", "pid=").split()
            for file in ("cmdline", "environ")
            # Not of `ps` itself, which has ended since.
            if node.run("test", "-e", f"/proc/{pid}/{file}").returncode == 0
        ]
        kept = [
            path.read_text(errors="replace")
            for path in node.directory.rglob("*")
            if path.is_file() and path != file_of(node)
        ]
        run_dir = node.output("sh", "-c", "cat /run/zt-agent/* 2>/dev/null; true")
        seen = [
            json.dumps(node.status()),
            str(node.metrics()),
            run_dir,
            *processes,
            *kept,
            node.log,
        ]
        assert "SetPeers" in node.log  # control: every step was logged
        # The node's own key is a secret as well, and has a file of its own.
        private = node.key.private_key()
        seen.remove(f"{private}\n")
        for spelling in (*spellings(secret), *spellings(private)):
            assert not any(spelling in text for text in seen), node.name


def test_without_the_same_secret_there_is_no_tunnel_until_a_reload_brings_it(
    nodes: tuple[Node, Node],
) -> None:
    alice, bob = nodes
    secret = new_secret()
    give(alice, bob, secret)
    give(bob, alice, new_secret())
    start(alice, bob)
    for node in nodes:  # each made its peer anew, to initiate at once: not for want of trying
        wait_for(partial(_has_tried, node), 15, "initiations")
    assert not has_shaken_hands(alice) and not has_shaken_hands(bob)
    assert not alice.pings(BOB)

    give(bob, alice, secret)
    reload(bob, "the preshared keys were read again")

    assert shown(bob) == secret
    wait_for(partial(alice.pings, BOB), 15, "the tunnel")
    assert has_shaken_hands(alice)  # control: it was for want of the secret

    # Taken away at both ends it is gone, and the tunnel stands.
    for node, other in ((alice, bob), (bob, alice)):
        give(node, other, None)
        reload(node, "the preshared keys were read again")
        assert shown(node) == "(none)"
        assert [peer["has_preshared_key"] for peer in node.status()["peers"]] == [False]
    assert alice.pings(BOB)


def test_a_faulty_file_changes_nothing_and_a_change_by_hand_is_undone(
    nodes: tuple[Node, Node],
) -> None:
    alice, bob = nodes
    secret = new_secret()
    give(bob, alice, secret)
    bob.start_agent(config(bob, alice))
    assert shown(bob) == secret

    give(bob, alice, new_secret(), mode=0o644)
    reload(bob, "the preshared keys stay as they were")
    assert "open to others (mode 0644)" in bob.log and shown(bob) == secret

    with bob.agent_held():  # or it might undo it before we look
        bob.output("wg", "set", "wg0", "peer", alice.key.public_key, "preshared-key", "/dev/null")
        assert shown(bob) == "(none)"
    bob.zt("apply", str(bob.write(config(bob, alice))))
    assert shown(bob) == secret


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("", 0o640, "is open to others (mode 0640)"),
        ("nonsense\n", 0o600, "line 1: want PUBLICKEY = PRESHAREDKEY"),
        (None, 0, "cannot read it: No such file or directory"),
    ],
)
def test_with_a_file_that_is_no_good_the_agent_does_not_start_and_says_why(
    nodes: tuple[Node, Node], text: str | None, mode: int, complaint: str
) -> None:
    alice, bob = nodes
    if text is not None:
        file_of(bob).write_text(text)
        file_of(bob).chmod(mode)
    bob.start_agent(config(bob, alice), wait=False)
    assert bob._agent is not None and bob._agent.wait(20) == 1
    assert f"error: {file_of(bob)}: {complaint}" in bob.log
    assert "Traceback" not in bob.log
    assert bob.run("ip", "link", "show", "wg0").returncode != 0
