"""An agent of another version takes over under traffic, and the old one again after it: nothing
that policy allows is lost, and nothing that it denies gets in, whatever the maps look like."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent import abi
from tests.e2e import versions
from tests.e2e.nodes import Node, wait_for
from tests.e2e.streams import stream
from tests.e2e.test_agent_life import TALK
from tests.e2e.test_agent_standalone import BOB, BOB_6, DROPS, config
from tests.e2e.test_leaks import DOOR, KNOCK, Door, require_that_it_can_be_seen, running
from tests.e2e.tunnels import overflown, tunnel
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

ADDRESSES = {4: BOB, 6: BOB_6}
RARELY = KNOCK.replace("0.001", "0.005")
RATE = "1M"  # far below what makes a tunnel in user space lose packets of itself
RULES: list[dict[str, Any]] = [
    {"id": "tcp", "from": "alice", "to": "bob", "proto": "tcp", "ports": [5201, 5202, 8080],
     "action": "allow"},
    {"id": "ping", "from": "*", "to": "*", "proto": "icmp", "action": "allow"},
]  # fmt: skip


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    with tunnel(tmp_path, RULES) as (alice, bob), bob.serving(8080):
        yield alice, bob


def counters(node: Node) -> dict[str, float]:
    names = ("zt_packets_total", "zt_drops_total", "zt_rule_packets_total")
    return {k: v for k, v in node.metrics().items() if k.startswith(names)}


def schemas(node: Node) -> set[str]:
    """The versions of what is pinned."""
    return set(re.findall(r"/wg0/v([^/\s]+)", node.output("find", "/sys/fs/bpf/ztlab")))


@contextmanager
def pinging(node: Node, address: str, answers: Path) -> Iterator[subprocess.Popen[bytes]]:
    """NODE pings ADDRESS a hundred times a second; each answer is a line of the file ANSWERS."""
    with answers.open("wb") as file:
        command = node.command("ping", "-n", "-i0.01", "-W2", address)
        with subprocess.Popen(command, stdout=file) as ping:
            try:
                yield ping
            finally:
                ping.kill()


def unanswered(answers: Path) -> tuple[int, set[int]]:
    """(pings answered, the numbers of those that were not). What was sent after the last that was
    answered may still be on its way."""
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", answers.read_text())}
    return len(answered), set(range(1, max(answered, default=1))) - answered


@pytest.mark.parametrize("layout", versions.LAYOUTS)
def test_a_version_with_another_layout_takes_over_and_is_rolled_back_without_a_gap(
    nodes: tuple[Node, Node], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = nodes
    other = versions.make(tmp_path / "other", layout)
    with ExitStack() as stack:
        listen = bob.command(sys.executable, "-c", DOOR)
        door = Door(bob, stack.enter_context(running(listen)))
        assert door.process.stdout is not None and door.process.stdout.readline() == "bound\n"
        stack.enter_context(running(alice.command(sys.executable, "-c", RARELY)))
        streams = [
            stack.enter_context(stream(alice, bob, address, 5201 + (family == 6), rate=RATE))
            for family, address in ADDRESSES.items()
        ]
        talk = stack.enter_context(running(alice.command(sys.executable, "-c", TALK, BOB_6)))
        assert talk.stdout is not None and talk.stdout.readline() == "open\n"
        pings = {address: tmp_path / f"ping{family}" for family, address in ADDRESSES.items()}
        for address, answers in pings.items():
            stack.enter_context(pinging(alice, address, answers))
        wait_for(partial(door.is_knocked_at, 0), 10, "somebody knocks, and is denied")

        for schema, path in ((abi.SCHEMA + 1, other), (abi.SCHEMA, versions.ROOT)):
            for each in streams:
                each.goes_on()
            before = counters(bob)
            bob.stop_agent(signal.SIGKILL)
            with monkeypatch.context() as patched:
                patched.setenv("PYTHONPATH", str(path))
                bob.start_agent(config(bob, alice, RULES))
                assert bob.status()["origin"] == "carried"
            assert schemas(bob) == {str(schema)}
            after = counters(bob)
            assert all(after.get(name, 0) >= value for name, value in before.items())
            assert after[DROPS] > before[DROPS]
        for each in streams:
            each.goes_on()

        assert door.seen() == (0, 0.0)
        for answers in pings.values():
            answered, missing = unanswered(answers)
            lost = overflown(alice) + overflown(bob)
            print(f"{answered} answered, {missing} not, {lost} lost by the tunnels themselves")
            assert answered > 500 and len(missing) <= lost
        sent, back = map(int, talk.communicate("stop\n", timeout=scaled(20))[0].split())
        assert sent == back > 100
        for each in streams:
            assert len(each.seconds()) >= 9 and all(each.seconds()), each.seconds()
        # Whoever knocks is all that was dropped.
        drops = {k for k, v in counters(bob).items() if k.startswith("zt_drops_total") and v}
        assert {name for name in drops if 'hook="ingress"' in name} == {DROPS}
        require_that_it_can_be_seen(door)
