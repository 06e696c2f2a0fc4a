"""The account of log events, kept where a kill -9 cannot lose it.

The totals lie in a small mapped file: what a predecessor had emitted and not accounted for when it
died is booked by its successor as `agent_died`, and every counter goes on from where it was.
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

_MAGIC = 0x7A746C6F67000001  # "ztlog", layout 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCounts:
    """How many events ended where; every one but in_flight only rises.

    emitted      the programs wanted to log it
    ring_full    no room in the ring: dropped in the kernel
    undecodable  read, but not understood
    buffer_full  no room in the agent's buffer
    push_failed  its batch was not acknowledged
    agent_died   was in the ring or the buffer when an agent ended
    delivered    acknowledged by the coordinator; where nothing is pushed: offered to the observers
    """

    emitted: int = 0
    ring_full: int = 0
    undecodable: int = 0
    buffer_full: int = 0
    push_failed: int = 0
    agent_died: int = 0
    delivered: int = 0

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


_NAMES = tuple(f.name for f in fields(LogCounts))
_LAYOUT = struct.Struct(f"={1 + len(_NAMES)}Q")


class Ledger:
    """The totals over all agents that ran on this run_dir since the host booted."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._map = _mapped(path)
        magic, *values = _LAYOUT.unpack_from(self._map)
        found = LogCounts(**dict(zip(_NAMES, values, strict=True)))
        if magic != _MAGIC or found.in_flight < 0:
            found = LogCounts()
        self._counts = replace(found, agent_died=found.agent_died + found.in_flight)
        # The programs are loaded anew, their own counters begin at zero: these are the bases.
        self._base = self._counts
        self._store()

    def count(
        self,
        *,
        undecodable: int = 0,
        buffer_full: int = 0,
        push_failed: int = 0,
        delivered: int = 0,
    ) -> None:
        """Book so many more events."""
        with self._lock:
            counts = self._counts
            self._counts = replace(
                counts,
                undecodable=counts.undecodable + undecodable,
                buffer_full=counts.buffer_full + buffer_full,
                push_failed=counts.push_failed + push_failed,
                delivered=counts.delivered + delivered,
            )

    def update(self, read: Callable[[], tuple[int, int]]) -> LogCounts:
        """Take over the kernel's (emitted, ring_full), put all on file, and return it.

        Read under the lock, after everything that was booked: no event is settled before it counts
        as emitted.
        """
        with self._lock:
            emitted, ring_full = read()
            self._counts = replace(
                self._counts,
                emitted=self._base.emitted + emitted,
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
        values = [getattr(self._counts, name) for name in _NAMES]
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
