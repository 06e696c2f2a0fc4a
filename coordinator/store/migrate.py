"""Bring a store up to date (`init`), and refuse one that is not (`run`).

Alembic is imported only where something is to be migrated: a third of a second at each start is
too much to learn that nothing is.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from coordinator.store import postgres
from ztlab.errors import ZtError

HEAD = "0008"  # the newest migration; a test compares it with the scripts
SCRIPTS = Path(__file__).parent / "migrations"


def current(engine: Engine) -> str | None:
    """The migration the store is at; None for an empty store."""
    with engine.connect() as connection:
        return _current(connection)


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def check(engine: Engine) -> None:
    """ZtError unless the store is at the newest migration."""
    found = current(engine)
    if found != HEAD:
        raise ZtError(
            f"the store is at migration {found or 'none'}, this program needs {HEAD}",
            hint="run `zt-coordinator init --config FILE`; it keeps what is there",
        )


def upgrade(engine: Engine) -> None:
    """Run the migrations that are missing, all in one transaction."""
    if current(engine) == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            postgres.lock_writers(connection)  # replicas may be upgraded at the same time
            postgres.check(connection)
            if _current(connection) == HEAD:
                return
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ZtError(
                f"the store cannot be brought to migration {HEAD}: {error}",
                hint="was it made by a newer version of this program?",
            ) from error
