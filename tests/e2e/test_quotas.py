"""Quotas on real tunnels: one who sends too much is held to its rate, and nobody else is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, BOB_6, config, has_shaken_hands, pair
from tests.e2e.tunnels import overflown

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

CAROL, CAROL_6 = "10.77.0.4", "fd77::4"
BOB_FOR_CAROL = "198.19.0.3"
PORTS = {"alice": 7001, "carol": 7002}
RATE, BURST = 125_000, 64_000  # bytes per second, and at once: "1mbit", "64kB"
SIZE = 1000  # of a packet on the wire, from its IP header on
SECONDS = 4.0
TOLERANCE = 0.05
# Ten at a time, since a slow machine sleeps no shorter than 10 ms. Says how many it sent, in how
# many seconds, and for how many of them it was kept from sending although the bucket was full.
SEND = """
import socket, sys, time
to, seconds = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3])
is_six = ":" in to[0]
s = socket.socket(socket.AF_INET6 if is_six else socket.AF_INET, socket.SOCK_DGRAM)
s.connect(to)
data = bytes(SIZE - (48 if is_six else 28))
sent, starved, began = 0, 0.0, time.monotonic()
last = began
while last - began < seconds:
    for _ in range(10):
        s.send(data); sent += 1
    time.sleep(0.008)
    now = time.monotonic()
    starved += max(0.0, now - last - FILLS_IN)
    last = now
print(sent, last - began, starved)
""".replace("SIZE", str(SIZE)).replace("FILLS_IN", str(BURST / RATE))
# Whenever it is asked, how many datagrams came to each port so far.
COUNT = """
import socket, sys, threading
ports = [int(word) for word in sys.argv[1:]]
counts = dict.fromkeys(ports, 0)
def count(port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    s.bind(("::", port))
    ready.release()
    while True:
        s.recv(2048)
        counts[port] += 1
ready = threading.Semaphore(0)
for port in ports:
    threading.Thread(target=count, args=(port,), daemon=True).start()
    ready.acquire()
print("ready", flush=True)
for _ in sys.stdin:
    print(*(counts[port] for port in ports), flush=True)
"""


def states(alice: Node, bob: Node, carol: Node) -> tuple[dict[str, Any], ...]:
    """The whole state of each: alice may send to bob at a rate, carol as much as she likes."""
    found = [config(alice, bob, []), config(bob, alice), config(carol, bob, [])]
    for state in found:
        state["identities"].append({"name": "carol", "tag": 4, "prefixes": list(carol.addresses)})
    found[1]["peers"] += config(bob, carol)["peers"]
    found[2]["peers"][0]["endpoint"] = f"{BOB_FOR_CAROL}:51820"
    rules = [
        {"id": name, "from": name, "to": "bob", "proto": "udp", "ports": [port], "action": "allow"}
        for name, port in PORTS.items()
    ]
    quota = {"identity": "alice", "rate": "1mbit", "burst": "64kB"}
    found[1]["policy"] = {"default": "deny", "rules": rules, "quotas": [quota]}
    return tuple(found)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[Node, Node, Node]]:
    """alice ══ bob ══ carol, each over a cable of its own."""
    alice, bob = pair(tmp_path)
    carol = Node("carol", tmp_path / "carol", (f"{CAROL}/32", f"{CAROL_6}/128"), "198.19.0.4")
    nodes = (alice, bob, carol)
    with namespaces(*nodes):
        cable(alice, bob)
        cable(bob, carol, BOB_FOR_CAROL, carol.underlay)
        for node, state in zip(nodes, states(*nodes), strict=True):
            node.start_agent(state, wait=False)
        for node in nodes:
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        yield alice, bob, carol


class Arrivals:
    """How many datagrams came to each of PORTS on a node."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def now(self) -> dict[str, int]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("now\n")
        self._process.stdin.flush()
        return dict(zip(PORTS, map(int, self._process.stdout.readline().split()), strict=True))


@contextmanager
def counting(node: Node) -> Iterator[Arrivals]:
    command = [sys.executable, "-c", COUNT, *map(str, PORTS.values())]
    process = subprocess.Popen(
        node.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield Arrivals(process)
        finally:
            process.kill()


def sending(node: Node, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SEND, address, str(PORTS[node.name]), str(SECONDS)]
    return subprocess.Popen(node.command(*command), stdout=subprocess.PIPE, text=True)


def counted(node: Node, identity: str) -> dict[str, int]:
    """What NODE let in from IDENTITY and what it dropped, by verdict."""
    begins = (
        f'zt_packets_total{{direction="in",identity="{identity}",verdict="',
        f'zt_drops_total{{hook="ingress",identity="{identity}",reason="',
    )
    return {
        name.removesuffix('"}').removeprefix(begin): int(value)
        for name, value in node.metrics().items()
        for begin in begins
        if name.startswith(begin) and value
    }


def wait_for_all(node: Node, arrivals: Arrivals, sent: int, lost: Callable[[], int]) -> None:
    """Until each of the packets that were SENT is here, was over quota, or LOST by the tunnels."""
    found: tuple[int, int, int] = (0, 0, 0)

    def has_settled() -> bool:
        nonlocal found
        over = sum(counted(node, name).get("over_quota", 0) for name in PORTS)
        found = sum(arrivals.now().values()), over, lost()
        return sum(found) == sent

    try:
        wait_for(has_settled, 10)
    except AssertionError:
        raise AssertionError(f"of {sent} came, were over quota, were lost: {found}") from None


@pytest.mark.parametrize("address", [BOB, BOB_6])
def test_what_is_beyond_the_rate_is_dropped_and_counted_and_who_has_no_quota_loses_nothing(
    three: tuple[Node, Node, Node], address: str
) -> None:
    """By the sender's clock: within TOLERANCE of burst + rate x time, though it sends much more."""
    alice, bob, carol = three
    lost_before = sum(map(overflown, three))

    def lost() -> int:
        return sum(map(overflown, three)) - lost_before

    with (
        counting(bob) as arrivals,
        sending(alice, address) as one,
        sending(carol, address) as other,
    ):
        said = {name: process.communicate()[0].split() for name, process in
                (("alice", one), ("carol", other))}  # fmt: skip
        sent = {name: int(words[0]) for name, words in said.items()}
        wait_for_all(bob, arrivals, sum(sent.values()), lost)
        here = arrivals.now()
    seconds, starved = map(float, said["alice"][1:])
    assert starved < seconds / 4, "this machine is too busy to send faster than the quota"
    may, came = BURST + RATE * seconds, here["alice"] * SIZE
    print(f"{sent['alice']} sent, {here['alice']} came; by rate and burst {may / SIZE:.0f}")
    print(f"{lost()} lost by the tunnels themselves")
    assert sent["alice"] * SIZE > 1.5 * may, "the sender is not faster than the quota"
    assert (1 - TOLERANCE) * (may - RATE * starved) < came < (1 + TOLERANCE) * may

    from_alice, from_carol = counted(bob, "alice"), counted(bob, "carol")
    # All packets together are accounted for above; whose the lost ones were nobody can tell.
    missing = sent["alice"] - here["alice"]
    assert missing - lost() <= from_alice.pop("over_quota") <= missing
    assert from_alice == {"allowed": 1, "established": here["alice"] - 1}
    assert sent["carol"] - lost() <= here["carol"]  # as much, at the same time, and all of it
    assert from_carol == {"allowed": 1, "established": here["carol"] - 1}
    hits = bob.metrics()['zt_rule_packets_total{action="allow",rule="alice"}']
    assert hits == here["alice"]
