"""What a running coordinator forgets from time to time."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from coordinator import clock, logs, revisions
from coordinator.store.engine import Store

log = logging.getLogger(__name__)

EVERY_S = 600.0
LOGS_EVERY_S = 10.0
ROWS_AT_ONCE = 1000  # a few milliseconds, in which nobody else writes
MOST_TRANSACTIONS = 50  # of one tick
# A node sends a batch twice at once, or not again; a day is for clocks and queues on the way.
BATCH_IDS = timedelta(days=1)


class Retention:
    """Forgets the revisions of STORE beyond the newest KEPT, at the first tick and then each
    EVERY_S seconds at most."""

    def __init__(self, store: Store, kept: int) -> None:
        self._store = store
        self._kept = kept
        self._next = time.monotonic()

    def tick(self) -> None:
        """To be called as often as one likes. A store that fails now is asked again later."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        try:
            with self._store.writing() as session:
                gone = revisions.prune(session, self._kept)
        except SQLAlchemyError as error:
            log.warning("old revisions could not be forgotten: %s", error)
            return
        if gone:
            log.info("forgot %d old revisions", gone)


class LogRetention:
    """Forgets log events that are older than DAYS, and the oldest of more than MOST: at the first
    tick and then each LOGS_EVERY_S seconds at most, in small transactions between which others
    write."""

    def __init__(self, store: Store, days: int, most: int) -> None:
        self._store = store
        self._age = timedelta(days=days)
        self._most = most
        self._next = time.monotonic()

    def tick(self) -> None:
        """To be called as often as one likes. A store that fails now is asked again later."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOGS_EVERY_S
        try:
            with self._store.writing() as session:
                logs.prune_batches(session, clock.now() - BATCH_IDS)
            for _ in range(MOST_TRANSACTIONS):
                with self._store.writing() as session:
                    before = clock.now() - self._age
                    gone = logs.prune(session, before, self._most, ROWS_AT_ONCE)
                if gone < ROWS_AT_ONCE - 1:  # the newest always stays
                    return
                time.sleep(0)  # whoever waits for the lock has it now
            self._next = time.monotonic()
        except SQLAlchemyError as error:
            log.warning("old log events could not be forgotten: %s", error)
