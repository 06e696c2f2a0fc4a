"""What nodes say of themselves, written together: after a change five thousand say it at once.

A transaction that syncs to disk costs the same for one acknowledgement as for a thousand. Whoever
comes first waits a moment for others, and writes for all of them; each has its answer after that.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime

from coordinator import nodes
from coordinator.nodes import Ack, Said
from coordinator.store.engine import Store

LINGER_S = 0.01


class _Waiting:
    """One that waits for its transaction."""

    __slots__ = ("done", "error", "said")

    def __init__(self, said: Said) -> None:
        self.said = said
        self.done = threading.Event()
        self.error: BaseException | None = None


class Contacts:
    """The acknowledgements and signs of life of nodes, on their way into STORE."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []

    def heard(self, node_id: str, ack: Ack | None, now: datetime) -> None:
        """Keep what a node said, or (None) that it was heard of; returns when that is stored.

        SchemaError as nodes.acknowledge. Whatever keeps the store from being written, it keeps
        from all who waited for the same transaction.
        """
        mine = _Waiting(Said(node_id=node_id, ack=ack, at=now))
        with self._lock:
            self._waiting.append(mine)
            is_first = len(self._waiting) == 1
        if is_first:
            try:
                time.sleep(LINGER_S)
            finally:  # whoever ends this one must not leave the others waiting
                with self._lock:
                    together, self._waiting = self._waiting, []
                self._write(together)
        else:
            mine.done.wait()
        if mine.error is not None:
            raise mine.error

    def _write(self, together: list[_Waiting]) -> None:
        try:
            with self._store.writing() as session:
                found = nodes.keep(session, [one.said for one in together])
            for one, error in zip(together, found, strict=True):
                one.error = error
        except BaseException as error:
            for one in together:
                one.error = error
        finally:
            for one in together:
                one.done.set()
