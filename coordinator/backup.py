"""`zt-coordinator backup` and `restore`: SQLite's store as one file, and back.

A backup is the store alone. The TLS authority's and the challenges' keys are no part of it: they
do not change from day to day, and who has them can pretend to be the coordinator.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from coordinator import clock, network, privileges, setup, tls
from coordinator.settings import SQLITE, Settings
from coordinator.store.engine import opened
from coordinator.store.models import NodeRow
from ztlab.errors import ZtError
from ztlab.model.config import Revision

_LOCK = "running.lock"
_HEADER = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A store that was put back.

    revision  where it stands, in an epoch of its own
    aside     the store that was there before; None: there was none
    """

    revision: Revision
    nodes: int
    aside: Path | None


@contextmanager
def in_use(directory: Path) -> Iterator[None]:
    """The service runs in DIRECTORY meanwhile; its child processes included."""
    handle = _lock_file(directory)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def backup(settings: Settings, destination: Path) -> int:
    """Copy the store as it is at one moment, beside a running service; the size in bytes.

    The file is checked, written whole or not at all, and its owner's alone. ZtError if it cannot
    be made, or there is something in the way.
    """
    database = _file(settings)
    if not database.exists():
        raise ZtError(f"there is no store at {database}", hint="`zt-coordinator init` makes it")
    if destination.exists():
        raise ZtError(f"{destination} is there already", hint="name a file that is not")
    fresh = database.with_name(f".backup-{os.getpid()}")
    made = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        with _as_owner_of(database):
            _copy(database, fresh)
        check(fresh)
        _write(fresh, made)
        os.link(made, destination)  # as rename, but over nothing that came meanwhile
        _sync_directory(destination.parent)
        size = destination.stat().st_size
        with _as_owner_of(database):
            setup.note_backup(settings, destination.name, size)
    except (OSError, sqlite3.Error) as error:
        raise ZtError(
            f"cannot back up {database} to {destination}: {error}",
            hint="run it as root, or as the user who owns the state directory; is there room?",
        ) from error
    finally:
        for path in (fresh, made):
            path.unlink(missing_ok=True)
    return size


def restore(settings: Settings, source: Path) -> Restored:
    """Put a backup in the place of the store, migrated and in a new epoch; the old one is kept.

    ZtError, and nothing was changed, where the service runs, where SOURCE is no sound store of a
    version that this program knows, or is of another network.
    """
    database = _file(settings)
    check(source)
    fresh = database.with_name(f".restore-{os.getpid()}")
    try:
        with tls.alone(settings.directory), _stopped(settings.directory):
            _write(source, fresh)
            revision, nodes = _prepare(settings, fresh)
            _give(settings, database, fresh)
            aside = _put_aside(database)
            os.replace(fresh, database)
            _sync_directory(database.parent)
    except OSError as error:
        raise ZtError(
            f"cannot restore {source} to {database}: {error}",
            hint="run it as root, or as the user who owns the state directory; is there room?",
        ) from error
    finally:
        for suffix in ("", "-wal", "-shm"):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    return Restored(revision=revision, nodes=nodes, aside=aside)


def check(path: Path) -> None:
    """ZtError unless the file at PATH is a whole SQLite database, by its own account."""
    try:
        with path.open("rb") as file:
            if file.read(len(_HEADER)) != _HEADER:
                raise ZtError(f"{path} is no backup of a store", hint="it is no SQLite database")
        # Nobody else has it, so nothing is left in a log beside it.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as copy:
            said = [row[0] for row in copy.execute("PRAGMA integrity_check(3)")]
            said += [f"a row of {row[0]} refers to nothing" for row in _dangling(copy)]
    except (OSError, sqlite3.Error) as error:
        raise ZtError(f"cannot read {path}: {error}") from error
    if said != ["ok"]:
        raise ZtError(f"{path} is damaged: {'; '.join(said)}", hint="take an older backup")


def _dangling(database: sqlite3.Connection) -> list[tuple[str]]:
    return database.execute("PRAGMA foreign_key_check").fetchmany(3)


def _file(settings: Settings) -> Path:
    if settings.database_file is None:
        raise ZtError(
            "the store is a PostgreSQL database, which has tools of its own",
            hint="pg_dump --format=custom; pg_restore, then `zt-coordinator restored`",
        )
    return settings.database_file


def _copy(database: Path, fresh: Path) -> None:
    """One step, so that it is one moment's: in WAL mode nobody waits for a reader."""
    with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(fresh)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, with no log beside it


@contextmanager
def _as_owner_of(path: Path) -> Iterator[None]:
    """SQLite's side files would be root's otherwise, and the service could not open its store."""
    owner = path.stat()
    if os.geteuid() != 0:
        yield
        return
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def _stopped(directory: Path) -> Iterator[None]:
    handle = _lock_file(directory)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ZtError(
            f"a coordinator runs in {directory}",
            hint="stop it first: systemctl stop zt-coordinator",
        ) from None
    finally:
        os.close(handle)


def _lock_file(directory: Path) -> int:
    handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    if os.geteuid() == 0:  # or the service could not open it
        owner = directory.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)
    return handle


def _prepare(settings: Settings, fresh: Path) -> tuple[Revision, int]:
    """The copy, migrated and in a new epoch, before it takes anybody's place."""
    copy = f"{SQLITE}{fresh}"
    revision = setup.begin_epoch(settings, copy)
    with opened(copy) as store, store.writing() as session:
        if network.create(session, settings):  # ZtError where it is of another network
            raise ZtError("this is a store without a network", hint="it was never initialised")
        return revision, len(session.scalars(select(NodeRow.id)).all())


def _put_aside(database: Path) -> Path | None:
    """Keep the store that is there, under a name with the time; it stays in its place until the
    other takes it, or a start in between would found a new network.

    Its log belongs to it, and would be read into the new one. What is in the log comes into the
    store before the log goes: if nothing takes its place after all, it is whole. What is damaged
    SQLite cannot read, and takes away the log of: that is why both are kept before it is asked.
    """
    if not database.exists():
        return None
    aside = database.with_name(f"{database.name}.before-{clock.now():%Y%m%dT%H%M%S.%fZ}")
    os.link(database, aside)
    log = database.with_name(database.name + "-wal")
    if log.exists():
        _write(log, aside.with_name(aside.name + "-wal"))
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        log.unlink(missing_ok=True)
    database.with_name(database.name + "-shm").unlink(missing_ok=True)
    return aside


def _give(settings: Settings, database: Path, fresh: Path) -> None:
    if os.geteuid() != 0:
        return
    if database.exists():
        owner = database.stat()
        os.chown(fresh, owner.st_uid, owner.st_gid)
    elif settings.user is not None:
        account = privileges.account(settings.user)
        os.chown(fresh, account.uid, account.gid)


def _write(source: Path, destination: Path) -> None:
    """Copy, 0600 from the first byte on, and to the disk."""
    handle = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as reading, os.fdopen(handle, "wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fsync(writing.fileno())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
