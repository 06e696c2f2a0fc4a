"""A log and an audit log to be searched: who is looked for, by which filters, and a few hundred."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from coordinator import audit, clock, logs, spans, walk
from coordinator.api.admin.history import AuditQuery
from coordinator.api.admin.network import LogQuery
from coordinator.api.context import Service
from coordinator.listing import PageQuery
from coordinator.nodes import Caller
from tests.unit import batches
from tests.unit.coordinator.test_network import add_node
from tests.unit.coordinator.ui.test_logs import event as flow

START = datetime.fromisoformat("2026-03-01T12:00:00+00:00")
COUNT = 300
SINCE, UNTIL = START + timedelta(seconds=100), START + timedelta(seconds=180)
LOG_VALUES: Mapping[str, Any] = {
    "node": "n1",
    "identity": "web",
    "verdict": "no_rule",
    "kind": "packet",
    "since": clock.rfc3339(SINCE),
    "until": clock.rfc3339(UNTIL),
}
AUDIT_VALUES = {
    "actor": "token b",
    "action": "delete",
    "kind": "rule",
    "name": "R7",
    "name_prefix": "r",
    "since": clock.rfc3339(SINCE),
    "until": clock.rfc3339(UNTIL),
}


def filters_of(query: type, paging: frozenset[str]) -> tuple[str, ...]:
    return tuple(spec.name for spec in fields(query) if spec.name not in paging)


LOG_FILTERS = filters_of(LogQuery, frozenset({"after", "before", "limit"}))
AUDIT_FILTERS = filters_of(AuditQuery, frozenset(spec.name for spec in fields(PageQuery)))


def some_of(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Nothing, each, each two, and all of NAMES."""
    for count in (0, 1, 2, len(names)):
        yield from combinations(names, count)


def filled(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A few hundred of each, some of them late, and small bounds; the events, as stored."""
    monkeypatch.setattr(walk, "MOST", 20)
    monkeypatch.setattr(spans, "SIZE", 16)
    chance = random.Random(1)
    for number in (1, 2):
        add_node(service, number, "mesh")
    stored: list[dict[str, Any]] = []
    for at in range(0, COUNT, 10):
        late = 120 if chance.random() < 0.1 else 0
        events = [_event(chance, max(0, at + i - late)) for i in range(10)]
        node = chance.choice(("n1", "n2"))
        stored += [{**one, "node": node} for one in events]
        with service.store.writing() as session:
            _store(session, node, events)
            for i in range(10):
                _record(session, chance, START + timedelta(seconds=at + i))
    return stored


def _event(chance: random.Random, second: int) -> dict[str, Any]:
    source, destination = chance.choice(("web", "api")), chance.choice(("api", "db"))
    tags = {"web": 4, "api": 3, "db": 5}
    return flow(
        second,
        verdict=chance.choice(("allowed", "allowed", "no_rule")),
        source_identity=source,
        source_tag=tags[source],
        destination_identity=destination,
        destination_tag=tags[destination],
        kind=chance.choice(("flow", "flow", "packet")),
        source_port=1000,
    )


def _store(session: Session, node: str, events: list[dict[str, Any]]) -> None:
    caller = Caller(node_id=f"node-{node[1]}", name=node, token_expires_at=clock.now())
    head = batches.head(*events)
    records = b"".join(batches.record(one, head.byte_order) for one in events)
    logs.store_batch(session, caller, head, memoryview(records), clock.now())


def _record(session: Session, chance: random.Random, at: datetime) -> None:
    actor = audit.token(chance.choice("aab"))
    action = chance.choice(("create", "update", "delete"))
    kind = chance.choice(("rule", "group"))
    name = chance.choice(("R7", "r1", "g"))
    audit.record(session, actor, action, kind, name, None, {"is": "there"}, at)


def address(path: str, given: Mapping[str, Any]) -> str:
    return f"{path}?{urlencode(given)}"


@contextmanager
def noted(service: Service) -> Iterator[list[tuple[str, Any]]]:
    """(statement, parameters) of what is asked of the store meanwhile."""
    found: list[tuple[str, Any]] = []

    def note(*given: Any) -> None:
        found.append((given[2], given[3]))

    event.listen(service.store.engine, "before_cursor_execute", note)
    yield found
    event.remove(service.store.engine, "before_cursor_execute", note)
