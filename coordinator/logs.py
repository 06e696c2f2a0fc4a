"""Log intake and search. A batch is stored whole or not at all, and once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, event, func, insert, select
from sqlalchemy.orm import Session

from coordinator import clock, counters, spans, walk
from coordinator.nodes import Caller
from coordinator.store.models import LogBatchRow, LogEventRow, NodeRow
from ztlab.model import logbatch
from ztlab.model.logbatch import Head

DEFAULT_LIMIT = 100
MAX_LIMIT = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What GET /logs asks for; None: anything.

    identity  at either end
    since     events at or after this instant; until: before it
    after     a cursor: events stored after it; None: the last `limit`
    before    a cursor: the last `limit` of those stored before it; not with `after`
    """

    node: str | None = None
    identity: str | None = None
    verdict: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    before: int | None = None
    limit: int = DEFAULT_LIMIT


def store_batch(
    session: Session, caller: Caller, head: Head, records: memoryview, now: datetime
) -> int:
    """How many events of the batch, which is checked, are stored; the same again stores nothing."""
    known = session.get(LogBatchRow, (caller.node_id, head.batch_id))
    if known is not None:
        counters.LOG_BATCHES.labels("repeated").inc()
        return known.stored
    rows = [
        {
            "node_id": caller.node_id,
            "node": caller.name,
            "at": clock.parse_rfc3339(event["at"]),
            "received_at": now,
            "verdict": event["verdict"],
            "source_identity": event["source_identity"],
            "destination_identity": event["destination_identity"],
            "kind": event["kind"],
            "event": event,
        }
        for event in logbatch.documents(records, head, head.byte_order)
    ]
    if rows:
        session.execute(insert(LogEventRow), rows)
        # Writers queue: the newest are these, in a row.
        last = session.scalars(select(func.max(LogEventRow.id))).one()
        times = [row["at"] for row in rows]
        numbers = range(last - len(rows) + 1, last + 1)
        spans.note(session, spans.LOG, numbers, min(times), max(times))
    batch = LogBatchRow(
        node_id=caller.node_id, batch_id=head.batch_id, stored=len(rows), received_at=now
    )
    session.add(batch)
    session.get_one(NodeRow, caller.node_id).last_contact_at = now
    event.listen(session, "after_commit", lambda _: _count(len(rows)), once=True)
    return len(rows)


def _count(stored: int) -> None:
    counters.LOG_BATCHES.labels("stored").inc()
    counters.LOG_EVENTS.inc(stored)


def prune(session: Session, before: datetime, most: int, at_once: int) -> int:
    """Forget events that came BEFORE, and the oldest of more than MOST; AT_ONCE rows at most, so
    that nobody waits for long. How many went.

    The newest stays, or its number would be given again, and cursors would lead past new events.
    """
    newest = session.scalar(select(func.max(LogEventRow.id))) or 0
    oldest = select(LogEventRow.id, LogEventRow.received_at).order_by(LogEventRow.id).limit(at_once)
    doomed = [
        number
        for number, came in session.execute(oldest)
        if number != newest and (came < before or number <= newest - most)
    ]
    if doomed:
        session.execute(delete(LogEventRow).where(LogEventRow.id.in_(doomed)))
        oldest_id = session.scalars(select(func.min(LogEventRow.id))).one()
        spans.forget(session, spans.LOG, oldest_id)
    counters.LOG_PRUNED.inc(len(doomed))
    return len(doomed)


def prune_batches(session: Session, before: datetime) -> None:
    """Forget the ids of batches that nobody sends again."""
    session.execute(delete(LogBatchRow).where(LogBatchRow.received_at < before))


def search(session: Session, wanted: Search) -> dict[str, Any]:
    """A page of events, newest last; `next` is a cursor for `after`, `previous` for `before`.

    It looks at a bounded number of events. Where those that match are rare, a page has fewer than
    `limit`, even none, and the cursor leads to where it stopped.
    """
    newest = session.scalar(select(func.max(LogEventRow.id))) or 0
    if wanted.after is not None:
        found = _walk(wanted, descends=False).through(
            session, _ranges(session, wanted, wanted.after + 1, newest), wanted.limit
        )
        rows, previous = found.rows, wanted.after + 1
        following = max(newest, wanted.after) if found.reached is None else found.reached
        return _page(rows, following, rows[0].id if rows else previous)
    last = newest if wanted.before is None else min(wanted.before - 1, newest)
    walked = _walk(wanted, descends=True).through(
        session, _ranges(session, wanted, 0, last), wanted.limit
    )
    rows = walked.rows[::-1]
    following = newest if wanted.before is None else max(rows[-1].id if rows else last, 0)
    return _page(rows, following, walked.reached)


def _page(rows: Sequence[LogEventRow], following: int, previous: int | None) -> dict[str, Any]:
    return {"items": [_record(row) for row in rows], "next": following, "previous": previous}


def _ranges(session: Session, wanted: Search, first: int, last: int) -> list[walk.Range]:
    """Where events of the wanted time can be, from FIRST to LAST."""
    everywhere = [(first, last)]
    if wanted.since is not None or wanted.until is not None:
        everywhere = spans.between(session, spans.LOG, wanted.since, wanted.until)
    return walk.clipped(everywhere, first, last)


def _walk(wanted: Search, *, descends: bool) -> walk.Walk[LogEventRow]:
    row = LogEventRow
    columns: dict[str, tuple[walk.Column, ...]] = {
        "node": (row.node, row.node_id),
        "identity": (row.source_identity, row.destination_identity),
        "verdict": (row.verdict,),
        "kind": (row.kind,),
    }
    terms = [
        walk.Term(columns=among, value=value)
        for name, among in columns.items()
        if (value := getattr(wanted, name)) is not None
    ]
    rest = []
    if wanted.since is not None:
        rest.append(row.at >= wanted.since)
    if wanted.until is not None:
        rest.append(row.at < wanted.until)
    return walk.Walk(table=row, key=row.id, terms=terms, rest=rest, descends=descends)


def _record(row: LogEventRow) -> dict[str, Any]:
    return {
        **row.event,
        "node_id": row.node_id,
        "node": row.node,
        "received_at": clock.rfc3339(row.received_at),
    }
