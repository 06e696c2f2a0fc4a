"""Who is listening: the open streams of this process, and how to wake them after a commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from coordinator.memory import Known, Memory
from ztlab.model.config import NodeConfig


class Pushes:
    """How long what was told took, from the commit to the socket: plain numbers for metrics.

    count, seconds, bytes  of all events that carry a configuration, and that a commit caused
    within                 how many of them took no longer than each of BOUNDS_S
    """

    BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0)

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.bytes = 0
        self.within = dict.fromkeys(self.BOUNDS_S, 0)

    def add(self, seconds: float, size: int) -> None:
        """One event of SIZE bytes was handed to its socket SECONDS after the commit."""
        self.count += 1
        self.seconds += seconds
        self.bytes += size
        for bound in self.BOUNDS_S:
            self.within[bound] += seconds <= bound


class Sent:
    """The configurations that were sent last, by digest: what a delta can begin with.

    Their elements are those of the network as it is, for the most part; a configuration costs its
    lists. Beyond MOST the one that was not used for longest goes, and its node is sent the whole.
    """

    MOST = 1024

    def __init__(self) -> None:
        self._configs: dict[str, NodeConfig] = {}
        self._lock = threading.Lock()

    def get(self, digest: str) -> NodeConfig | None:
        """The configuration of DIGEST, if it was sent lately."""
        with self._lock:
            config = self._configs.pop(digest, None)
            if config is not None:
                self._configs[digest] = config  # used last
            return config

    def put(self, digest: str, config: NodeConfig) -> None:
        """CONFIG is being sent."""
        with self._lock:
            self._configs.pop(digest, None)
            self._configs[digest] = config
            if len(self._configs) > self.MOST:
                del self._configs[next(iter(self._configs))]


class Subscription:
    """One open stream's ear. `is_closed` turns true when the stream must end.

    number  of the stream among the node's, over all replicas
    """

    __slots__ = ("_bell", "_rung_at", "is_closed", "number")

    def __init__(self, number: int = 0) -> None:
        self.is_closed = False
        self.number = number
        self._bell = threading.Event()
        self._rung_at: float | None = None

    def wait(self, timeout_s: float) -> bool:
        """Until somebody rings, at most TIMEOUT_S seconds; did somebody ring?"""
        self._bell.wait(timeout_s)
        # What wait() says is not enough: it may be rung just as the time ran out. And what was not
        # rung is not cleared: that could undo a ring that comes in between.
        rang = self._bell.is_set()
        if rang:
            self._bell.clear()
        return rang

    def ring(self) -> None:
        """Look again."""
        if self._rung_at is None:
            self._rung_at = time.monotonic()
        self._bell.set()

    def answer(self) -> float | None:
        """When it was first rung (time.monotonic) since the last answer; None: it was not."""
        rung_at, self._rung_at = self._rung_at, None
        return rung_at

    def close(self) -> None:
        """End."""
        self.is_closed = True
        self._bell.set()


class Hub:
    """The streams by node: one each, a newer one ends the older.

    memory  what they serve from: the network as this process knows it
    pushes  what they told
    sent    the configurations that they sent last
    """

    def __init__(self) -> None:
        self.memory = Memory()
        self.pushes = Pushes()
        self.sent = Sent()
        self._lock = threading.Lock()
        self._streams: dict[str, Subscription] = {}
        self._is_closed = False

    @contextmanager
    def subscription(self, node_id: str, number: int = 0) -> Iterator[Subscription]:
        """Listen for NODE_ID. Subscribe first and look afterwards, or a change goes unheard."""
        mine = Subscription(number)
        with self._lock:
            other = self._streams.get(node_id)
            is_newest = other is None or other.number <= number
            if is_newest:
                self._streams[node_id] = mine
            mine.is_closed = self._is_closed or not is_newest
        if other is not None and is_newest:
            other.close()
        try:
            yield mine
        finally:
            with self._lock:
                if self._streams.get(node_id) is mine:
                    del self._streams[node_id]

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def numbers(self) -> dict[str, int]:
        """Node id to the number of its open stream."""
        with self._lock:
            return {node: stream.number for node, stream in self._streams.items()}

    def close_older(self, node_id: str, number: int) -> None:
        """End the node's stream here if its number is below NUMBER. 0: whichever it is, where there
        are no replicas and no numbers."""
        with self._lock:
            stream = self._streams.get(node_id)
        if stream is not None and (stream.number < number or number == 0):
            stream.close()

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
