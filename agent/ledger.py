"""The account of log events, kept where a kill -9 cannot lose it.

The totals lie in a small mapped file. How many events there were the kernel knows, whose counters
and rings outlive an agent; how many were taken out of the rings it knows as well. Of flows an agent
makes events itself: these it books before it hands them on. So a successor books as `agent_died`
what its predecessor had taken out, or made, and not settled, exactly, drains itself what is still
in the rings, and every counter goes on from where it was.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from agent import state
from ztlab.errors import ZtError

_MAGIC = 0x7A746C6F67000003  # "ztlog", layout 3
_MAGIC_2 = 0x7A746C6F67000002  # without flow records, which lie last: zeros there


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCounts:
    """How many events ended where; every one but in_flight only rises.

    emitted      the programs wanted to log it, or an agent made it of a flow
    ring_full    no room in the ring: dropped in the kernel
    undecodable  read, but not understood
    buffer_full  no room in the agent's buffer
    push_failed  its batch was not acknowledged
    agent_died   was in the buffer when an agent ended; or in rings that nobody reads any more
    delivered    acknowledged by the coordinator; where nothing is pushed: offered to the observers
    flow_records  no term of the account: how many of the emitted an agent made
    """

    emitted: int = 0
    ring_full: int = 0
    undecodable: int = 0
    buffer_full: int = 0
    push_failed: int = 0
    agent_died: int = 0
    delivered: int = 0
    flow_records: int = 0

    @property
    def in_flight(self) -> int:
        """In the ring, in the buffer, or being pushed."""
        return self.emitted - self.settled

    @property
    def settled(self) -> int:
        """Everything that has come to an end, one way or another."""
        return (
            self.ring_full
            + self.undecodable
            + self.buffer_full
            + self.push_failed
            + self.agent_died
            + self.delivered
        )


TERMS = tuple(f.name for f in fields(LogCounts) if f.name != "flow_records")
_LAYOUT = struct.Struct(f"={1 + len(TERMS) + 4 + 2}Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """Where the totals stood when the kernel's counters began.

    account  the kernel's number for these counters; 0: none yet
    settled  all that had come to an end, but for ring_full
    flow_records  how many were made
    """

    account: int = 0
    emitted: int = 0
    ring_full: int = 0
    settled: int = 0
    flow_records: int = 0


class Ledger:
    """The totals over all agents that ran on this run_dir since the host booted."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._map = _mapped(path)
        magic, *values = _LAYOUT.unpack_from(self._map)
        *base, made, made_before = values[len(TERMS) :]
        terms = dict(zip(TERMS, values[: len(TERMS)], strict=True))
        found = LogCounts(**terms, flow_records=made)
        self._base = _Base(
            account=base[0],
            emitted=base[1],
            ring_full=base[2],
            settled=base[3],
            flow_records=made_before,
        )
        if magic not in (_MAGIC, _MAGIC_2) or found.in_flight < 0:
            found, self._base = LogCounts(), _Base()
        self._counts = found

    def begin(self, *, account: int, consumed: int) -> None:
        """Book by the kernel's counters with the number ACCOUNT, before any of their events is.

        consumed  events taken out of their rings so far, by predecessors: what these did not settle
                  of them, or made themselves, died with them. Where the counters are others than
                  theirs, so did all the rest.
        """
        with self._lock:
            counts = self._counts
            if account != self._base.account:
                counts = replace(counts, agent_died=counts.agent_died + counts.in_flight)
                self._base = _Base(
                    account=account,
                    emitted=counts.emitted,
                    ring_full=counts.ring_full,
                    settled=counts.settled - counts.ring_full,
                    flow_records=counts.flow_records,
                )
            taken = consumed + counts.flow_records - self._base.flow_records
            held = taken - (counts.settled - counts.ring_full - self._base.settled)
            self._counts = replace(counts, agent_died=counts.agent_died + max(0, held))
            self._store()

    def count(
        self,
        *,
        undecodable: int = 0,
        buffer_full: int = 0,
        push_failed: int = 0,
        delivered: int = 0,
    ) -> None:
        """Book so many more events, on file at once."""
        with self._lock:
            counts = self._counts
            self._counts = replace(
                counts,
                undecodable=counts.undecodable + undecodable,
                buffer_full=counts.buffer_full + buffer_full,
                push_failed=counts.push_failed + push_failed,
                delivered=counts.delivered + delivered,
            )
            self._store()

    def make(self, records: int) -> None:
        """Book so many RECORDS of flows, on file at once, before any of them is handed on: one that
        a kill then keeps from being made dies with its agent."""
        with self._lock:
            counts = self._counts
            self._counts = replace(
                counts,
                emitted=counts.emitted + records,
                flow_records=counts.flow_records + records,
            )
            self._store()

    def update(self, read: Callable[[], tuple[int, int]]) -> LogCounts:
        """Take over the kernel's (emitted, ring_full), put all on file, and return it.

        Read under the lock, after everything that was booked: no event is settled before it counts
        as emitted.
        """
        with self._lock:
            emitted, ring_full = read()
            made = self._counts.flow_records - self._base.flow_records
            self._counts = replace(
                self._counts,
                emitted=self._base.emitted + emitted + made,
                ring_full=self._base.ring_full + ring_full,
            )
            self._store()
            return self._counts

    def close(self) -> None:
        """Unmap the file; the totals stay in it."""
        with self._lock:
            self._map.close()

    def _store(self) -> None:
        # `emitted` lies first: torn by a kill, the file shows too much in flight, never too little.
        values = [getattr(self._counts, name) for name in TERMS]
        base = self._base
        values += [base.account, base.emitted, base.ring_full, base.settled]
        values += [self._counts.flow_records, base.flow_records]
        _LAYOUT.pack_into(self._map, 0, _MAGIC, *values)


def _mapped(path: Path) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, state.PRIVATE_FILE)
        try:
            os.ftruncate(descriptor, _LAYOUT.size)
            # Room for it now: in a full tmpfs a store to a hole would be a SIGBUS later.
            os.posix_fallocate(descriptor, 0, _LAYOUT.size)
            return mmap.mmap(descriptor, _LAYOUT.size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ZtError(f"cannot map {path}: {error.strerror}") from error
