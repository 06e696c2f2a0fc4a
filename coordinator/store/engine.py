"""The engine, and its two kinds of transaction: one that reads a snapshot, one that writes."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session

from coordinator import counters
from coordinator.settings import POSTGRES
from coordinator.store import postgres
from coordinator.store.notices import REPLICA
from ztlab.errors import ZtError

_WRITES = "zt_writes"


class Store:
    """A database at a SQLAlchemy URL, opened lazily.

    Readers see the snapshot of their first statement and wait for nobody. Writers take the lock at
    BEGIN, so that what they read is what they change.

    replica    who this one is among those that share it
    is_shared  other coordinators may use it at the same time: it is PostgreSQL
    """

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.replica = secrets.token_hex(8)
        self.is_shared = url.startswith(POSTGRES)
        self.engine = _postgres_engine(url) if self.is_shared else _sqlite_engine(url)
        event.listen(self.engine, "handle_error", _count)
        self._writing_engine = self.engine.execution_options(**{_WRITES: True})
        self._reading_engine = self.engine
        if self.is_shared:
            self._reading_engine = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        # Writers of this process queue here: in SQLite's busy handler they would put the whole
        # process to sleep, the one greenlet included that holds the lock, and at PostgreSQL each
        # would hold a connection.
        self._writer = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session over one consistent snapshot; nothing in it is ever committed."""
        with Session(self._reading_engine, autoflush=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that holds the write lock, committed at the end of the block or not at all."""
        with self._writer, self._writing() as session, session.begin():
            yield session

    def _writing(self) -> Session:
        return Session(self._writing_engine, info={REPLICA: self.replica})

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
            hint="the server must be there, and let this user in; `init` makes the tables"
            if store.is_shared
            else "the user it runs as needs to get there, and to write there; `init` makes it",
        ) from error
    finally:
        store.close()


def _postgres_engine(url: str) -> Engine:
    # Asked before use whether it is still good, or a server that was restarted would fail as many
    # requests as there are connections.
    engine = create_engine(
        url,
        connect_args=postgres.CONNECT,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=10.0,
    )
    postgres.install(engine)
    event.listen(engine, "begin", _begin_postgres)
    return engine


def _begin_postgres(connection: Connection) -> None:
    if connection.get_execution_options().get(_WRITES, False):
        postgres.lock_writers(connection)


def _sqlite_engine(url: str) -> Engine:
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


def _count(_: ExceptionContext) -> None:
    counters.DATABASE_ERRORS.inc()
