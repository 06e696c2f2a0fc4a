"""From the ring buffer to the coordinator and to whoever watches, without ever holding up either.

    ring (kernel) -> consumer thread -> bounded buffer -> pusher thread -> coordinator
                          |
                          +-> observers, each with a bounded queue of its own

Every event ends in exactly one place, and `LogCounts` says how many in which:
emitted = ring_full + undecodable + buffer_full + push_failed + agent_died + delivered + in_flight.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.ledger import Ledger, LogCounts
from ztlab.errors import ZtError

log = logging.getLogger(__name__)

Record = Mapping[str, Any]
"""One Event of docs/PROTOCOL.md."""

BATCH_EVENTS = 5000  # docs/PROTOCOL.md
OBSERVER_EVENTS = 4096
READ_MS = 100
FINAL_PUSH_S = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look into the ring gave: records, and how many could not be decoded."""

    records: Sequence[Record]
    undecodable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """The kernel's side of the account since the programs were loaded."""

    emitted: int
    ring_full: int


class Observer:
    """One subscriber of the live events; a slow one loses events, and is told how many."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Record] = queue.Queue(OBSERVER_EVENTS)
        self.lost = 0  # since it subscribed

    def offer(self, record: Record) -> None:
        """Never waits."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.lost += 1

    def next(self, timeout_s: float) -> Record | None:
        """The next event; None if there was none in time."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None


class EventBuffer:
    """The bounded buffer between consumer and pusher.

    capacity   events, those of a batch that is being pushed included
    flush_at   events that make a batch due
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        capacity: int,
        flush_at: int,
        flush_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._capacity, self._flush_at, self._flush_after_s = capacity, flush_at, flush_after_s
        self._clock = clock
        self._waiting: deque[tuple[float, Record]] = deque()
        self._pushing = 0
        self._changed = threading.Condition()
        self._closed = False

    def add(self, records: Sequence[Record]) -> None:
        """Keep RECORDS as far as there is room; the rest is dropped and counted."""
        now = self._clock()
        with self._changed:
            room = max(0, self._capacity - len(self._waiting) - self._pushing)
            self._waiting.extend((now, record) for record in records[:room])
            self._ledger.count(buffer_full=max(0, len(records) - room))
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Record]:
        """The next batch once it is due, else nothing; `settle` must follow a batch."""
        with self._changed:
            if not self._is_due():
                self._changed.wait(min(timeout_s, self._due_in_s()))
            if not self._is_due():
                return []
            count = min(BATCH_EVENTS, len(self._waiting))
            self._pushing = count
            return [self._waiting.popleft()[1] for _ in range(count)]

    def settle(self, *, delivered: bool) -> None:
        """The batch taken last was acknowledged, or is given up; its room is free again."""
        with self._changed:
            count, self._pushing = self._pushing, 0
            if delivered:
                self._ledger.count(delivered=count)
            else:
                self._ledger.count(push_failed=count)

    def close(self) -> None:
        """Everything that waits is due now."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def held(self) -> int:
        """Events in the buffer or in a batch that is being pushed."""
        with self._changed:
            return len(self._waiting) + self._pushing

    def _is_due(self) -> bool:
        if not self._waiting:
            return False
        is_old = self._clock() - self._waiting[0][0] >= self._flush_after_s
        return self._closed or is_old or len(self._waiting) >= self._flush_at

    def _due_in_s(self) -> float:
        if not self._waiting:
            return self._flush_after_s
        return max(0.0, self._waiting[0][0] + self._flush_after_s - self._clock())


class FlowLog:
    """The consumer and, where there is somebody to push to, the pusher.

    read      waits up to so many milliseconds for events
    emitted   the kernel's counters
    push      pushes one batch, ZtError if it was not acknowledged; None: nothing is pushed, and an
              event counts as delivered once it was offered to the observers there are
    is_ready  False as long as there is nobody to push to yet: batches then wait
    """

    def __init__(
        self,
        ledger: Ledger,
        buffer: EventBuffer,
        *,
        read: Callable[[int], Reading],
        emitted: Callable[[], Emitted],
        push: Callable[[str, Sequence[Record]], None] | None,
        is_ready: Callable[[], bool],
    ) -> None:
        self._ledger, self._buffer = ledger, buffer
        self._read, self._emitted = read, emitted
        self._push, self._is_ready = push, is_ready
        self._observers: tuple[Observer, ...] = ()
        self._observers_lock = threading.Lock()
        self._stop = threading.Event()
        self._told = ""
        self._threads = [threading.Thread(target=self._consume, name="flowlog", daemon=True)]
        if push is not None:
            self._threads.append(threading.Thread(target=self._pump, name="logpush", daemon=True))

    def start(self) -> None:
        """Begin to consume."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Read the ring once more, push once more if that is quick, and end."""
        self._stop.set()
        self._threads[0].join()
        self._buffer.close()
        for thread in self._threads[1:]:
            thread.join(FINAL_PUSH_S)
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

    def _distribute(self, reading: Reading) -> None:
        records = reading.records
        if not records and not reading.undecodable:
            return
        self._ledger.count(undecodable=reading.undecodable)
        for observer in self._observers:
            for record in records:
                observer.offer(record)
        if self._push is None:
            self._ledger.count(delivered=len(records))
        else:
            self._buffer.add(records)
        self._ledger.update(self._emitted_total())

    def _pump(self) -> None:
        assert self._push is not None
        while True:
            is_last = self._stop.is_set() and not self._threads[0].is_alive()
            if not self._is_ready():
                if is_last:
                    return
                self._stop.wait(0.1)
                continue
            batch = self._buffer.take(0.5)
            if batch:
                self._push_one(batch)
            elif is_last:
                return

    def _push_one(self, batch: Sequence[Record]) -> None:
        assert self._push is not None
        try:
            self._push(str(uuid.uuid4()), batch)
        except ZtError as error:
            self._buffer.settle(delivered=False)
            if str(error) != self._told:
                log.warning("%d log events are lost: %s", len(batch), error)
            self._told = str(error)
        except Exception:
            self._buffer.settle(delivered=False)
            log.exception("%d log events are lost to a bug", len(batch))
        else:
            self._buffer.settle(delivered=True)
            self._told = ""
