"""What a running coordinator forgets from time to time."""

from __future__ import annotations

import logging
import time

from sqlalchemy.exc import SQLAlchemyError

from coordinator import revisions
from coordinator.store.engine import Store

log = logging.getLogger(__name__)

EVERY_S = 600.0


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
