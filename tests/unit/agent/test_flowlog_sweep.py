"""Records of flows on their way through the log: booked first, bounded, and never in the way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from agent.events import Chunk
from agent.flowlog import EventBuffer, FlowLog
from agent.ledger import Ledger, LogCounts
from tests.unit.agent.chunks import chunk
from tests.unit.agent.test_flowlog import Ring, events_in, flowlog, wait_for
from ztlab.model.logbatch import SIZE


def test_what_the_sweeper_makes_is_delivered_like_what_the_kernel_wrote(tmp_path: Path) -> None:
    pushed: list[int] = []
    passes = iter([[chunk(3), chunk(4)], [], [chunk(5)]])
    ring = Ring()
    log = flowlog(
        ring,
        tmp_path,
        lambda batch: pushed.append(events_in(batch)),
        sweep=lambda room: next(passes, ()),
    )
    ring.emit(10)
    wait_for(lambda: log.counts().delivered == 22)
    log.stop()
    assert sum(pushed) == 22
    assert log.counts() == LogCounts(emitted=22, delivered=22, flow_records=12)


def test_a_record_of_a_flow_is_booked_before_it_can_be_anywhere(tmp_path: Path) -> None:
    """Else a kill would leave it delivered, and never emitted."""
    booked: list[int] = []
    ledger = Ledger(tmp_path / "counts")
    ledger.begin(account=1, consumed=0)

    class Watched(EventBuffer):
        def add(self, chunk: Chunk) -> None:
            booked.append(ledger.update(lambda: (0, 0)).in_flight - self.held)
            super().add(chunk)

    passes = iter([[chunk(3), chunk(4)]])
    log = FlowLog(
        ledger,
        Watched(ledger, capacity=100 * SIZE, flush_at=SIZE, flush_after_s=1.0),
        read=Ring().read,
        emitted=Ring().counters,
        push=len,
        is_ready=lambda: True,
        sweep=lambda room: next(passes, ()),
        sweep_s=0.01,
    )
    log.start()
    wait_for(lambda: log.counts().delivered == 7)
    log.stop()
    assert booked == [3, 4]


def test_a_sweep_that_fails_is_tried_again(tmp_path: Path) -> None:
    passes = iter([OSError("no map"), [chunk(2)]])

    def sweep(_: Any) -> Any:
        found = next(passes, ())
        if isinstance(found, OSError):
            raise found
        return found

    log = flowlog(Ring(), tmp_path, lambda _: None, sweep=sweep)
    wait_for(lambda: log.counts().delivered == 2)
    log.stop()


def test_records_of_flows_leave_half_of_the_buffer_to_events_that_cannot_wait(
    tmp_path: Path,
) -> None:
    release, rooms = threading.Event(), []

    def push(_: bytes) -> None:
        release.wait(5)

    def sweep(room: Any) -> Any:
        while not release.is_set() and (count := room()) > 0:
            rooms.append(count)
            yield chunk(min(count, 7))

    ring = Ring()
    log = flowlog(ring, tmp_path, push, capacity=40, sweep=sweep)
    wait_for(lambda: log.counts().in_flight == 20)
    ring.emit(20)
    wait_for(lambda: log.counts().in_flight == 40 and ring.waiting == 0)
    assert log.counts().buffer_full == 0 and rooms == [20, 13, 6]
    release.set()
    wait_for(lambda: log.counts().delivered >= 40)
    log.stop()
