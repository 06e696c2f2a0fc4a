"""Who changed what, when: an append-only log in which each row carries the hash of the one before.

`record` puts a row into the transaction of the change itself, so neither is there without the
other. Rows are written when that transaction commits, once it is known which revision it made.
The store refuses to change or delete a row (migration 0003); who gets around that is found by
`verify`. What was cut off at the end is found only by who noted a hash before: `expect`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import event, insert, select
from sqlalchemy.orm import Session

from coordinator import clock, counters, spans
from coordinator.store.models import AuditRow, NetworkRow
from ztlab.model import codec
from ztlab.model.identity import client_id

START = "0" * 64  # what the first row names as the hash before it
OPERATOR = "operator"  # the actor of what is done by a command on the coordinator's machine
MOST_FAULTS = 100  # that a verification lists: one is enough to know
_PENDING = "zt_audit"
_SECRET = frozenset({"key", "token", "secret", "hash", "proof", "ephemeral_key", "nonce", "csrf"})
_READ_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change to be noted: who did what to which object, and that object before and after."""

    actor: str
    action: str
    kind: str
    name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found.

    rows    how many there are
    head    hash of the newest row; START where there is none
    faults  one line for each thing wrong; empty: nobody changed, removed or inserted a row
    """

    rows: int
    head: str
    faults: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        return not self.faults


def token(name: str) -> str:
    """The actor that is the administrator's token NAME."""
    return f"token {name}"


def node(name: str) -> str:
    """The actor that is the node NAME, with its own token."""
    return f"node {name}"


def key(public_key: str) -> str:
    """The actor that proved the WireGuard key PUBLIC_KEY, by its client ID."""
    return f"key {client_id(public_key)}"


def setup_key(key_id: str | None) -> str:
    """The actor that had the setup key of that id: a node that enrols."""
    return f"setup-key {key_id}"


def record(
    session: Session,
    actor: str,
    action: str,
    kind: str,
    name: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    now: datetime,
) -> None:
    """Note in SESSION's transaction what it changes; nothing where BEFORE and AFTER are the same.

    actor          token(), node(), key(), setup_key(), OPERATOR, or whence somebody unknown came
    before, after  the object as the API shows it, without secrets; None: it is not there
    """
    if before == after:
        return
    for shown in (before, after):
        if shown is not None and (secret := _SECRET & shown.keys()):
            raise ValueError(f"{', '.join(sorted(secret))} must not stand in the audit log")
    entry = Entry(
        actor=actor, action=action, kind=kind, name=name, before=before, after=after, at=now
    )
    pending: list[Entry] | None = session.info.get(_PENDING)
    if pending is None:
        session.info[_PENDING] = pending = []
        event.listen(session, "before_commit", _write, once=True)
    pending.append(entry)


def pending(session: Session) -> tuple[Entry, ...]:
    """What SESSION's transaction has noted so far, and writes when it commits."""
    return tuple(session.info.get(_PENDING, ()))


def head(session: Session) -> dict[str, Any]:
    """The newest row's number and hash, to be noted where nobody can change it: {"id", "hash"}."""
    last = _last(session)
    return {"id": last[0], "hash": last[1]}


def show_head(session: Session) -> None:
    """Let the metrics say what `head` says: at start, and after each commit of this process."""
    row_id, row_hash = _last(session)
    _show(row_id, row_hash)


def verify(session: Session, *, expect: str | None = None) -> Verification:
    """Go through the whole log; EXPECT is a hash that was noted before and must be in it."""
    faults: list[str] = []
    rows, before_id, before_hash = 0, 0, START
    is_there = expect in (None, START)
    for row in _rows(session):
        rows += 1
        found = [*_faults_of(row, before_id, before_hash)]
        faults += found[: MOST_FAULTS - len(faults)]
        before_id, before_hash = row.id, row.hash
        is_there = is_there or row.hash == expect
    if not is_there:
        faults.append(f"no row has the hash {expect}: the log was cut off, or is another one")
    return Verification(rows=rows, head=before_hash, faults=tuple(faults))


def row_hash(content: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, over the canonical JSON of a row without its `hash`."""
    return hashlib.sha256(codec.canonical(content)).hexdigest()


def describe(row: AuditRow) -> dict[str, Any]:
    """A row as docs/PROTOCOL.md shows it: what is hashed, and the hash."""
    return {**_content(row), "hash": row.hash}


def _content(row: AuditRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": clock.rfc3339(row.at),
        "actor": row.actor,
        "action": row.action,
        "kind": row.kind,
        "name": row.name,
        "revision": {"epoch": row.epoch, "number": row.number},
        "before": row.before,
        "after": row.after,
        "previous": row.previous,
    }


def _write(session: Session) -> None:
    """At the commit of what was recorded: chain the entries and insert them."""
    entries: list[Entry] = session.info.pop(_PENDING, [])
    if entries:
        session.flush()
        rows = _chained(session, entries)
        session.execute(insert(AuditRow), rows)
        times = [entry.at for entry in entries]
        numbers = range(rows[0]["id"], rows[-1]["id"] + 1)
        spans.note(session, spans.AUDIT, numbers, min(times), max(times))
        newest = rows[-1]["id"], rows[-1]["hash"]
        event.listen(session, "after_commit", lambda _: _show(*newest), once=True)


def _show(row_id: int, row_hash: str) -> None:
    counters.AUDIT_ROWS.set(row_id)
    counters.AUDIT_HEAD.clear()
    counters.AUDIT_HEAD.labels(row_hash).set(1)


def _chained(session: Session, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    # Locked: of two transactions on a database with several writers, the second chains to the
    # first. Columns and no entity: what is read must be the row and not what the session has.
    at = select(NetworkRow.epoch, NetworkRow.number).with_for_update()
    epoch, number = session.execute(at).one()
    row_id, previous = _last(session)
    made = []
    for entry in entries:
        row_id += 1
        values = {
            "id": row_id,
            "at": entry.at,
            "actor": entry.actor[:80],
            "action": entry.action,
            "kind": entry.kind,
            "name": entry.name[:270],
            "epoch": epoch,
            "number": number,
            "before": codec.encode(entry.before),
            "after": codec.encode(entry.after),
            "previous": previous,
        }
        previous = row_hash(_content(AuditRow(**values)))
        made.append({**values, "hash": previous})
    return made


def _last(session: Session) -> tuple[int, str]:
    newest = select(AuditRow.id, AuditRow.hash).order_by(AuditRow.id.desc()).limit(1)
    found = session.execute(newest).one_or_none()
    return (0, START) if found is None else (found.id, found.hash)


def _rows(session: Session) -> Iterator[AuditRow]:
    """Every row by number, a portion at a time: the log may be larger than memory."""
    last = 0
    while True:
        portion = select(AuditRow).where(AuditRow.id > last).order_by(AuditRow.id)
        rows = session.scalars(portion.limit(_READ_AT_ONCE)).all()
        yield from rows
        if len(rows) < _READ_AT_ONCE:
            return
        last = rows[-1].id
        session.expunge_all()
        time.sleep(0)  # in the service all requests share one thread: the others' turn


def _faults_of(row: AuditRow, before_id: int, before_hash: str) -> Iterator[str]:
    if row.hash != row_hash(_content(row)):
        yield f"row {row.id}: was changed: its hash is not that of its content"
    if row.id != before_id + 1:
        gone = (
            f"row {row.id - 1} is"
            if row.id == before_id + 2
            else (f"rows {before_id + 1} to {row.id - 1} are")
        )
        yield f"{gone} missing"
    elif row.previous != before_hash:
        yield (
            f"row {row.id}: does not follow row {before_id}: one of the two was changed, inserted "
            "or put in the place of another"
        )
