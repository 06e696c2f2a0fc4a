"""`zt-agent rotate-key` under traffic: the node stays who it is, and its old key is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.keys import NodeKey, load_or_make
from agent.wireguard.backend import Endpoint
from agent.wireguard.choose import open_backend
from agent.wireguard.links import FWMARK, Links
from tests.e2e.nodes import BIN, cable, namespaces
from tests.e2e.plans import gateway, mesh
from tests.e2e.test_agent_standalone import config, pair
from tests.e2e.waiting import wait_until
from tests.e2e.wireguards import spec
from ztlab.client.node import NodeClient
from ztlab.errors import Refused
from ztlab.lab import build, execute, metrics, state
from ztlab.lab.lab import Lab
from ztlab.lab.pace import scaled
from ztlab.model.config import check_endpoint

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

PAUSE_S = 2.0


class Stream:
    """One TCP connection that asks for an echo every 10 ms, and knows the longest silence."""

    def __init__(self, lab: Lab, source: str, target: str) -> None:
        self._socket = lab.connect(source, (target, 8080), timeout=scaled(20))
        self._socket.settimeout(20)
        self._lines = self._socket.makefile("rb")
        assert self._lines.readline()  # the greeting
        self._stop = threading.Event()
        self.longest_s = 0.0
        self.echoes = 0
        self.error: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.echoes > 10)
        self.longest_s = 0.0

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.01):
                began = time.monotonic()
                self._socket.sendall(b"%d\n" % self.echoes)
                assert self._lines.readline() == b"%d\n" % self.echoes
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.echoes += 1
        except (OSError, AssertionError) as error:
            self.error = repr(error)

    def goes_on(self) -> None:
        """Fails unless echoes still come."""
        seen = self.echoes
        wait_until(lambda: self.echoes > seen + 10 or self.error is not None, 20)
        assert self.error is None

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=scaled(20))
        self._lines.close()  # it holds the socket, too
        self._socket.close()


def agent_pid(lab: Lab, node: str) -> int | None:
    """The agent itself: `zt-agent rotate-key` is no agent, and may well have the lower number."""
    return next(
        (
            p.pid
            for p in lab.processes(node)
            if "zt-agent" in " ".join(p.argv[:2]) and "run" in p.argv[:3]
        ),
        None,
    )


def start_agent(lab: Lab, node: str) -> None:
    directory = state.node_dir(lab.name, node)
    command = [execute.program("zt-agent"), "run", "--config", str(directory / "agent.toml")]
    lab.spawn(node, command, directory / "log")


def kill_agent(lab: Lab, node: str) -> None:
    pid = agent_pid(lab, node)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: agent_pid(lab, node) is None)


@contextmanager
def held(lab: Lab, node: str) -> Iterator[None]:
    """NODE's agent stands still."""
    pid = agent_pid(lab, node)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def files(lab: Lab, node: str) -> Path:
    return state.node_dir(lab.name, node) / "state"


def rotate(lab: Lab, node: str, *words: str) -> subprocess.CompletedProcess[str]:
    return lab.run(node, ["zt-agent", "rotate-key", *words], timeout_s=60)


def status(lab: Lab, node: str) -> dict[str, Any]:
    done = lab.run(node, ["zt-agent", "status", "--json"], timeout_s=30)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def token_for(lab: Lab, node: str, key: NodeKey) -> str:
    """The id of the node that the coordinator gives a token for KEY, asked from NODE."""
    toml = (state.node_dir(lab.name, node) / "agent.toml").read_text()
    url = next(line.split('"')[1] for line in toml.splitlines() if line.startswith("url"))
    authority = (files(lab, node) / "authority.pem").read_text()

    def connect(address: tuple[str, int], timeout: float | None) -> Any:
        return lab.connect(node, address, timeout)

    with closing(NodeClient(url, authority, socket_factory=connect)) as client:
        return client.renew(public_key=key.public_key, prove=key.prove).node_id


def shakes_hands(lab: Lab, source: str, target: str, key: NodeKey, within_s: float) -> bool:
    """Does TARGET's WireGuard answer an interface beside SOURCE's own that has KEY?"""
    peer = lab.admin().node(target)
    assert peer.endpoint is not None
    check_endpoint(peer.endpoint)
    host, _, port = peer.endpoint.rpartition(":")

    def attempt() -> bool:
        links = Links()
        backend = open_backend("auto", "other0", links)
        try:
            backend.configure(private_key=key.private_key(), listen_port=51999, fwmark=FWMARK)
            links.set_up("other0", mtu=1420, listen_port=51999)
            dialled = spec(peer.public_key, host=host.strip("[]"), port=int(port), keepalive_s=1)
            assert isinstance(dialled.endpoint, Endpoint)
            backend.set_peers([dialled])
            deadline = time.monotonic() + scaled(within_s)
            while time.monotonic() < deadline:
                if backend.state().peers[peer.public_key].last_handshake_at > 0:
                    return True
                time.sleep(0.05)
            return False
        finally:
            backend.close()
            links.close()

    return lab.call(source, attempt)


@pytest.fixture
def lab(lab_name: str) -> Iterator[Lab]:
    yield build.up(mesh(lab_name))


@pytest.fixture
def office(lab_name: str) -> Iterator[Lab]:
    yield build.up(gateway(lab_name))


def judged(lab: Lab, node: str) -> tuple[float, float, float]:
    """Packets that NODE dropped, allowed as a flow's first, let through as established."""
    text = lab.metrics(node)

    def total(name: str, **labels: str) -> float:
        return metrics.total(text, name, labels) or 0.0

    allowed, established = (
        total("zt_packets_total", direction="in", verdict=verdict)
        for verdict in ("allowed", "established")
    )
    # The kernel's own multicast (who is on this link?) has no place in a tunnel, at any time.
    multicast = sum(
        total("zt_drops_total", hook="egress", identity=identity, reason="unknown_destination")
        for identity in (node, "unknown")
    )
    return total("zt_drops_total") - multicast, allowed, established


def check_rotation(lab: Lab, node: str, source: str, target: str, judge: str) -> float:
    """Rotate NODE's key under a connection; the longest silence in seconds."""
    before, me = lab.admin().node(node), status(lab, node)
    with closing(Stream(lab, source, target)) as stream:
        drops, allowed, established = judged(lab, judge)
        assert allowed > 0  # the connection's own first packet
        done = rotate(lab, node)
        assert done.returncode == 0, done.stdout + done.stderr
        stream.goes_on()
        longest = stream.longest_s
        # Nothing of the connection was judged as new: it is established, before and after.
        dropped, new, went_on = judged(lab, judge)
        assert (dropped, new) == (drops, allowed) and went_on > established + 10
    after = lab.admin().node(node)
    assert f"client ID {after.client_id}" in done.stdout
    assert after.public_key != before.public_key
    assert [key.client_id for key in after.former_keys][-1] == before.client_id
    assert (after.id, after.identity, after.addresses) == (
        before.id,
        before.identity,
        before.addresses,
    )
    found = status(lab, node)
    assert (found["node_id"], found["identity"]) == (me["node_id"], me["identity"])
    assert found["client_id"] == after.client_id and found["identity_drift"] == 0
    assert metrics.total(lab.metrics(node), "zt_key_rotations_total", {"result": "done"}) == 1
    assert sorted(path.name for path in files(lab, node).glob("*.key")) == ["private.key"]
    return longest


@pytest.mark.parametrize("node", ["alice", "bob"])
def test_in_a_mesh_a_connection_survives_and_pauses_for_less_than_two_seconds(
    lab: Lab, node: str
) -> None:
    old = load_or_make(files(lab, node) / "private.key")
    other = {"alice": "bob", "bob": "alice"}[node]
    longest = check_rotation(lab, node, "alice", "bob", "bob")
    print(f"{node} in a mesh: silent for at most {longest:.3f} s")
    assert longest < scaled(PAUSE_S)

    # The old key is refused, and the new one is not, asked in the same way.
    new = load_or_make(files(lab, node) / "private.key")
    with pytest.raises(Refused) as refused:
        token_for(lab, node, old)
    assert refused.value.status == 401
    assert token_for(lab, node, new) == lab.admin().node(node).id
    assert not shakes_hands(lab, node, other, old, 3.0)
    assert shakes_hands(lab, node, other, new, 3.0)


@pytest.mark.parametrize("node", ["laptop", "gate"])
def test_across_a_gateway_it_does_too(office: Lab, node: str) -> None:
    files_v4 = office.lan_addresses("files")[0]
    longest = check_rotation(office, node, "laptop", files_v4, "gate")
    print(f"{node} across a gateway: silent for at most {longest:.3f} s")
    assert longest < scaled(PAUSE_S)


def test_a_peer_that_is_away_is_waited_for_and_then_left_behind_until_it_hears(lab: Lab) -> None:
    with closing(Stream(lab, "alice", "bob")) as stream:
        with held(lab, "carol"):
            began = time.monotonic()
            done = rotate(lab, "alice", "--wait", "2")
            assert done.returncode == 0, done.stderr
            assert time.monotonic() - began >= 2
            assert "waiting for carol" in done.stdout
            assert "not waited for: carol" in done.stderr
            stream.goes_on()
        assert stream.longest_s < scaled(PAUSE_S)
    # Carol hears of it as soon as she can, and her tunnel is back without anybody's doing.
    new = lab.admin().node("alice").client_id
    wait_until(lambda: {"alice": True}.items() <= has_shaken(lab, "carol", new).items())


def has_shaken(lab: Lab, node: str, client_id: str) -> dict[str, bool]:
    """Of NODE's peers, those with CLIENT_ID: was there a handshake?"""
    return {
        peer["name"]: peer["last_handshake_at"] is not None
        for peer in status(lab, node)["peers"]
        if peer["client_id"] == client_id
    }


STAGES = {
    "the new key is made": lambda lab: (files(lab, "alice") / "next.key").exists(),
    "it is announced": lambda lab: lab.admin().node("alice").rotation is not None,
    "the interface has it": lambda lab: (files(lab, "alice") / "former.key").exists(),
    "it is committed": lambda lab: bool(lab.admin().node("alice").former_keys),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_agent_killed_in_the_middle_ends_the_change_when_it_is_back(
    lab: Lab, stage: str
) -> None:
    before = lab.admin().node("alice")
    with closing(Stream(lab, "alice", "bob")) as stream:
        rotating = lab.popen(
            "alice",
            ["zt-agent", "rotate-key"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        pid = agent_pid(lab, "alice")
        assert pid is not None
        deadline = time.monotonic() + scaled(20)
        while not STAGES[stage](lab):
            assert time.monotonic() < deadline, f"never: {stage}"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: agent_pid(lab, "alice") is None)
        left = sorted(path.name for path in files(lab, "alice").glob("*.key"))
        rotating.wait(scaled(40))
        start_agent(lab, "alice")
        wait_until(lambda: status(lab, "alice").get("rotation", {}).get("stage") == "none", 30)
        wait_until(lambda: lab.admin().node("alice").rotation is None, 30)
        stream.goes_on()
        print(f"killed when {stage}: {left} left; silent for at most {stream.longest_s:.3f} s")
    after = lab.admin().node("alice")
    assert status(lab, "alice")["client_id"] == after.client_id != before.client_id
    assert after.former_keys[-1].client_id == before.client_id
    assert sorted(path.name for path in files(lab, "alice").glob("*.key")) == ["private.key"]
    assert lab.run("carol", ["true"]).returncode == 0
    wait_until(lambda: lab.admin().network().has_converged, 30)


def test_with_a_preshared_key_it_is_refused_and_says_with_whom(lab: Lab) -> None:
    bob = lab.admin().node("bob").public_key
    secret = lab.run("alice", ["wg", "genpsk"], check=True).stdout
    command = ["wg", "set", "wg0", "peer", bob, "preshared-key"]
    lab.run("alice", [*command, "/dev/stdin"], input=secret, check=True)
    done = rotate(lab, "alice")
    assert done.returncode != 0 and "the tunnel with bob would not come back" in done.stderr
    assert lab.admin().node("alice").rotation is None
    lab.run("alice", [*command, "/dev/null"], check=True)
    assert rotate(lab, "alice").returncode == 0


def test_a_standalone_node_refuses_and_says_why(tmp_path: Path) -> None:
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        alice.start_agent(config(alice, bob))
        before = alice.status()["client_id"]
        done = alice.run(str(BIN / "zt-agent"), "rotate-key")
        assert done.returncode != 0
        assert "standalone node has nobody who tells its peers" in done.stderr
        assert "Traceback" not in done.stderr
        assert alice.status()["client_id"] == before
