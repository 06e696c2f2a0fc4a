"""Who may use the management API: administrators' tokens and their roles; and setup keys."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from coordinator import clock, sessions
from coordinator.errors import Conflict, Forbidden, Unauthenticated
from coordinator.secrets import digest, fresh
from coordinator.store.models import AdminTokenRow, GroupRow, SetupKeyRow
from coordinator.validation import check_free_name
from ztlab.errors import NotFound, SchemaError
from ztlab.model.codec import did_you_mean, field, restricted
from ztlab.model.config import Role
from ztlab.model.management import AdminRole as AdminRole  # others know it from here
from ztlab.model.policy import check_name
from ztlab.model.proof import format_setup_key

ADMIN_ROLES: tuple[AdminRole, ...] = get_args(AdminRole)  # each may do what those before it may


@restricted(minimum=1, maximum=100_000)
def _check_uses(uses: int) -> None:
    if not 1 <= uses <= 100_000:
        raise ValueError(f"want 1 to 100000 uses, got {uses}")


@restricted(minimum=1, maximum=31_536_000)
def _check_ttl(seconds: int) -> None:
    if not 1 <= seconds <= 31_536_000:
        raise ValueError(f"want 1 second to a year (31536000), got {seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupKeyBody:
    """Body of POST /setup-keys.

    name      the node name it is bound to; None: any
    identity  what the node will be; None: an identity of its own
    group     what that identity of its own joins
    """

    name: str | None = field(default=None, check=check_name)
    role: Role
    identity: str | None = field(default=None, check=check_free_name)
    group: str | None = field(default=None, check=check_free_name)
    uses: int = field(default=1, check=_check_uses)
    ttl_s: int = field(default=86400, check=_check_ttl)

    def __post_init__(self) -> None:
        if self.identity is not None and self.group is not None:
            raise ValueError("want an identity or a group: a shared identity joins none by a key")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBody:
    """Body of POST /tokens."""

    name: str = field(check=check_name)
    role: AdminRole


def create_token(
    session: Session, name: str, role: AdminRole, now: datetime, *, replaces: bool = False
) -> str:
    """A new administrator's token, shown once. Conflict if NAME has one, unless it REPLACES it."""
    row = session.get(AdminTokenRow, name)
    if row is not None and not replaces:
        raise Conflict(f"a token is called {name!r} already")
    token = fresh("zta")
    if row is None:
        row = AdminTokenRow(name=name)
        session.add(row)
    else:
        sessions.end_all(session, name)
    row.hash, row.role, row.created_at = digest(token), role, now
    return token


def delete_token(session: Session, name: str) -> None:
    """The token of that name is worth nothing any more. Conflict if it is the last owner's."""
    row = admin_token(session, name)
    if row.role == "owner":
        _refuse_to_lose_the_last_owner(session, name)
    session.delete(row)


def tokens(session: Session) -> list[dict[str, Any]]:
    """Every administrator's token, without the tokens."""
    rows = session.scalars(select(AdminTokenRow).order_by(AdminTokenRow.name))
    return [describe_token(row) for row in rows]


def admin_token(session: Session, name: str) -> AdminTokenRow:
    """NotFound if there is none."""
    row = session.get(AdminTokenRow, name)
    if row is None:
        raise NotFound(f"no token is called {name!r}")
    return row


def describe_token(row: AdminTokenRow) -> dict[str, Any]:
    """As docs/PROTOCOL.md shows it."""
    return {"name": row.name, "role": row.role, "created_at": clock.rfc3339(row.created_at)}


def change_role(session: Session, name: str, role: AdminRole) -> AdminTokenRow:
    """The token of that name may do what ROLE may. Conflict if no owner would be left."""
    row = admin_token(session, name)
    if row.role == "owner" and role != "owner":
        _refuse_to_lose_the_last_owner(session, name)
    row.role = role
    return row


def _refuse_to_lose_the_last_owner(session: Session, name: str) -> None:
    others = select(AdminTokenRow.name).where(
        AdminTokenRow.role == "owner", AdminTokenRow.name != name
    )
    if session.scalars(others.limit(1)).first() is None:
        raise Conflict(
            f"{name!r} is the last owner: nobody could make another one",
            [f"tokens.{name}.role: want another owner first"],
        )


def authorize(session: Session, token: str | None, needed: AdminRole) -> str:
    """The name of the administrator whose TOKEN it is, if it may do what NEEDED may."""
    row = None
    if token:
        found = select(AdminTokenRow).where(AdminTokenRow.hash == digest(token))
        row = session.scalars(found).one_or_none()
        row = row or sessions.administrator(session, token, clock.now())
    if row is None:
        raise Unauthenticated("want an administrator's token")
    ranks = {role: rank for rank, role in enumerate(ADMIN_ROLES)}
    if ranks.get(row.role, -1) < ranks[needed]:  # type: ignore[call-overload]
        raise Forbidden(
            f"this needs the role {needed}, the token {row.name!r} has {row.role}",
            subject=row.name,
        )
    return row.name


def create_setup_key(
    session: Session, body: SetupKeyBody, authority: bytes, now: datetime
) -> dict[str, Any]:
    """A new setup key, shown this once; AUTHORITY is the SHA-256 that the node will pin."""
    if body.group is not None and session.get(GroupRow, body.group) is None:
        known = session.scalars(select(GroupRow.name)).all()
        hint = did_you_mean(body.group, known)
        raise SchemaError([f"group: no group is called {body.group!r}{hint}"])
    is_history = SetupKeyRow.revoked_at.is_not(None) & (SetupKeyRow.expires_at <= now)
    session.execute(delete(SetupKeyRow).where(is_history))
    key = format_setup_key(secrets.token_bytes(32), authority)
    row = SetupKeyRow(
        id=str(uuid.uuid4()),
        hash=digest(key),
        name=body.name,
        role=body.role,
        identity=body.identity,
        uses=body.uses,
        uses_left=body.uses,
        created_at=now,
        expires_at=now + timedelta(seconds=body.ttl_s),
        group=body.group,
        authority=authority.hex(),
    )
    session.add(row)
    return {**describe_setup_key(row), "key": key}


def setup_keys(session: Session) -> list[dict[str, Any]]:
    """Every setup key, without the keys."""
    there = select(SetupKeyRow).where(SetupKeyRow.revoked_at.is_(None))
    rows = session.scalars(there.order_by(SetupKeyRow.created_at, SetupKeyRow.id))
    return [describe_setup_key(row) for row in rows]


def setup_key(session: Session, key_id: str) -> SetupKeyRow:
    """NotFound if there is none."""
    row = session.get(SetupKeyRow, key_id)
    if row is None or row.revoked_at is not None:
        raise NotFound(f"no setup key has the id {key_id!r}")
    return row


def revoke_setup_key(session: Session, key_id: str, now: datetime) -> None:
    """The key lets nobody in any more. NotFound if there is none."""
    row = setup_key(session, key_id)
    row.revoked_at, row.uses_left = now, 0


def describe_setup_key(row: SetupKeyRow) -> dict[str, Any]:
    """As docs/PROTOCOL.md shows it."""
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "identity": row.identity,
        "group": row.group,
        "uses": row.uses,
        "uses_left": row.uses_left,
        "created_at": clock.rfc3339(row.created_at),
        "expires_at": clock.rfc3339(row.expires_at),
    }
