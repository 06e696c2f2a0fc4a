"""/audit and /revisions: who changed what; what was written once, and back to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coordinator import audit, clock, document, network, revisions, rollback, spans, state, walk
from coordinator.api.route import Answer, Call, DryRunQuery, Reply, Route
from coordinator.differences import Difference
from coordinator.document import Document
from coordinator.listing import Listing, PageQuery, encode_cursor
from coordinator.store.models import AuditRow, RevisionRow
from ztlab.errors import NotFound, SchemaError
from ztlab.model import history
from ztlab.model.codec import field, restricted

PRESENT = "present"


def _check_time(text: str) -> None:
    clock.parse_rfc3339(text)


@restricted(pattern="^[0-9a-f]{64}$")
def _check_hash(text: str) -> None:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"want the hash of a row, 64 hexadecimal digits, got {text[:80]!r}")


def _check_against(text: str) -> None:
    if text != PRESENT:
        revisions.parse(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery(PageQuery):
    """What rows can be looked for by; the newest comes first.

    since, until  RFC 3339: at or after it; before it
    """

    sort: str | None = field(default="-id")
    actor: str | None = field(default=None)
    action: str | None = field(default=None)
    kind: str | None = field(default=None)
    name: str | None = field(default=None)
    name_prefix: str | None = field(default=None)
    since: str | None = field(default=None, check=_check_time)
    until: str | None = field(default=None, check=_check_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyQuery:
    """expect: the hash of a row, noted before, that must be in the log."""

    expect: str | None = field(default=None, check=_check_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionsQuery(PageQuery):
    """What revisions can be looked for by; the newest comes first."""

    sort: str | None = field(default="-id")
    actor: str | None = field(default=None)
    epoch: str | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionQuery:
    """against: "present", or EPOCH/NUMBER: also answer what differs from that."""

    against: str | None = field(default=None, check=_check_against)


_AUDIT: Listing[AuditRow] = Listing(
    rows=select(AuditRow),
    key=AuditRow.id,
    columns={
        "id": AuditRow.id,
        "at": AuditRow.at,
        "actor": AuditRow.actor,
        "action": AuditRow.action,
        "kind": AuditRow.kind,
        "name": AuditRow.name,
    },
    describe=lambda _, rows: [audit.describe(row) for row in rows],
)
_REVISIONS: Listing[RevisionRow] = Listing(
    rows=select(RevisionRow),
    key=RevisionRow.id,
    columns={
        "id": RevisionRow.id,
        "at": RevisionRow.at,
        "actor": RevisionRow.actor,
        "epoch": RevisionRow.epoch,
        "number": RevisionRow.number,
    },
    describe=lambda _, rows: [revisions.describe(row) for row in rows],
)


_AUDIT_FILTERS = ("actor", "action", "kind", "name", "name_prefix", "since", "until")
_OF_TIME = frozenset({"since", "until"})


def _list_audit(call: Call) -> Answer:
    asked: AuditQuery = call.query
    given = {f: value for f in _AUDIT_FILTERS if (value := getattr(asked, f)) is not None}
    since, until = (
        None if value is None else clock.parse_rfc3339(value)
        for value in (asked.since, asked.until)
    )
    sorted_by = (asked.sort or "").removeprefix("-")
    with call.reading() as session:
        if sorted_by == "id":
            return _walk_audit(session, asked, given, since, until)
        own = _OF_TIME if sorted_by == "at" else {sorted_by}
        if sorted_by in _AUDIT.columns and (others := given.keys() - own):
            raise SchemaError(
                [
                    f"sort: want id, -id or nothing together with {', '.join(sorted(others))}: "
                    "the log is too long to be sorted in another way"
                ]
            )
        rows = select(AuditRow)
        if since is not None:
            rows = rows.where(AuditRow.at >= since)
        if until is not None:
            rows = rows.where(AuditRow.at < until)
        filters = {name: given[name] for name in given.keys() - _OF_TIME}
        return replace(_AUDIT, rows=rows).page(session, asked, filters)


def _walk_audit(
    session: Session,
    asked: AuditQuery,
    given: Mapping[str, str],
    since: datetime | None,
    until: datetime | None,
) -> Answer:
    """By number. A page looks at a bounded number of rows: it may hold few and not be the last."""
    descends = asked.sort == "-id"
    first, last = 0, session.scalar(select(func.max(AuditRow.id))) or 0
    if asked.cursor is not None:
        _, reached = _AUDIT.decoded(AuditRow.id, asked)
        first, last = (first, min(last, reached - 1)) if descends else (reached + 1, last)
    ranges = [(first, last)]
    rest = []
    if since is not None or until is not None:
        ranges = spans.between(session, spans.AUDIT, since, until)
    if since is not None:
        rest.append(AuditRow.at >= since)
    if until is not None:
        rest.append(AuditRow.at < until)
    if asked.name_prefix is not None:
        rest.append(AuditRow.name.istartswith(asked.name_prefix, autoescape=True))
    terms = [
        walk.Term(columns=(_AUDIT.columns[name],), value=given[name])
        for name in ("actor", "action", "kind", "name")
        if name in given
    ]
    search = walk.Walk(table=AuditRow, key=AuditRow.id, terms=terms, rest=rest, descends=descends)
    found = search.through(session, walk.clipped(ranges, first, last), asked.limit + 1)
    page, reached = found.rows[: asked.limit], found.reached
    if len(found.rows) > asked.limit:
        reached = page[-1].id
    following = None if reached is None else encode_cursor(asked.sort, reached, reached)
    return {"items": [audit.describe(row) for row in page], "next": following}


def _audit_head(call: Call) -> Answer:
    with call.reading() as session:
        return audit.head(session)


def _verify_audit(call: Call) -> Answer:
    with call.reading() as session:
        found = audit.verify(session, expect=call.query.expect)
    return {
        "is_intact": found.is_intact,
        "rows": found.rows,
        "head": found.head,
        "faults": list(found.faults),
    }


def _list_revisions(call: Call) -> Answer:
    asked: RevisionsQuery = call.query
    names = ("actor", "epoch")
    filters = {name: value for name in names if (value := getattr(asked, name)) is not None}
    with call.reading() as session:
        return _REVISIONS.page(session, asked, filters)


def _get_revision(call: Call) -> Answer:
    epoch, number = _asked(call)
    against: str | None = call.query.against
    with call.reading() as session:
        since = revisions.find(session, epoch, number)
        found = revisions.document_at(session, epoch, number)
        differences = None
        if against is not None:
            there = document.differences(found, _against(session, against))
            differences = [_difference(one) for one in there]
        return {
            "since": revisions.describe(since),
            "document": found,
            "differences": differences,
        }


def _against(session: Session, text: str) -> Document:
    if text == PRESENT:
        return document.of(state.load(session))
    other = revisions.parse(text)
    try:
        return revisions.document_at(session, other.epoch, other.number)
    except NotFound as error:
        raise SchemaError([f"against: {error}"]) from None


def _difference(one: Difference) -> dict[str, Any]:
    shown = ("action", "kind", "name", "before", "after")
    return {name: getattr(one, name) for name in shown}


def _roll_back(call: Call) -> Reply:
    epoch, number = _asked(call)
    by, now = audit.token(call.actor), clock.now()

    def work(session: Session) -> None:
        present = network.revision(session)
        call.conditions.check(f"{present.epoch}/{present.number}")
        rollback.roll_back(session, epoch, number, by, now)

    return Reply(body=call.change(work))


def _asked(call: Call) -> tuple[str, int]:
    epoch, number = call.path["epoch"], call.path["number"]
    try:
        found = revisions.parse(f"{epoch}/{number}")
    except ValueError as error:
        raise NotFound(f"there is no such revision: {error}") from None
    return found.epoch, found.number


_ONE = "/revisions/{epoch}/{number}"
ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/audit",
        view=_list_audit,
        summary="Who changed what, the newest first",
        group="audit",
        role="viewer",
        query=AuditQuery,
        answer=history.AuditEntry,
        shape="page",
    ),
    Route(
        method="GET",
        path="/audit/head",
        view=_audit_head,
        summary="The hash of the newest row, to be noted elsewhere",
        group="audit",
        role="viewer",
        answer=history.AuditHead,
    ),
    Route(
        method="GET",
        path="/audit/verify",
        view=_verify_audit,
        summary="Go through the whole log: was a row changed, removed or inserted?",
        group="audit",
        role="owner",
        query=VerifyQuery,
        answer=history.AuditVerification,
    ),
    Route(
        method="GET",
        path="/revisions",
        view=_list_revisions,
        summary="The revisions at which what administrators write changed, the newest first",
        group="revisions",
        role="viewer",
        query=RevisionsQuery,
        answer=history.RevisionSummary,
        shape="page",
    ),
    Route(
        method="GET",
        path=_ONE,
        view=_get_revision,
        summary="What was written at a revision, and how that differs from another",
        group="revisions",
        role="viewer",
        query=RevisionQuery,
        answer=history.RevisionDocument,
    ),
    Route(
        method="POST",
        path=f"{_ONE}/rollback",
        view=_roll_back,
        summary="Write what was written at a revision again, as a new revision",
        group="revisions",
        role="editor",
        query=DryRunQuery,
        shape="revised",
        refuses=(404, 409),
        guarded=True,
    ),
)
