"""How long a policy of 100,000 entries takes to be in force, and that no packet meets a mixture.

    .venv/bin/python -m tests.bench.policy

Root. Two policies in turns, which share no entry. Meanwhile another thread asks for the verdict on
three packets again and again: one that both policies allow, one that only the first does, and one
that only the second does.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from itertools import groupby

from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.state import DatapathState
from tests.bench import report
from tests.bench.generator import ACK, Tuple, tcp_packet
from tests.bench.workload import Workload, address, workload
from tests.kernel import testrun
from ztlab.model.policy import Policy, Rule
from ztlab.model.verdict import Hook

ENTRIES = 100_000
SWITCHES = 10
WATCHED = 4
AT_MOST_S = 1.0
_COMMON, _OLD, _NEW = 60_001, 60_002, 60_003  # destination ports


def main() -> None:
    """Measure and publish."""
    load = workload(ENTRIES - 2)
    other = workload(ENTRIES - 2, seed=2)
    compiling: list[float] = []
    states = (
        _state(_with(load, _OLD), load.limits, compiling),
        _state(_with(other, _NEW), load.limits, compiling),
    )
    datapath = Datapath.load(
        marks=MarkLayout.from_mask(0xFF002000),
        limits=Limits(ids=16_384, policy=ENTRIES, pairs=ENTRIES, rules=ENTRIES),
        l3_offset=testrun.ETHERNET,
        loader="libbpf",
    )
    try:
        applying, watches = _switched(datapath, states)
    finally:
        datapath.close()
    report.publish(
        "policy",
        [
            report.at_most("100,000 entries applied", applying, "s", AT_MOST_S),
            report.claim(
                f"old or new, never a mixture ({sum(len(w.seen) for w in watches):,} verdicts "
                f"during {WATCHED} switches)",
                holds=all(watch.is_one_switch() for watch in watches),
            ),
            report.beside("compiled from the rules, before", compiling, "s"),
        ],
    )


def _with(load: Workload, port: int) -> Policy:
    """LOAD's policy, two rules longer: the last of them is the one that all have in common."""
    policy = load.config.policy
    assert policy is not None
    more = tuple(
        Rule(id=f"p{n}", source="i0", destination="i1", proto="tcp", ports=(n,), action="allow")
        for n in (port, _COMMON)
    )
    return replace(policy, rules=policy.rules + more)


def _state(policy: Policy, limits: Limits, took: list[float]) -> DatapathState:
    config = replace(workload(1).config, policy=policy)
    wide = replace(limits, policy=ENTRIES, pairs=ENTRIES, rules=ENTRIES)
    begin = time.perf_counter()
    state = desired_state(config, limits=wide)
    took.append(time.perf_counter() - begin)
    assert len(state.policy) == ENTRIES
    return state


def _switched(
    datapath: Datapath, states: tuple[DatapathState, DatapathState]
) -> tuple[list[float], list[_Watch]]:
    """Seconds of each switch, and what packets met in as many others: asking costs time too."""
    first, second = states
    datapath.apply_policy(first)
    datapath.put_identities(first)
    datapath.apply_policy(second)  # every later switch has as much to delete as to write
    took, watches = [], []
    for turn in range(SWITCHES):
        begin = time.perf_counter()
        datapath.apply_policy(states[turn % 2])
        took.append(time.perf_counter() - begin)
    for turn in range(WATCHED):
        old, new = (_NEW, _OLD) if turn % 2 == 0 else (_OLD, _NEW)
        with _Watch(datapath.programs[Hook.INGRESS], old, new) as watch:
            datapath.apply_policy(states[turn % 2])
        watches.append(watch)
    return took, watches


@dataclass
class _Watch:
    """Asks for verdicts while the block runs.

    seen  (destination port, did it pass), in order
    """

    program: int
    old: int
    new: int
    seen: list[tuple[int, bool]] = field(default_factory=list)

    def __enter__(self) -> _Watch:
        self._stop, self._asked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        assert self._asked.wait(10)
        return self

    def __exit__(self, *raised: object) -> None:
        for _ in range(2):  # the first lap that ends now may have begun before the switch
            self._asked.clear()
            assert self._asked.wait(10)
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        packets = {
            port: tcp_packet(Tuple(address(0), address(1), 40_000, port), ACK)
            for port in (_COMMON, self.old, self.new)
        }
        while not self._stop.is_set():
            for port, packet in packets.items():
                passed = testrun.run(self.program, packet).retval == testrun.PASSED
                self.seen.append((port, passed))
            self._asked.set()

    def is_one_switch(self) -> bool:
        """Was each verdict the old policy's up to one moment, and the new one's after it?"""
        if not all(passed for port, passed in self.seen if port == _COMMON):
            return False
        is_new = [passed == (port == self.new) for port, passed in self.seen if port != _COMMON]
        return [new for new, _ in groupby(is_new)] == [False, True]


if __name__ == "__main__":
    main()
