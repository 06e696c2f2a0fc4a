"""The account of log events: whatever happens to them, the terms add up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.flowlog import BATCH_EVENTS, Emitted, EventBuffer, FlowLog, Observer, Reading, Record
from agent.ledger import Ledger, LogCounts
from ztlab.errors import Unreachable

RECORD: Record = {"verdict": "no_rule"}


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


class Ring:
    """A kernel's ring of bounded size, with its two counters."""

    def __init__(self, size: int = 1000) -> None:
        self.size, self.waiting, self.emitted, self.ring_full = size, 0, 0, 0
        self.undecodable = 0
        self.lock = threading.Lock()

    def emit(self, count: int) -> None:
        with self.lock:
            fits = min(count, self.size - self.waiting)
            self.emitted += count
            self.ring_full += count - fits
            self.waiting += fits

    def read(self, timeout_ms: int) -> Reading:
        with self.lock:
            bad = min(self.undecodable, self.waiting)
            good, self.waiting = self.waiting - bad, 0
            self.undecodable -= bad
        if not good and not bad:
            time.sleep(min(timeout_ms, 5) / 1000)
        return Reading(records=[RECORD] * good, undecodable=bad)

    def counters(self) -> Emitted:
        with self.lock:
            return Emitted(emitted=self.emitted, ring_full=self.ring_full)


class Account(RuleBasedStateMachine):
    """Consumer and buffer step by step, against a ring that is emptied by hand."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "counts"
        self.before = LogCounts()
        self.start()

    def start(self) -> None:
        self.ring = Ring(size=50)
        self.ledger = Ledger(self.path)
        self.buffer = EventBuffer(self.ledger, capacity=40, flush_at=10, flush_after_s=3600)
        self.pushing = False

    def teardown(self) -> None:
        self.ledger.close()
        self.directory.cleanup()

    def counts(self) -> LogCounts:
        return self.ledger.update(lambda: (self.ring.emitted, self.ring.ring_full))

    @rule(count=st.integers(1, 70), bad=st.integers(0, 5))
    def packets_are_logged(self, count: int, bad: int) -> None:
        self.ring.emit(count)
        self.ring.undecodable = bad

    @rule()
    def the_consumer_reads(self) -> None:
        reading = self.ring.read(0)
        self.ledger.count(undecodable=reading.undecodable)
        self.buffer.add(reading.records)

    @rule()
    def a_batch_is_taken(self) -> None:
        if not self.pushing:
            self.pushing = bool(self.buffer.take(0))

    @rule(delivered=st.booleans())
    def the_batch_is_settled(self, delivered: bool) -> None:
        if self.pushing:
            self.buffer.settle(delivered=delivered)
            self.pushing = False

    @rule()
    def the_agent_is_killed_and_starts_again(self) -> None:
        self.counts()  # as the consumer does after each reading
        in_flight = self.ring.waiting + self.buffer.held
        died = self.counts().agent_died
        self.ledger.close()
        self.start()
        assert self.counts().agent_died == died + in_flight

    @invariant()
    def in_flight_is_what_lies_in_ring_and_buffer(self) -> None:
        counts = self.counts()
        assert counts.in_flight == self.ring.waiting + self.buffer.held
        assert counts.emitted == counts.settled + counts.in_flight

    @invariant()
    def counters_only_rise(self) -> None:
        counts = self.counts()
        for name in LogCounts.__slots__:
            assert getattr(counts, name) >= getattr(self.before, name), name
        self.before = counts

    @invariant()
    def the_buffer_keeps_its_bound(self) -> None:
        assert self.buffer.held <= 40


TestAccount = Account.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def flowlog(
    ring: Ring,
    directory: Path,
    push: Any,
    *,
    capacity: int = 1000,
    flush_at: int = 10,
    flush_after_s: float = 0.02,
    is_ready: Any = lambda: True,
) -> FlowLog:
    ledger = Ledger(directory / "counts")
    buffer = EventBuffer(ledger, capacity=capacity, flush_at=flush_at, flush_after_s=flush_after_s)
    log = FlowLog(
        ledger, buffer, read=ring.read, emitted=ring.counters, push=push, is_ready=is_ready
    )
    log.start()
    return log


def test_events_are_delivered_and_freed(tmp_path: Path) -> None:
    batches: list[int] = []
    ids: set[str] = set()

    def push(batch_id: str, events: Sequence[Record]) -> None:
        ids.add(batch_id)
        batches.append(len(events))

    ring = Ring()
    log = flowlog(ring, tmp_path, push)
    for _ in range(20):
        ring.emit(7)
        time.sleep(0.001)
    wait_for(lambda: log.counts().delivered == 140)
    log.stop()

    assert sum(batches) == 140
    assert len(ids) == len(batches)
    assert log.counts().in_flight == 0


def test_a_failed_push_drops_its_batch_and_only_counts_it(tmp_path: Path) -> None:
    def push(_id: str, _events: Sequence[Record]) -> None:
        raise Unreachable("gone")

    ring = Ring()
    log = flowlog(ring, tmp_path, push)
    ring.emit(25)
    wait_for(lambda: log.counts().push_failed == 25)
    log.stop()
    assert log.counts().in_flight == 0


def test_a_push_that_hangs_fills_the_buffer_and_never_the_consumer(tmp_path: Path) -> None:
    release = threading.Event()

    def push(_id: str, _events: Sequence[Record]) -> None:
        release.wait(5)

    ring = Ring()
    log = flowlog(ring, tmp_path, push, capacity=30)
    for _ in range(10):
        ring.emit(10)
        wait_for(lambda: ring.waiting == 0)
    wait_for(lambda: log.counts().buffer_full == 70)
    assert log.counts().in_flight == 30
    release.set()
    wait_for(lambda: log.counts().delivered == 30)
    log.stop()
    assert log.counts().in_flight == 0


def test_nothing_is_pushed_before_there_is_anybody_to_push_to(tmp_path: Path) -> None:
    ready = threading.Event()
    pushed: list[int] = []
    ring = Ring()
    log = flowlog(
        ring, tmp_path, lambda _id, events: pushed.append(len(events)), is_ready=ready.is_set
    )
    ring.emit(25)
    wait_for(lambda: ring.waiting == 0)
    assert not pushed and log.counts().in_flight == 25
    ready.set()
    wait_for(lambda: sum(pushed) == 25)
    log.stop()


def test_stopping_delivers_what_was_still_waiting(tmp_path: Path) -> None:
    pushed: list[int] = []
    ring = Ring()
    log = flowlog(
        ring,
        tmp_path,
        lambda _id, events: pushed.append(len(events)),
        flush_at=1000,
        flush_after_s=3600,
    )
    ring.emit(5)
    log.stop()
    assert sum(pushed) == 5
    assert log.counts().in_flight == 0


def test_without_a_coordinator_an_event_is_delivered_once_observers_had_it(tmp_path: Path) -> None:
    ring = Ring()
    log = flowlog(ring, tmp_path, None)
    observer = log.subscribe()
    ring.emit(3)
    assert [observer.next(2) for _ in range(3)] == [RECORD] * 3
    wait_for(lambda: log.counts().delivered == 3)
    log.unsubscribe(observer)
    ring.emit(2)
    wait_for(lambda: log.counts().delivered == 5)
    assert observer.next(0.01) is None
    log.stop()


def test_a_slow_observer_loses_events_and_is_told_how_many() -> None:
    observer = Observer()
    for _ in range(5000):
        observer.offer(RECORD)
    assert observer.lost == 5000 - 4096
    assert observer.next(0) == RECORD


def test_a_batch_is_due_by_fill_or_by_age_and_never_larger_than_the_protocol_allows(
    tmp_path: Path,
) -> None:
    now = [0.0]
    ledger = Ledger(tmp_path / "counts")
    buffer = EventBuffer(
        ledger, capacity=20_000, flush_at=100, flush_after_s=1.0, clock=lambda: now[0]
    )
    buffer.add([RECORD] * 99)
    assert buffer.take(0) == []
    now[0] = 1.0
    assert len(buffer.take(0)) == 99
    buffer.settle(delivered=True)
    buffer.add([RECORD] * 12_000)
    sizes = []
    for _ in range(3):
        sizes.append(len(buffer.take(0)))
        buffer.settle(delivered=True)
    assert sizes == [BATCH_EVENTS, BATCH_EVENTS, 2000]


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"short"])
def test_a_file_that_is_no_account_begins_a_new_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "counts"
    path.write_bytes(content)
    ledger = Ledger(path)
    assert ledger.update(lambda: (0, 0)) == LogCounts()
    ledger.close()


@given(st.lists(st.integers(0, 2**32), min_size=6, max_size=6))
def test_the_terms_of_the_account_add_up(values: list[int]) -> None:
    counts = LogCounts(
        emitted=sum(values) + 7,
        ring_full=values[0],
        undecodable=values[1],
        buffer_full=values[2],
        push_failed=values[3],
        agent_died=values[4],
        delivered=values[5],
    )
    assert counts.in_flight == 7
