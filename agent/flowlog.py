"""From the ring buffer to a sink and to whoever watches, without ever holding up either.

    rings (kernel) -> consumer thread --+-> bounded buffer -> pusher thread -> sink
    flows (kernel) -> sweeper thread  --+
                                        +-> observers, each with a bounded queue of its own

Events stay packed, as the kernel wrote them, and the sweeper's are like these; only an observer has
them as documents, which it makes in its own time. Every event ends in exactly one place, and
`LogCounts` says how many in which:
emitted = ring_full + undecodable + buffer_full + push_failed + agent_died + delivered + in_flight.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.events import Chunk
from agent.ledger import Ledger, LogCounts
from ztlab.errors import ZtError
from ztlab.model.logbatch import MAX_EVENTS, SIZE

log = logging.getLogger(__name__)

Record = Mapping[str, Any]
"""One Event of docs/PROTOCOL.md."""

OBSERVER_EVENTS = 4096
READ_MS = 100
# Between two looks into the rings. Each event would wake the consumer otherwise, as long as it
# keeps up; a ring of the default size has room for 10,000 meanwhile.
PACE_S = 0.005
SWEEP_S = 10.0
FINAL_PUSH_S = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look into the rings gave: events, and how many could not be decoded."""

    chunks: Sequence[Chunk]
    undecodable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """The kernel's side of the account since its counters began."""

    emitted: int
    ring_full: int


class Observer:
    """One subscriber of the live events; a slow one loses events, and is told how many."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        self._current: Iterator[Record] = iter(())
        self._waiting = 0  # events in the queue
        self._lock = threading.Lock()
        self.lost = 0  # since it subscribed

    def offer(self, chunk: Chunk) -> None:
        """Never waits, and makes nothing of it yet."""
        with self._lock:
            room = OBSERVER_EVENTS - self._waiting
            if len(chunk) > room:
                self.lost += len(chunk) - room
                chunk = Chunk(chunk.records[: room * SIZE], chunk.naming)
            self._waiting += len(chunk)
        if len(chunk):
            self._queue.put(chunk)

    def next(self, timeout_s: float) -> Record | None:
        """The next event; None if there was none in time."""
        found = next(self._current, None)
        if found is not None:
            return found
        try:
            chunk = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        with self._lock:
            self._waiting -= len(chunk)
        self._current = chunk.documents()
        return next(self._current)


class EventBuffer:
    """The bounded buffer between consumer and pusher.

    capacity       bytes of events, those of a batch that is being pushed included; what an event
                   takes is SIZE
    flush_at       bytes of them that make a batch due
    flush_after_s  age of the oldest that makes it due
    batch_events   how many a batch has at most
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        capacity: int,
        flush_at: int,
        flush_after_s: float,
        batch_events: int = MAX_EVENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._capacity = capacity // SIZE
        self._flush_at = max(1, flush_at // SIZE)
        self._flush_after_s, self._clock = flush_after_s, clock
        self._batch_events = batch_events
        # The next batches, with the time of their first event; all but the last are complete.
        self._waiting: deque[tuple[float, Chunk]] = deque()
        self._held = 0
        self._pushing = 0
        self._changed = threading.Condition()
        self._closed = False

    def add(self, chunk: Chunk) -> None:
        """Keep CHUNK as far as there is room; the rest is dropped and counted."""
        now = self._clock()
        with self._changed:
            kept = min(len(chunk), max(0, self._capacity - self._held - self._pushing))
            start = 0
            while start < kept:
                batch = self._open_batch(chunk, now)
                end = min(kept, start + self._batch_events - len(batch))
                # Copied: a large chunk of which a part stays would stay as a whole.
                batch.records.extend(memoryview(chunk.records)[start * SIZE : end * SIZE])
                start = end
            self._held += kept
            if kept < len(chunk):
                self._ledger.count(buffer_full=len(chunk) - kept)
            if self._is_due():
                self._changed.notify()

    def _open_batch(self, chunk: Chunk, now: float) -> Chunk:
        """The batch that the next event of CHUNK goes into."""
        if self._waiting:
            last = self._waiting[-1][1]
            if last.naming is chunk.naming and len(last) < self._batch_events:
                return last
        batch = Chunk(bytearray(), chunk.naming)
        self._waiting.append((now, batch))
        return batch

    def take(self, timeout_s: float) -> Chunk | None:
        """The next batch once it is due, else None; `settle` must follow a batch."""
        with self._changed:
            if not self._is_due():
                self._changed.wait(min(timeout_s, self._due_in_s()))
            if not self._is_due():
                return None
            _, batch = self._waiting.popleft()
            self._pushing = len(batch)
            self._held -= len(batch)
            return batch

    def settle(self, *, delivered: int) -> None:
        """So many of the batch taken last were acknowledged, the others are given up; its room is
        free again."""
        with self._changed:
            count, self._pushing = self._pushing, 0
            self._ledger.count(delivered=delivered, push_failed=count - delivered)

    def close(self) -> None:
        """Everything that waits is due now."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def held(self) -> int:
        """Events in the buffer or in a batch that is being pushed."""
        with self._changed:
            return self._held + self._pushing

    @property
    def room(self) -> int:
        """How many more fit until it is half full. The rest is kept for events that cannot wait."""
        with self._changed:
            return max(0, self._capacity // 2 - self._held - self._pushing)

    def _is_due(self) -> bool:
        if not self._waiting:
            return False
        is_old = self._clock() - self._waiting[0][0] >= self._flush_after_s
        return self._closed or is_old or self._held >= self._flush_at

    def _due_in_s(self) -> float:
        if not self._waiting:
            return self._flush_after_s
        return max(0.0, self._waiting[0][0] + self._flush_after_s - self._clock())


class FlowLog:
    """The consumer, the sweeper and, where there is somebody to push to, the pusher.

    read      waits up to so many milliseconds for events
    sweep     makes records of flows, no more than it is told that there is room for but of those
              that are over; every SWEEP_S seconds
    emitted   the kernel's counters
    push      pushes one batch and says how many of its events were taken, ZtError if none was;
              None: nothing is pushed, and an event counts as delivered once it was offered to the
              observers there are
    is_ready  False as long as there is nobody to push to yet: batches then wait
    """

    def __init__(
        self,
        ledger: Ledger,
        buffer: EventBuffer,
        *,
        read: Callable[[int], Reading],
        emitted: Callable[[], Emitted],
        push: Callable[[Chunk], int] | None,
        is_ready: Callable[[], bool],
        sweep: Callable[[Callable[[], int]], Iterable[Chunk]] = lambda room: (),
        sweep_s: float = SWEEP_S,
    ) -> None:
        self._ledger, self._buffer = ledger, buffer
        self._read, self._emitted = read, emitted
        self._sweep, self._sweep_s = sweep, sweep_s
        self._push, self._is_ready = push, is_ready
        self._observers: tuple[Observer, ...] = ()
        self._observers_lock = threading.Lock()
        self._stop = threading.Event()
        self._told = ""
        self._sources = [
            threading.Thread(target=self._consume, name="flowlog", daemon=True),
            threading.Thread(target=self._go_through_flows, name="flowsweep", daemon=True),
        ]
        self._pusher = threading.Thread(target=self._pump, name="logpush", daemon=True)

    def start(self) -> None:
        """Begin to consume."""
        for thread in self._sources:
            thread.start()
        if self._push is not None:
            self._pusher.start()

    def stop(self) -> None:
        """Read the ring once more, push once more if that is quick, and end."""
        self._stop.set()
        for thread in self._sources:
            thread.join()
        self._buffer.close()
        if self._push is not None:
            self._pusher.join(FINAL_PUSH_S)
        self._ledger.update(self._emitted_total())

    def subscribe(self) -> Observer:
        """A new observer, from the next event on."""
        observer = Observer()
        with self._observers_lock:
            self._observers = (*self._observers, observer)
        return observer

    def unsubscribe(self, observer: Observer) -> None:
        """No more events for it."""
        with self._observers_lock:
            self._observers = tuple(o for o in self._observers if o is not observer)

    def counts(self) -> LogCounts:
        """The account as it stands; its terms always add up."""
        return self._ledger.update(self._emitted_total())

    def _emitted_total(self) -> Callable[[], tuple[int, int]]:
        def read() -> tuple[int, int]:
            now = self._emitted()
            return now.emitted, now.ring_full

        return read

    def _consume(self) -> None:
        last = False
        while not last:
            last = self._stop.is_set()
            try:
                reading = self._read(0 if last else READ_MS)
            except Exception:
                log.exception("the event ring cannot be read; trying again")
                self._stop.wait(1.0)
                continue
            self._distribute(reading)
            if not last:
                self._stop.wait(PACE_S)

    def _distribute(self, reading: Reading) -> None:
        if not reading.chunks and not reading.undecodable:
            return
        if reading.undecodable:
            self._ledger.count(undecodable=reading.undecodable)
        for chunk in reading.chunks:
            self._hand_on(chunk)
        self._ledger.update(self._emitted_total())

    def _go_through_flows(self) -> None:
        while not self._stop.wait(self._sweep_s):
            try:
                for chunk in self._sweep(self._room):
                    self._ledger.make(len(chunk))
                    self._hand_on(chunk)
                    self._stop.wait(PACE_S)  # others have their turn, and room is made
            except Exception:
                log.exception("the flows cannot be gone through; trying again")

    def _room(self) -> int:
        return OBSERVER_EVENTS if self._push is None else self._buffer.room

    def _hand_on(self, chunk: Chunk) -> None:
        for observer in self._observers:
            observer.offer(chunk)
        if self._push is None:
            self._ledger.count(delivered=len(chunk))
        else:
            self._buffer.add(chunk)

    def _pump(self) -> None:
        assert self._push is not None
        while True:
            is_last = self._stop.is_set() and not any(t.is_alive() for t in self._sources)
            if not self._is_ready():
                if is_last:
                    return
                self._stop.wait(0.1)
                continue
            batch = self._buffer.take(0.5)
            if batch is not None:
                self._push_one(batch)
            elif is_last:
                return

    def _push_one(self, batch: Chunk) -> None:
        assert self._push is not None
        try:
            taken = self._push(batch)
        except ZtError as error:
            self._buffer.settle(delivered=0)
            if str(error) != self._told:
                log.warning("%d log events are lost: %s", len(batch), error)
            self._told = str(error)
        except Exception:
            self._buffer.settle(delivered=0)
            log.exception("%d log events are lost to a bug", len(batch))
        else:
            self._buffer.settle(delivered=taken)
            self._told = ""
