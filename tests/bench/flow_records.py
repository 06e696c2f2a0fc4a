"""What a pass over a full flow table costs the agent, and how long its other threads wait for it.

    .venv/bin/python -m tests.bench.flow_records

Root. The table is the programs' own, with as many flows as are sure not to push each other out of
it (an LRU map forgets some before it is full), half of them TCP, over 50 rules.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Mapping
from itertools import islice

from agent import abi
from agent.abi import Flow, FlowKey, Origin
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.sweep import FlowSweep, KernelFlows
from tests.bench import report
from ztlab.model.logbatch import SIZE
from ztlab.model.verdict import Verdict

FLOWS, SOME, ROUNDS = 60_000, 4_000, 10
PASS_BAR_MS = 100.0


def main() -> None:
    """Measure, print, publish."""
    datapath = Datapath.load(
        marks=MarkLayout.from_mask(0xFF002000), limits=Limits(), l3_offset=0, loader="libbpf"
    )
    try:
        quiet, some, every, lateness = rounds_of(datapath)
    finally:
        datapath.close()
    report.publish(
        "flow_records",
        [
            report.at_most(f"a pass over {FLOWS:,} flows, none changed", quiet, "ms", PASS_BAR_MS),
            report.at_most(f"{SOME:,} of them changed both ways", some, "ms", PASS_BAR_MS),
            report.at_most("all of them changed both ways", every, "ms", PASS_BAR_MS),
            report.beside("another thread is late by, at most, in such a pass", lateness, "ms"),
        ],
    )


def rounds_of(datapath: Datapath) -> tuple[list[float], ...]:
    """CPU time of passes, and the lateness of another thread."""
    sweep = FlowSweep(KernelFlows(datapath.flows))
    figures: tuple[list[float], ...] = ([], [], [], [])
    datapath.flows.put(flows(2))
    assert datapath.flows.count() == FLOWS, "flows pushed each other out"
    one_pass(sweep, 2 * FLOWS)
    for i in range(ROUNDS):
        figures[0].append(one_pass(sweep, 0))
        datapath.flows.put(dict(islice(flows(3 + 2 * i).items(), SOME)))
        figures[1].append(one_pass(sweep, 2 * SOME))
        datapath.flows.put(flows(4 + 2 * i))
        with Clock() as clock:
            figures[2].append(one_pass(sweep, 2 * FLOWS))
        figures[3].append(clock.late_ms)
    return figures


def one_pass(sweep: FlowSweep, wanted: int) -> float:
    """Milliseconds of CPU time of a pass that must tell as much as WANTED."""
    begin = time.thread_time()
    told = sum(len(part) for part in sweep.records(lambda: sys.maxsize)) // SIZE
    spent = time.thread_time() - begin
    assert told == wanted, f"{told} records instead of {wanted}"
    return spent * 1e3


def flows(packets: int) -> Mapping[bytes, bytes]:
    """Entries of the table, each with so many PACKETS each way."""
    made = {}
    now_ns = time.monotonic_ns()
    for i in range(FLOWS):
        low = (ctypes.c_uint8 * 16)(10, *i.to_bytes(3, "big"))
        protocol = 6 if i % 2 else 17
        key = FlowKey(low=low, high=low, high_port=443, family=4, protocol=protocol)
        judged = 7 << abi.JUDGED_EPOCH_SHIFT | (1 + i % 50) << abi.JUDGED_RULE_SHIFT
        made[bytes(key)] = bytes(
            Flow(
                created_ns=1 + i,
                last_ns=now_ns,
                judged=judged | Verdict.ALLOWED,
                packets=(packets, packets),
                bytes=(100 * packets, 1000 * packets),
                origin=Origin.TUNNEL,
                flags=i & 1,
            )
        )
    return made


class Clock:
    """A thread that wants to run each millisecond, as long as the block lasts."""

    def __enter__(self) -> Clock:
        self.late_ms = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick)
        self._thread.start()
        return self

    def _tick(self) -> None:
        while not self._stop.is_set():
            begin = time.perf_counter()
            time.sleep(0.001)
            self.late_ms = max(self.late_ms, (time.perf_counter() - begin) * 1e3 - 1)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    main()
