"""A policy of thousands of entries becomes another in one step: no packet meets a mixture of them.

Another thread asks again and again for the verdict on a set of packets, each of which exactly one
of the two policies lets through, and reads the epoch before and after: where it is the same, all
verdicts must be those of the one policy that began with it.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import pytest

from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import Node
from tests.kernel.device import until
from tests.unit.agent.datapath.configs import node_config, rule
from ztlab.model.verdict import Hook

pytestmark = [pytest.mark.root, pytest.mark.bpf]

SWITCHES = 12
EVEN, ODD = tuple(range(2000, 10_000, 2)), tuple(range(2001, 10_000, 2))
SOURCE_PORT = {4: 20, 6: 40}  # where it lies in a packet, by the IP version
# The same keys with the other action, keys that only one has, pairs that hold their one entry
# themselves, and another default: whatever of it came first would show.
FIRST = node_config(
    rule("even", "web", "api", "allow", proto="tcp", ports=EVEN),
    rule("dns", "guest", "api", "allow", proto="udp", ports=(53,)),
    default="deny",
)
SECOND = node_config(
    rule("even", "web", "api", "deny", proto="tcp", ports=EVEN),
    rule("odd", "web", "api", "allow", proto="tcp", ports=ODD),
    rule("dns", "guest", "api", "deny", proto="udp", ports=(53,)),
    rule("lan", "lan", "api", "allow", proto="udp", ports=(123,)),
    default="allow",
)
# Each packet, and whether it is the first policy that lets it through.
PROBES = [
    *((bytes(p.tcp(p.WEB, p.API, 1, port)), port % 2 == 0) for port in (2000, 5999, 6000, 9999)),
    *((bytes(p.tcp(p.WEB6, p.API6, 1, port)), port % 2 == 0) for port in (9998, 2001)),
    (bytes(p.tcp(p.WEB, p.API, 1, 80)), False),
    (bytes(p.udp(p.GUEST, p.API, 1, 53)), True),
    (bytes(p.udp(p.GUEST, p.API, 1, 54)), False),
    (bytes(p.udp(p.LAN_HOST, p.API, 1, 123)), False),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """One time round the packets.

    before, after  the epoch
    is_first       of each packet: is this the verdict of the first policy, not of the second?
    """

    began_at: float
    ended_at: float
    before: int
    after: int
    is_first: tuple[bool, ...]

    @property
    def policies(self) -> list[bool]:
        """The first policy or not, in the order in which they were met."""
        return [which for which, _ in groupby(self.is_first)]


@contextmanager
def watched(datapath: Datapath) -> Iterator[list[Lap]]:
    """The laps of another thread while the block runs."""
    laps: list[Lap] = []
    stop = threading.Event()

    def lap(source_port: int) -> Lap:
        began_at, before = time.monotonic(), datapath.epoch
        is_first = tuple(
            (testrun.run(datapath.programs[Hook.INGRESS], frame).retval == testrun.PASSED) == first
            for frame, first in ((_from(source_port, packet), first) for packet, first in PROBES)
        )
        after = datapath.epoch
        return Lap(
            began_at=began_at,
            ended_at=time.monotonic(),
            before=before,
            after=after,
            is_first=is_first,
        )

    def watch() -> None:
        while not stop.is_set():
            # In turn a flow that is known, whose entry is judged anew, and one that is not.
            known = len(laps) % 2 == 0
            laps.append(lap(1 if known else 1024 + len(laps) % 60_000))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield laps
    finally:
        stop.set()
        watcher.join()


def _from(port: int, packet: bytes) -> bytes:
    at = SOURCE_PORT[packet[0] >> 4]
    return packet[:at] + struct.pack("!H", port) + packet[at + 2 :]


def two_more(laps: Sequence[Lap]) -> None:
    """Wait until the watcher has gone round twice."""
    wanted = len(laps) + 2
    until(lambda: len(laps) >= wanted, "two laps")


def test_a_set_of_packets_meets_the_old_policy_or_the_new_one_and_never_a_mixture(
    node: Node,
) -> None:
    datapath = node.datapath
    datapath.set_logging(False)
    node.configure(SECOND)
    states = [desired_state(FIRST), desired_state(SECOND)]
    assert [len(state.policy) for state in states] == [4001, 8002]
    is_first = {datapath.epoch: False}
    applied: list[tuple[float, float]] = []
    with watched(datapath) as laps:
        for turn in range(SWITCHES):
            began = time.monotonic()
            assert datapath.apply_policy(states[turn % 2])
            applied.append((began, time.monotonic()))
            is_first[datapath.epoch] = turn % 2 == 0
            two_more(laps)
    for lap in laps:
        if lap.before == lap.after:
            assert lap.policies == [is_first[lap.before]], lap
        else:
            both = [is_first[lap.before], is_first[lap.after]]
            assert lap.after == lap.before + 1 and lap.policies in (both, both[:1], both[1:]), lap
    meanwhile = [sum(b <= lap.began_at and lap.ended_at <= e for lap in laps) for b, e in applied]
    print(f"laps during each change: {meanwhile}; across a switch: {across(laps)}")
    assert sum(n > 2 for n in meanwhile) > SWITCHES / 2


def across(laps: list[Lap]) -> int:
    """How many of LAPS met both policies."""
    return sum(len(lap.policies) == 2 for lap in laps)
