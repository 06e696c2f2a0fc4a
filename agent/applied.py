"""The last good configuration, in memory and on disk, and which revisions may follow it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from agent import state
from ztlab.errors import SchemaError, ZtError
from ztlab.model import codec
from ztlab.model.config import NodeConfig, Revision

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A configuration that was applied, and where in the network's history it stands."""

    revision: Revision
    config: NodeConfig


class LastGood:
    """What is applied; survives a restart, and is applied before the coordinator is asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._current: Applied | None = None
        self._is_kept = True  # False: what is applied could not be written

    def load(self) -> Applied | None:
        """What a predecessor applied last; None where there is none, or it cannot be read."""
        data = state.read_json(self._path)
        if data is None:
            return None
        try:
            return codec.decode(Applied, data)
        except SchemaError as error:
            log.warning("%s is of no use (%s): waiting for the coordinator's", self._path, error)
            return None

    @property
    def current(self) -> Applied | None:
        """What is applied now."""
        return self._current

    def check(self, revision: Revision) -> None:
        """ZtError for an older number of the same epoch: a replay, or a store set back by hand."""
        current = self._current
        if current is None or current.revision.epoch != revision.epoch:
            return
        if revision.number < current.revision.number:
            raise ZtError(
                f"revision {revision.number} is older than {current.revision.number}, which is "
                f"applied (epoch {revision.epoch})"
            )

    def store(self, applied: Applied, *, on_disk: bool = True) -> None:
        """APPLIED is what holds now, and what a successor begins with.

        ZtError where it cannot be written; it holds all the same.
        """
        with self._lock:
            self._current = applied
            if on_disk:
                self._is_kept = False
                state.write_json(self._path, codec.encode(applied))
                self._is_kept = True

    def confirm(self, revision: Revision, digest: str) -> None:
        """The configuration with DIGEST, if it is ours, is what REVISION asks for as well."""
        current = self._current
        if current is None or current.config.digest() != digest:
            raise ZtError(f"this node does not have the configuration {digest[:12]}…")
        self.check(revision)
        if revision != current.revision or not self._is_kept:
            self.store(replace(current, revision=revision))
