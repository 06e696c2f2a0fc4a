"""What PostgreSQL is told beside SQL: who waits for whom, how long, and in which order texts are.

One store of several coordinators has the transactions that SQLite's has: a reader sees one
snapshot, and writers follow each other, over all replicas, by one advisory lock.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExceptionContext

from ztlab.errors import ZtError

# A number that only this program takes: "zt" and "store", as letters.
WRITERS = 0x7A74_73746F72
_SECONDS = 10  # as long as SQLite waits for its lock
# docs: libpq-connect, runtime-config-client. A replica that vanished must not hold the lock, and a
# server that vanished must not hold a replica.
CONNECT: dict[str, Any] = {
    "connect_timeout": _SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": _SECONDS * 1000,
    "application_name": "zt-coordinator",
    "options": " ".join(
        f"-c {name}={value}"
        for name, value in {
            "lock_timeout": f"{_SECONDS}s",
            "idle_in_transaction_session_timeout": f"{_SECONDS}s",
            "tcp_keepalives_idle": 5,
            "tcp_keepalives_interval": 2,
            "tcp_keepalives_count": 3,
            "synchronous_commit": "on",
        }.items()
    ),
}
# Where the order of texts is not that of their bytes, nodes would be listed, and first gateways
# chosen, otherwise than this program sorts them.
_ORDER = text("SELECT 'B' < 'a' AND 'a-b' < 'aa' AND 'z' < 'é'")
_ENCODING = text(
    "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
)


def install(engine: Engine) -> None:
    """Let failures of ENGINE be told without the values that the server repeats in them."""
    event.listen(engine, "handle_error", _without_values)


def lock_writers(connection: Connection) -> None:
    """Wait until no other transaction of any replica writes; until COMMIT or ROLLBACK."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")


def check(connection: Connection) -> None:
    """ZtError unless the database is one that this program can use."""
    encoding = connection.scalar(_ENCODING)
    if encoding != "UTF8" or not connection.scalar(_ORDER):
        raise ZtError(
            f"the database has encoding {encoding} and sorts by a language, not by bytes",
            hint="make it with `createdb --template=template0 --encoding=UTF8 --locale=C NAME`",
        )


def _without_values(context: ExceptionContext) -> None:
    """`Key (hash)=(…) already exists` is a second line that only the server's log should have."""
    original, wrapped = context.original_exception, context.sqlalchemy_exception
    said = getattr(getattr(original, "diag", None), "message_primary", None)
    if said is None:
        return
    original.args = (said,)
    if wrapped is not None:
        wrapped.args = (f"({type(original).__name__}) {said}",)
