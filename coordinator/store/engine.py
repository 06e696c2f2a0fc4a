"""The engine, and its two kinds of transaction: one that reads a snapshot, one that writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session

from ztlab.errors import ZtError

_WRITES = "zt_writes"


class Store:
    """A database at a SQLAlchemy URL, opened lazily.

    SQLite runs in WAL mode: readers see the snapshot of their first statement and wait for nobody.
    Writers take the lock at BEGIN, so that what they read is what they change.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._writing_engine = self.engine.execution_options(**{_WRITES: True})
        # Writers of this process queue here and not in SQLite's busy handler, which would put the
        # whole process to sleep, the one greenlet included that holds the lock.
        self._writer = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session over one consistent snapshot; nothing in it is ever committed."""
        with Session(self.engine, autoflush=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that holds the write lock, committed at the end of the block or not at all."""
        with self._writer, Session(self._writing_engine) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection, which also lets SQLite fold its write-ahead log in."""
        self.engine.dispose()


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """A Store for a command, closed at its end; ZtError if the database cannot be used."""
    store = Store(url)
    try:
        yield store
    except DatabaseError as error:
        if type(error) not in (DatabaseError, OperationalError):  # a bug of ours
            raise
        raise ZtError(
            f"cannot use the store at {url}: {error.orig}",
            hint="the user it runs as needs to get there, and to write there; `init` makes it",
        ) from error
    finally:
        store.close()


def _engine(url: str) -> Engine:
    # What is logged of a failed statement must not carry what it would have stored.
    engine = create_engine(url, connect_args={"timeout": 10.0}, hide_parameters=True)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: it would begin them too late and DEFERRED.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
