"""Hears what the other replicas on one PostgreSQL say (coordinator/store/notices.py).

What was missed while there was no connection is looked up as soon as there is one again.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from coordinator import network
from coordinator.hub import Hub
from coordinator.store.engine import Store
from coordinator.store.models import NodeRow
from coordinator.store.notices import CHANGES, REPLICA, STREAMS

log = logging.getLogger(__name__)

# A connection that was quiet for so long is asked whether it still is one.
QUIET_S = 5.0
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0
OWN_S = 0.1  # from what the store says of our commit to our hearing that it took it


class Listener(threading.Thread):
    """Hears what other replicas said, until it is closed."""

    def __init__(self, store: Store, hub: Hub) -> None:
        super().__init__(name="zt-listener", daemon=True)
        self._store = store
        self._hub = hub
        self._is_closed = threading.Event()
        self.is_listening = threading.Event()

    def close(self) -> None:
        """Stop with what is heard next, or within QUIET_S."""
        self._is_closed.set()

    def run(self) -> None:
        """Listen; where the connection is lost, try again, ever more slowly."""
        wait_s = FIRST_RETRY_S
        while not self._is_closed.is_set():
            try:
                with self._connection() as connection:
                    for channel in (CHANGES, STREAMS):
                        connection.execute(f"LISTEN {channel}")
                    self._look_at_everything()
                    self.is_listening.set()
                    wait_s = FIRST_RETRY_S
                    self._listen(connection)
            # Whatever it is: a replica that stopped listening would serve what is old for ever.
            except Exception as error:
                self.is_listening.clear()
                said = getattr(error, "orig", None) or error
                is_ours = not isinstance(error, (psycopg.Error, SQLAlchemyError))
                log.warning(
                    "cannot hear the other replicas, trying again: %s", said, exc_info=is_ours
                )
                # Not all replicas in the same moment, when the server is back.
                self._is_closed.wait(wait_s * random.uniform(0.5, 1.0))
                wait_s = min(2 * wait_s, LAST_RETRY_S)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        """One of its own: the pool's are for transactions."""
        taken = self._store.engine.raw_connection()
        connection: psycopg.Connection[Any] = taken.driver_connection  # type: ignore[assignment]
        taken.detach()
        try:
            connection.autocommit = True
            yield connection
        finally:
            taken.close()

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        while not self._is_closed.is_set():
            heard = list(connection.notifies(timeout=QUIET_S, stop_after=1))
            if not heard:
                connection.execute("SELECT 1")
            said = [(notice.channel, json.loads(notice.payload)) for notice in heard]
            for channel, what in said:
                if channel == STREAMS and what[REPLICA] != self._store.replica:
                    self._hub.close_older(what["node"], what["number"])
            news = [what for channel, what in said if channel == CHANGES and self._is_news(what)]
            if news and all(what[REPLICA] == self._store.replica for what in news):
                # It will know in a moment, unless the answer to its COMMIT was lost.
                self._is_closed.wait(OWN_S)
                news = [what for what in news if self._is_news(what)]
            if news:
                network.refresh(self._store, self._hub)  # once for all of a burst

    def _is_news(self, revision: dict[str, Any]) -> bool:
        known = self._hub.memory.known
        if known is None or known.revision.epoch != revision["epoch"]:
            return True
        return known.revision.number < int(revision["number"])

    def _look_at_everything(self) -> None:
        network.refresh(self._store, self._hub)
        if streams := self._hub.numbers():
            with self._store.reading() as session:
                newest = select(NodeRow.id, NodeRow.stream_number)
                for node_id, number in session.execute(newest):
                    if node_id in streams:
                        self._hub.close_older(node_id, number)
