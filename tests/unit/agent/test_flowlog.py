"""The account of log events: whatever happens to them, the terms add up."""

from __future__ import annotations

import struct
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.events import Naming
from agent.flowlog import Emitted, EventBuffer, FlowLog, Observer, Reading
from agent.ledger import Ledger, LogCounts
from tests.unit.agent.chunks import NAMING, chunk, of_bodies
from ztlab.errors import Unreachable
from ztlab.model import logbatch
from ztlab.model.logbatch import MAX_EVENTS, SIZE


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


def events_in(batch: bytes) -> int:
    return logbatch.unpack(batch)[0].count


class Ring:
    """A kernel's ring of bounded size, with its two counters; it outlives an agent."""

    def __init__(self, size: int = 1000) -> None:
        self.size, self.waiting, self.emitted, self.ring_full = size, 0, 0, 0
        self.consumed = 0
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
            self.consumed += good + bad
            self.undecodable -= bad
        if not good and not bad:
            time.sleep(min(timeout_ms, 5) / 1000)
        return Reading(chunks=[chunk(good)] if good else [], undecodable=bad)

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
        self.account = 0
        self.load_programs()
        self.start()

    def load_programs(self) -> None:
        self.ring = Ring(size=50)
        self.account += 1

    def start(self) -> None:
        self.ledger = Ledger(self.path)
        self.ledger.begin(account=self.account, consumed=self.ring.consumed)
        self.buffer = EventBuffer(
            self.ledger, capacity=40 * SIZE, flush_at=10 * SIZE, flush_after_s=3600
        )
        self.pushing = 0

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
        for part in reading.chunks:
            self.buffer.add(part)

    @rule(count=st.integers(1, 30))
    def records_are_made_of_flows(self, count: int) -> None:
        before = self.counts()
        self.ledger.make(count)
        assert self.counts().in_flight == before.in_flight + count
        self.buffer.add(chunk(count))

    @rule(count=st.integers(1, 30))
    def the_agent_is_killed_between_booking_records_and_handing_them_on(self, count: int) -> None:
        before = self.counts()
        self.ledger.make(count)
        held = self.buffer.held
        self.ledger.close()
        self.start()
        now = self.counts()
        assert now.agent_died == before.agent_died + held + count
        assert now.flow_records == before.flow_records + count

    @rule()
    def a_batch_is_taken(self) -> None:
        if not self.pushing:
            self.pushing = len(self.buffer.take(0) or ())

    @rule(data=st.data())
    def the_batch_is_settled_as_a_whole_or_in_part(self, data: st.DataObject) -> None:
        if self.pushing:
            before, taken = self.counts(), data.draw(st.integers(0, self.pushing))
            self.buffer.settle(delivered=taken)
            now = self.counts()
            assert now.delivered == before.delivered + taken
            assert now.push_failed == before.push_failed + self.pushing - taken
            self.pushing = 0

    @rule(count=st.integers(0, 70))
    def the_agent_is_killed_and_starts_again(self, count: int) -> None:
        held, before = self.buffer.held, self.counts()
        self.ledger.close()
        self.ring.emit(count)  # nobody is there
        self.start()
        now = self.counts()
        assert now.agent_died == before.agent_died + held
        assert now.in_flight == self.ring.waiting

    @rule(was_told=st.booleans())
    def the_programs_are_loaded_anew(self, was_told: bool) -> None:
        """What nobody was told of since the last reading is not known at all any more."""
        before = self.counts() if was_told else self.ledger._counts
        self.ledger.close()
        self.load_programs()
        self.start()
        assert self.counts().agent_died == before.agent_died + before.in_flight

    @rule()
    def the_file_is_lost_and_the_programs_are_not(self) -> None:
        self.ledger.close()
        self.path.unlink()
        self.start()
        self.before = LogCounts()
        assert self.counts().emitted == self.ring.emitted
        assert self.counts().agent_died == self.ring.consumed

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
    sweep: Any = lambda room: (),
) -> FlowLog:
    ledger = Ledger(directory / "counts")
    ledger.begin(account=1, consumed=0)
    buffer = EventBuffer(
        ledger, capacity=capacity * SIZE, flush_at=flush_at * SIZE, flush_after_s=flush_after_s
    )
    log = FlowLog(
        ledger,
        buffer,
        read=ring.read,
        emitted=ring.counters,
        push=push and of_bodies(push),
        is_ready=is_ready,
        sweep=sweep,
        sweep_s=0.01,
    )
    log.start()
    return log


def test_events_are_delivered_and_freed(tmp_path: Path) -> None:
    batches: list[int] = []
    ids: set[str] = set()

    def push(batch: bytes) -> None:
        head, _ = logbatch.unpack(batch)
        ids.add(head.batch_id)
        batches.append(head.count)

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
    def push(_: bytes) -> None:
        raise Unreachable("gone")

    ring = Ring()
    log = flowlog(ring, tmp_path, push)
    ring.emit(25)
    wait_for(lambda: log.counts().push_failed == 25)
    log.stop()
    assert log.counts().in_flight == 0


def test_a_push_that_hangs_fills_the_buffer_and_never_the_consumer(tmp_path: Path) -> None:
    release = threading.Event()

    def push(_: bytes) -> None:
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
        ring, tmp_path, lambda batch: pushed.append(events_in(batch)), is_ready=ready.is_set
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
        lambda batch: pushed.append(events_in(batch)),
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
    assert [observer.next(2) for _ in range(3)] == list(chunk(3).documents())
    wait_for(lambda: log.counts().delivered == 3)
    log.unsubscribe(observer)
    ring.emit(2)
    wait_for(lambda: log.counts().delivered == 5)
    assert observer.next(0.01) is None
    log.stop()


def test_a_slow_observer_loses_events_and_is_told_how_many() -> None:
    observer = Observer()
    for _ in range(50):
        observer.offer(chunk(100))
    assert observer.lost == 5000 - 4096
    found = 0
    while observer.next(0) is not None:
        found += 1
    assert found == 4096
    observer.offer(chunk(1))
    assert observer.next(0) is not None and observer.lost == 5000 - 4096


def test_a_batch_is_due_by_fill_or_by_age_and_never_larger_than_the_protocol_allows(
    tmp_path: Path,
) -> None:
    now = [0.0]
    ledger = Ledger(tmp_path / "counts")
    buffer = EventBuffer(
        ledger,
        capacity=20_000 * SIZE,
        flush_at=100 * SIZE,
        flush_after_s=1.0,
        clock=lambda: now[0],
    )
    buffer.add(chunk(99))
    assert buffer.take(0) is None
    now[0] = 1.0
    assert sizes_of(buffer) == [99]
    buffer.add(chunk(7000))
    buffer.add(chunk(5000))
    assert sizes_of(buffer) == [MAX_EVENTS, MAX_EVENTS, 2000]


def sizes_of(buffer: EventBuffer) -> list[int]:
    """Of the batches that are due."""
    sizes = []
    while (batch := buffer.take(0)) is not None:
        sizes.append(len(batch))
        buffer.settle(delivered=len(batch))
    return sizes


def test_a_batch_has_one_set_of_names(tmp_path: Path) -> None:
    other = Naming(1, NAMING.names, NAMING.rules)
    buffer = EventBuffer(
        Ledger(tmp_path / "counts"), capacity=100 * SIZE, flush_at=SIZE, flush_after_s=1.0
    )
    for naming in (NAMING, NAMING, other, NAMING):
        buffer.add(chunk(2, naming))
    assert sizes_of(buffer) == [4, 2, 2]


def test_the_buffer_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        part = chunk(10)
        buffer = EventBuffer(
            Ledger(tmp_path / "counts"), capacity=2**20, flush_at=2**20, flush_after_s=3600
        )
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10_000):  # nine times what it may hold
            buffer.add(part)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert buffer.held == 2**20 // SIZE
    assert now - before < 1.2 * 2**20


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"short"])
def test_a_file_that_is_no_account_begins_a_new_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "counts"
    path.write_bytes(content)
    ledger = Ledger(path)
    ledger.begin(account=1, consumed=0)
    assert ledger.update(lambda: (0, 0)) == LogCounts()
    ledger.close()


def test_an_account_without_flow_records_goes_on(tmp_path: Path) -> None:
    """As an agent left it that made none: shorter, and with another mark."""
    path = tmp_path / "counts"
    terms, base = (100, 10, 0, 5, 4, 1, 50), (7, 0, 0, 0)
    path.write_bytes(struct.pack("=12Q", 0x7A746C6F67000002, *terms, *base))
    ledger = Ledger(path)
    ledger.begin(account=7, consumed=80)
    counts = ledger.update(lambda: (100, 10))
    assert (counts.delivered, counts.flow_records) == (50, 0)
    assert counts.agent_died == 1 + 80 - 60  # taken out, and not settled
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
