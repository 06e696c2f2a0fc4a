"""What is done to a coordinator from the command line: `init`, and making tokens."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from coordinator import access, audit, clock, network, privileges, revisions, tls
from coordinator.secrets import CHALLENGE_KEY, fresh_challenge_key
from coordinator.settings import Settings
from coordinator.store import migrate
from coordinator.store.engine import opened
from ztlab.errors import ZtError
from ztlab.model import codec
from ztlab.model.config import Revision
from ztlab.model.management import AdminRole

OWNER_TOKEN = "init"  # the name of the token that --owner-token-file writes


def initialise(settings: Settings, owner_token_file: Path | None = None) -> None:
    """Make the state directory, store, TLS authority and certificate, as far as they are missing.

    Run by root, it gives them to the user that the service will be, but for the authority's key:
    only `init` needs that.
    """
    user = None
    if os.geteuid() == 0 and settings.user is not None:
        user = privileges.account(settings.user)
    directory = settings.directory
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        with tls.alone(directory):
            if settings.certificate is None:
                tls.prepare(directory, settings.names, settings.certificate_days)
            _prepare_challenge_key(directory)
            _prepare_store(settings, owner_token_file)
            if user is not None:
                _give(settings, user)
    except OSError as error:
        raise ZtError(
            f"cannot prepare {directory}: {error.filename}: {error.strerror}",
            hint="run init as root, or as the user who owns the state directory",
        ) from error


def _prepare_challenge_key(directory: Path) -> None:
    if not (path := directory / CHALLENGE_KEY).exists():
        tls.write_file(path, fresh_challenge_key(), 0o600)


def _prepare_store(settings: Settings, owner_token_file: Path | None) -> None:
    with opened(settings.database_url) as store:
        migrate.upgrade(store.engine)
        with store.writing() as session:
            now = clock.now()
            if network.create(session, settings):
                made = {"name": settings.network, "pools": list(settings.pools)}
                _note(session, "init", "network", settings.network, made, now)
                revisions.begin(session, audit.OPERATOR, now)
            if owner_token_file is not None:
                token = access.create_token(session, OWNER_TOKEN, "owner", now, replaces=True)
                _note(session, "create", "token", OWNER_TOKEN, {"role": "owner"}, now)
                tls.write_file(owner_token_file, (token + "\n").encode(), 0o600)


def _give(settings: Settings, user: privileges.Account) -> None:
    files = tls.TlsFiles(settings.directory)
    owned = [settings.directory, files.authority, files.server, files.server_key]
    owned.append(settings.directory / CHALLENGE_KEY)
    if (database := settings.database_file) is not None:
        owned += [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]
    for path in owned:
        if path.exists():
            os.chown(path, user.uid, user.gid, follow_symlinks=False)


def begin_epoch(settings: Settings, database: str | None = None) -> Revision:
    """A new epoch for a store that was put back from a backup; the service must stand still.

    DATABASE is its URL, where it is not yet in its place.
    """
    with opened(database or settings.database_url) as store:
        migrate.upgrade(store.engine)
        with store.writing() as session:
            reached = network.begin_epoch(session)
            now = clock.now()
            _note(session, "restored", "network", settings.network, {}, now)
            revisions.begin(session, audit.OPERATOR, now)
            return reached


def note_backup(settings: Settings, name: str, size: int) -> None:
    """The audit log says that the store was copied to a file of that NAME: that is a second place
    to read it from. A store of an older version, which may have no such log, is left alone."""
    with opened(settings.database_url) as store:
        if migrate.current(store.engine) == migrate.HEAD:
            with store.writing() as session:
                _note(session, "backup", "network", name, {"bytes": size}, clock.now())


def create_token(settings: Settings, name: str, role: AdminRole) -> str:
    """An administrator's token, made beside a running service or without one.

    SchemaError for a name that the management API could not be asked to delete.
    """
    body = codec.decode(access.TokenBody, {"name": name, "role": role})
    with opened(settings.database_url) as store:
        migrate.check(store.engine)
        with store.writing() as session:
            now = clock.now()
            token = access.create_token(session, body.name, body.role, now)
            _note(session, "create", "token", body.name, {"role": body.role}, now)
            return token


def _note(
    session: Session, action: str, kind: str, name: str, after: dict[str, Any], now: datetime
) -> None:
    """A row of the audit log about what is done here."""
    audit.record(session, audit.OPERATOR, action, kind, name, None, after, now)
