"""Log intake and search. A batch is stored whole or not at all, and once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from itertools import islice
from typing import Any

from sqlalchemy import func, insert, or_, select
from sqlalchemy.orm import Session

from coordinator import clock
from coordinator.nodes import Caller
from coordinator.store.models import LogBatchRow, LogEventRow, NodeRow
from ztlab.errors import SchemaError
from ztlab.model.codec import describe, did_you_mean, field
from ztlab.model.verdict import Hook, Verdict

MAX_EVENTS = 5000
MAX_FAULTS = 20  # a broken sender breaks every event alike
DEFAULT_LIMIT = 100
MAX_LIMIT = 5000


def _check_batch_id(text: str) -> None:
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        canonical = ""
    if canonical != text:
        raise ValueError(f"want a UUID in lower case, got {text!r}")


def _check_events(events: tuple[Any, ...]) -> None:
    if len(events) > MAX_EVENTS:
        raise ValueError(f"want at most {MAX_EVENTS} events, got {len(events)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBody:
    """Body of POST /node/logs; `events` are checked by `check_event`, for its speed."""

    batch_id: str = field(check=_check_batch_id)
    events: tuple[Any, ...] = field(check=_check_events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What GET /logs asks for; None: anything.

    identity  at either end
    since     events at or after this instant
    after     a cursor: events stored after it; None: the last `limit`
    """

    node: str | None = None
    identity: str | None = None
    verdict: str | None = None
    since: datetime | None = None
    after: int | None = None
    limit: int = DEFAULT_LIMIT


def store_batch(session: Session, caller: Caller, body: BatchBody, now: datetime) -> int:
    """How many events of the batch are stored; the same batch again stores nothing."""
    known = session.get(LogBatchRow, (caller.node_id, body.batch_id))
    if known is not None:
        return known.stored
    faults = (fault for i, event in enumerate(body.events) for fault in event_faults(event, i))
    if found := list(islice(faults, MAX_FAULTS)):
        raise SchemaError(found)
    rows = [
        {
            "node_id": caller.node_id,
            "node": caller.name,
            "at": clock.parse_rfc3339(event["at"]),
            "received_at": now,
            "verdict": event["verdict"],
            "source_identity": event.get("source_identity"),
            "destination_identity": event.get("destination_identity"),
            "event": event,
        }
        for event in body.events
    ]
    if rows:
        session.execute(insert(LogEventRow), rows)
    batch = LogBatchRow(
        node_id=caller.node_id, batch_id=body.batch_id, stored=len(rows), received_at=now
    )
    session.add(batch)
    session.get_one(NodeRow, caller.node_id).last_contact_at = now
    return len(rows)


def search(session: Session, wanted: Search) -> dict[str, Any]:
    """A page of events, newest last, and the cursor that continues it."""
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
    if wanted.after is None:
        newest = query.order_by(LogEventRow.id.desc()).limit(wanted.limit)
        rows = list(session.scalars(newest))[::-1]
    else:
        following = query.where(LogEventRow.id > wanted.after).order_by(LogEventRow.id)
        rows = list(session.scalars(following.limit(wanted.limit)))
    if wanted.after is not None and len(rows) == wanted.limit:
        cursor = rows[-1].id
    else:  # all that is there was looked at
        cursor = max(session.scalar(select(func.max(LogEventRow.id))) or 0, wanted.after or 0)
    return {"items": [_record(row) for row in rows], "next": cursor}


def _record(row: LogEventRow) -> dict[str, Any]:
    return {
        **row.event,
        "node_id": row.node_id,
        "node": row.node,
        "received_at": clock.rfc3339(row.received_at),
    }


def event_faults(event: Any, i: int) -> Iterator[str]:
    """One line per fault of the I-th event: an unknown key, a missing one, a wrong value.

    One by one, so that nobody needs to look for more than they will tell: a batch that is wrong
    all over would hold up everybody else for half a minute.
    """
    if not isinstance(event, Mapping):
        yield f"events[{i}]: want a mapping, got {describe(event)}"
        return
    for key, value in event.items():
        check = _CHECKS.get(key)
        if check is None:
            yield f"events[{i}].{key[:64]}: unknown key{did_you_mean(key, _CHECKS)}"
        elif not (check(value) or (value is None and key not in _REQUIRED)):
            yield f"events[{i}].{key}: want {_WANTED[key]}, got {describe(value)}"
    yield from (f"events[{i}].{key}: missing" for key in _REQUIRED if key not in event)


def _is_time(value: Any) -> bool:
    try:
        clock.parse_rfc3339(value)
    except (ValueError, TypeError):
        return False
    return True


def _is_address(value: Any) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    return isinstance(value, str) and "%" not in value  # no interface of that machine's


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64


def _within(limit: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= limit


def _one_of(words: frozenset[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


_VERDICTS = frozenset(verdict.word for verdict in Verdict)
_HOOKS = frozenset(hook.word for hook in Hook)
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "at": (_is_time, "an RFC 3339 time with its offset"),
    "kind": (_one_of(frozenset(("flow", "packet"))), "flow | packet"),
    "verdict": (_one_of(_VERDICTS), "a verdict"),
    "hook": (_one_of(_HOOKS), "ingress | egress"),
    "source": (_is_address, "an IP address"),
    "destination": (_is_address, "an IP address"),
    "protocol": (_within(255), "a protocol number"),
    "source_port": (_within(65535), "a port"),
    "destination_port": (_within(65535), "a port"),
    "source_identity": (_is_word, "a name"),
    "destination_identity": (_is_word, "a name"),
    "source_tag": (_within(2**24 - 1), "a tag"),
    "destination_tag": (_within(2**24 - 1), "a tag"),
    "rule": (_is_word, "a rule's id"),
    "length": (_within(2**32 - 1), "a length in bytes"),
    "peer_node_id": (_is_word, "a node's id"),
    "peer_client_id": (_is_word, "a client ID"),
}
_CHECKS = {key: check for key, (check, _) in _FIELDS.items()}
_WANTED = {key: wanted for key, (_, wanted) in _FIELDS.items()}
_REQUIRED = ("at", "kind", "verdict", "hook", "source", "destination", "protocol")
