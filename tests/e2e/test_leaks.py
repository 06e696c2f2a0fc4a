"""What judges is taken away while somebody knocks all the time: nothing gets in unjudged.

Programs and belt are two layers: one alone holds until the agent has put the other one back. Only
where both go at the same time there is nothing left to hold, and what matters is how long.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_life import (
    REPAIRED,
    break_clsact,
    delete_interface,
    flush_nftables,
    is_whole,
)
from tests.e2e.test_agent_standalone import BOB, BOB_6, DROPS, config, has_shaken_hands, pair
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

REPAIR_S = 1.0
KNOCK = """
import socket, time
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
while True:
    for s, address in (four, "10.77.0.3"), (six, "fd77::3"):
        try: s.sendto(b"x", (address, 7000))
        except OSError: pass
    time.sleep(0.001)
"""
# Whenever it is asked: how many came, over IPv4 and over IPv6, and when the last one did.
DOOR = """
import socket, sys, threading, time
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", 7000))
counts, last = [0, 0], 0.0
def listen():
    global last
    while True:
        source = s.recvfrom(1)[1][0]
        counts[not source.startswith("::ffff:")] += 1
        last = time.monotonic()
threading.Thread(target=listen, daemon=True).start()
print("bound", flush=True)
for _ in sys.stdin:
    print(*counts, last, flush=True)
"""


@dataclass(frozen=True)
class Door:
    """Where alice knocks, at bob, who lets nobody in."""

    bob: Node
    process: subprocess.Popen[str]

    def seen(self) -> tuple[int, float]:
        """How many got in so far, and when the last did (monotonic seconds)."""
        four, six, last = self._asked()
        return int(four) + int(six), float(last)

    def families_seen(self) -> tuple[bool, bool]:
        """Whether any got in over IPv4, and over IPv6."""
        four, six, _ = self._asked()
        return int(four) > 0, int(six) > 0

    def _asked(self) -> list[str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("now\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def knocks(self) -> float:
        """How often a program dropped one."""
        return self.bob.metrics().get(DROPS, 0)

    def is_knocked_at(self, before: float) -> bool:
        return self.knocks() > before + 10


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """alice knocks at bob a thousand times a second, over both families. His addresses are on lo
    too, and a source is not asked for the way back: what gets past the two layers arrives, whatever
    wg0 lacks."""
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        for address in (f"{BOB}/32", f"{BOB_6}/128"):
            bob.output("ip", "address", "add", address, "dev", "lo")
        kinds = ("all", "default")
        bob.output("sysctl", "-qw", *(f"net.ipv4.conf.{kind}.rp_filter=0" for kind in kinds))
        alice.start_agent(config(alice, bob), wait=False)
        bob.start_agent(config(bob, alice), wait=False)
        for node in (alice, bob):
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        listen = bob.command(sys.executable, "-c", DOOR)
        with running(listen) as process, running(alice.command(sys.executable, "-c", KNOCK)):
            assert process.stdout is not None and process.stdout.readline() == "bound\n"
            found = Door(bob, process)
            wait_for(partial(found.is_knocked_at, 0), 10, "somebody knocks, and is denied")
            yield found


def require_that_it_can_be_seen(door: Door) -> None:
    """The control: let in, they come, over both families."""
    before, _ = door.seen()
    door.bob.zt("set", "authz-mode", "observe")
    wait_for(lambda: door.seen()[0] > before, 10, "what is let in is seen")
    wait_for(lambda: door.families_seen() == (True, True), 10, "over both families")


def has_repaired(node: Node, what: str, times: int) -> bool:
    return node.metrics().get(REPAIRED % what) == times


@pytest.mark.parametrize(
    ("damage", "what"),
    [(break_clsact, "programs"), (flush_nftables, "belt"), (delete_interface, "interface")],
)
def test_whatever_of_it_is_taken_away_nothing_leaks_inward(
    door: Door, damage: Callable[[Node], None], what: str
) -> None:
    for times in (1, 2, 3):
        damage(door.bob)
        wait_for(partial(is_whole, door.bob), 10, "repair")
        wait_for(partial(has_repaired, door.bob, what, times), 5, "the count")
        wait_for(partial(door.is_knocked_at, door.knocks()), 10, "the tunnel stands, and denies")
    assert door.seen() == (0, 0.0)
    require_that_it_can_be_seen(door)


def make_anew(bob: Node) -> None:
    """wg0, deleted and made again by somebody who knows its key: peers and all, but no programs."""
    told = bob.directory / "wg0.conf"
    told.write_text(bob.output("wg", "showconf", "wg0"))
    delete_interface(bob)
    if bob.run("ip", "link", "add", "wg0", "type", "wireguard").returncode:
        wait_for(lambda: bob.run("wireguard-go", "wg0").returncode == 0, 5, "wireguard-go")
    bob.output("wg", "setconf", "wg0", str(told))
    bob.output("ip", "link", "set", "wg0", "up")


def belt_drops(bob: Node) -> int:
    """What the rule itself says: the agent may stand still."""
    found = re.search(r"counter packets (\d+)", bob.output("nft", "list", "table inet zt_wg0"))
    assert found is not None
    return int(found[1])


def test_an_interface_that_somebody_else_makes_anew_lets_nothing_in_before_the_agent_sees_it(
    door: Door,
) -> None:
    bob = door.bob
    with bob.agent_held():
        make_anew(bob)
        wait_for(lambda: belt_drops(bob) > 100, 15, "they come through the tunnel, to the belt")
        assert door.seen() == (0, 0.0)
    wait_for(partial(is_whole, bob), 10, "repair")
    wait_for(partial(has_repaired, bob, "interface", 1), 5, "the count")
    wait_for(partial(door.is_knocked_at, door.knocks()), 10, "the tunnel stands, and denies")
    assert bob.metrics()["zt_belt_drops_total"] > 100
    assert door.seen() == (0, 0.0)
    require_that_it_can_be_seen(door)


def take_both_away(bob: Node) -> None:
    bob.output("sh", "-c", "tc qdisc del dev wg0 clsact & nft flush ruleset; wait")


def test_both_layers_taken_away_at_once_are_back_within_a_second_and_nothing_leaks_after_that(
    door: Door,
) -> None:
    bob = door.bob
    began = time.monotonic()
    take_both_away(bob)
    wait_for(partial(is_whole, bob), 10, "repair")
    wait_for(partial(door.is_knocked_at, door.knocks()), 10, "they knock, and are denied")
    count, last = door.seen()
    print(f"{count} got in, the last {max(0.0, last - began):.3f} s after it began")
    assert last < began + scaled(REPAIR_S)
    for what in ("programs", "belt"):
        wait_for(partial(has_repaired, bob, what, 1), 5, "the count")

    with bob.agent_held():  # control: there is no third layer, it is the repair that closes it
        take_both_away(bob)
        wait_for(lambda: door.seen()[0] > count + 100, 10, "what nobody repairs leaks")
        released = time.monotonic()
    wait_for(partial(is_whole, bob), 10, "repair")
    wait_for(partial(door.is_knocked_at, door.knocks()), 10, "they knock, and are denied")
    assert released < door.seen()[1] < released + scaled(REPAIR_S)
