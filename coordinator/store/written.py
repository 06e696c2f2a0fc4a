"""What a session wrote, row by row, so that only that is read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session

from coordinator.store.models import (
    AddressRow,
    Base,
    GroupRow,
    IdentityRow,
    NetworkRow,
    NodeRow,
    ResourceRow,
    RotationRow,
    RuleRow,
)

# What configurations are made of, and the column that says what a row of it belongs to.
KEYS: dict[type[Base], str] = {
    NetworkRow: "id",
    NodeRow: "id",
    AddressRow: "node_id",
    RotationRow: "node_id",
    IdentityRow: "name",
    ResourceRow: "name",
    GroupRow: "name",
    RuleRow: "id",
}
_MOST_KEYS = 500  # beyond, a table is rather read whole


class Written:
    """Keys of rows that were added, changed or deleted; of a table that was written at large, all.

    Seen is what goes through the ORM: the unit of work and ORM statements. Core statements on a
    connection are not, so nothing of KEYS may be written by them.
    """

    def __init__(self) -> None:
        self._keys: dict[type[Base], set[Any]] = {}
        self._whole: set[type[Base]] = set()

    @classmethod
    def everything(cls) -> Written:
        """Nothing is known of what was written."""
        written = cls()
        written._whole.update(KEYS)
        return written

    def touches(self, table: type[Base]) -> bool:
        """Was anything of TABLE written?"""
        return table in self._whole or table in self._keys

    def keys_of(self, *tables: type[Base]) -> frozenset[Any] | None:
        """Which rows of TABLES were written; None: too many to say, or all."""
        if self._whole.intersection(tables):
            return None
        keys = frozenset[Any]().union(*(self._keys.get(table, ()) for table in tables))
        return keys if len(keys) <= _MOST_KEYS else None

    def add(self, row: object) -> None:
        """ROW is being written."""
        column = KEYS.get(type(row))  # type: ignore[arg-type]
        if column is not None:
            self._keys.setdefault(type(row), set()).add(getattr(row, column))  # type: ignore[arg-type]

    def add_statement(self, statement: ORMExecuteState) -> None:
        """An ORM statement is being executed: if it writes, its whole table may be another."""
        if statement.is_insert or statement.is_update or statement.is_delete:
            mapper = statement.bind_mapper
            if mapper is not None and mapper.class_ in KEYS:
                self._whole.add(mapper.class_)


@contextmanager
def recorded(session: Session) -> Iterator[Written]:
    """What SESSION writes in this block, flushed at its end."""
    written = Written()

    def flushed(flushing: Session, _context: Any) -> None:
        for row in (*flushing.new, *flushing.dirty, *flushing.deleted):
            written.add(row)

    event.listen(session, "after_flush", flushed)
    event.listen(session, "do_orm_execute", written.add_statement)
    try:
        yield written
        session.flush()
    finally:
        event.remove(session, "after_flush", flushed)
        event.remove(session, "do_orm_execute", written.add_statement)
