"""Log intake and search. A batch is stored whole or not at all, and once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, event, func, insert, or_, select
from sqlalchemy.orm import Session

from coordinator import clock, counters
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
            "event": event,
        }
        for event in logbatch.documents(records, head, head.byte_order)
    ]
    if rows:
        session.execute(insert(LogEventRow), rows)
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
    counters.LOG_PRUNED.inc(len(doomed))
    return len(doomed)


def prune_batches(session: Session, before: datetime) -> None:
    """Forget the ids of batches that nobody sends again."""
    session.execute(delete(LogBatchRow).where(LogBatchRow.received_at < before))


def search(session: Session, wanted: Search) -> dict[str, Any]:
    """A page of events, newest last; `next` is a cursor for `after`, `previous` for `before`."""
    query = select(LogEventRow)
    if wanted.node is not None:
        query = query.where(
            or_(LogEventRow.node == wanted.node, LogEventRow.node_id == wanted.node)
        )
    if wanted.identity is not None:
        ends = (LogEventRow.source_identity, LogEventRow.destination_identity)
        query = query.where(or_(*(end == wanted.identity for end in ends)))
    if wanted.verdict is not None:
        query = query.where(LogEventRow.verdict == wanted.verdict)
    if wanted.since is not None:
        query = query.where(LogEventRow.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(LogEventRow.at < wanted.until)
    if wanted.kind is not None:
        query = query.where(LogEventRow.event["kind"].as_string() == wanted.kind)
    if wanted.before is not None:
        query = query.where(LogEventRow.id < wanted.before)
    if wanted.after is None:
        newest = query.order_by(LogEventRow.id.desc()).limit(wanted.limit)
        rows = list(session.scalars(newest))[::-1]
    else:
        following = query.where(LogEventRow.id > wanted.after).order_by(LogEventRow.id)
        rows = list(session.scalars(following.limit(wanted.limit)))
    is_full = len(rows) == wanted.limit
    if rows and (wanted.before is not None or (wanted.after is not None and is_full)):
        cursor = rows[-1].id
    else:  # all that is there was looked at
        cursor = max(session.scalar(select(func.max(LogEventRow.id))) or 0, wanted.after or 0)
    previous = None  # nothing lies before what is shown
    if wanted.after is not None or is_full:
        previous = rows[0].id if rows else (wanted.after or 0) + 1
    return {"items": [_record(row) for row in rows], "next": cursor, "previous": previous}


def _record(row: LogEventRow) -> dict[str, Any]:
    return {
        **row.event,
        "node_id": row.node_id,
        "node": row.node,
        "received_at": clock.rfc3339(row.received_at),
    }
