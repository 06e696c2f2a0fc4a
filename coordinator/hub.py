"""Who is listening: the open streams of this process, and how to wake them after a commit."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from coordinator.memory import Known, Memory


class Subscription:
    """One open stream's ear. `is_closed` turns true when the stream must end."""

    def __init__(self) -> None:
        self.is_closed = False
        self._bell = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        """Until somebody rings, at most TIMEOUT_S seconds; did somebody ring?"""
        rang = self._bell.wait(timeout_s)
        self._bell.clear()
        return rang

    def ring(self) -> None:
        """Look again."""
        self._bell.set()

    def close(self) -> None:
        """End."""
        self.is_closed = True
        self._bell.set()


class Hub:
    """The streams by node: one each, a newer one ends the older.

    memory  what they serve from: the network as this process knows it
    """

    def __init__(self) -> None:
        self.memory = Memory()
        self._lock = threading.Lock()
        self._streams: dict[str, Subscription] = {}
        self._is_closed = False

    @contextmanager
    def subscription(self, node_id: str) -> Iterator[Subscription]:
        """Listen for NODE_ID. Subscribe first and look afterwards, or a change goes unheard."""
        mine = Subscription()
        with self._lock:
            older = self._streams.get(node_id)
            self._streams[node_id] = mine
            mine.is_closed = self._is_closed
        if older is not None:
            older.close()
        try:
            yield mine
        finally:
            with self._lock:
                if self._streams.get(node_id) is mine:
                    del self._streams[node_id]

    def known(self, session: Session) -> Known:
        """The network as SESSION sees it; whom another process's commits concern is woken."""
        before = self.memory.known
        known = self.memory.at(session)
        if before is not None and known is not before:
            then, now = before.wanted, known.wanted
            self.wake(who for who in then.keys() | now.keys() if then.get(who) != now.get(who))
        return known

    def wake(self, node_ids: Iterable[str]) -> None:
        """Ring at the streams of NODE_IDS: something of theirs changed, and is committed."""
        with self._lock:
            streams = [self._streams[node] for node in node_ids if node in self._streams]
        for stream in streams:
            stream.ring()

    def close(self) -> None:
        """End every stream, and those that still come: this process is stopping."""
        with self._lock:
            self._is_closed = True
            streams = list(self._streams.values())
        for stream in streams:
            stream.close()
