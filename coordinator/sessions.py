"""Administrators at a browser: a session stands for the token that it was opened with.

It is a token of its own, worth what the administrator's is and for less time: the cookie carries
it, and the store keeps its SHA-256. It ends with the time, with a logout, and with the token.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from coordinator import audit
from coordinator.clock import rfc3339
from coordinator.errors import Unauthenticated
from coordinator.secrets import digest, fresh
from coordinator.store.models import AdminTokenRow, SessionRow

MOST = 20  # of one administrator; beyond them the oldest ends
TTL = timedelta(hours=8)  # a working day; whoever comes back tomorrow shows the token again


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """An open session.

    name, role  of the administrator's token
    csrf        what each of its forms must bring
    """

    name: str
    role: str
    csrf: str
    expires_at: datetime


def begin(session: Session, token: str, now: datetime) -> str:
    """A session for the administrator whose TOKEN it is: the cookie's value, shown this once."""
    found = select(AdminTokenRow).where(AdminTokenRow.hash == digest(token))
    row = session.scalars(found).one_or_none()
    if row is None:
        raise Unauthenticated("want an administrator's token")
    session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
    theirs = select(SessionRow.hash).where(SessionRow.token_name == row.name)
    oldest = theirs.order_by(SessionRow.created_at.desc(), SessionRow.hash).offset(MOST - 1)
    session.execute(delete(SessionRow).where(SessionRow.hash.in_(session.scalars(oldest).all())))
    cookie = fresh("zts")
    made = SessionRow(
        hash=digest(cookie),
        token_name=row.name,
        csrf=secrets.token_urlsafe(32),
        created_at=now,
        expires_at=now + TTL,
    )
    session.add(made)
    by = audit.token(row.name)
    audit.record(session, by, "login", "session", row.name, None, _shown(made), now)
    return cookie


def find(session: Session, cookie: str | None, now: datetime) -> Browser | None:
    """The open session of that cookie; None if there is none, or none any more."""
    row = session.get(SessionRow, digest(cookie)) if cookie else None
    if row is None or row.expires_at <= now:
        return None
    token = session.get_one(AdminTokenRow, row.token_name)
    return Browser(name=token.name, role=token.role, csrf=row.csrf, expires_at=row.expires_at)


def is_known(session: Session, cookie: str) -> bool:
    """Was it ours, though its time may be over? Those are swept with the next login."""
    return session.get(SessionRow, digest(cookie)) is not None


def administrator(session: Session, token: str, now: datetime) -> AdminTokenRow | None:
    """Whose open session TOKEN is, where it is one."""
    browser = find(session, token, now)
    return None if browser is None else session.get_one(AdminTokenRow, browser.name)


def end(session: Session, cookie: str, now: datetime) -> None:
    """The session of that cookie is over, if there was one."""
    row = session.get(SessionRow, digest(cookie))
    if row is not None:
        by = audit.token(row.token_name)
        audit.record(session, by, "logout", "session", row.token_name, _shown(row), None, now)
        session.delete(row)


def _shown(row: SessionRow) -> dict[str, str]:
    """As the audit log has it: neither the cookie nor what its forms bring."""
    return {"begun_at": rfc3339(row.created_at), "expires_at": rfc3339(row.expires_at)}


def end_all(session: Session, token_name: str) -> None:
    """Every session opened with the token of that name is over."""
    session.execute(delete(SessionRow).where(SessionRow.token_name == token_name))
