"""A million log events and a million rows of the audit log, in SQLite: how long an administrator
waits for a page of what each filter finds, over HTTPS; and what the indexes cost the intake.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import insert
from sqlalchemy.orm import Session

from coordinator import clock, logs, spans
from coordinator.nodes import Caller
from coordinator.settings import load
from coordinator.store.engine import Store, opened
from coordinator.store.models import AuditRow, LogEventRow
from tests.bench.control.crud import _p99
from tests.bench.control.seed import SeededNode
from tests.bench.control.served import Owner, serving
from tests.bench.report import Figure, at_most, beside
from tests.unit import batches

ROWS = 1_000_000
PORTION = 20_000
ROUNDS = 20
BATCH = 1000
BATCHES = 20
BAR_MS = 150.0
START = clock.now() - timedelta(seconds=ROWS // 100)  # a hundred a second until now
HOUR_AGO = {"since": clock.rfc3339(clock.now() - timedelta(hours=1))}
LONG_AGO = {"until": clock.rfc3339(START + timedelta(seconds=60))}
LOGS: Mapping[str, Mapping[str, Any]] = {
    "newest": {},
    "one node": {"node": "client7"},
    "one identity": {"identity": "client7"},
    "a rare verdict": {"verdict": "no_rule"},
    "a rare kind": {"kind": "packet"},
    "long ago": LONG_AGO,
    "one node, the last hour": {"node": "client7", **HOUR_AGO},
    "two that are frequent and never together": {"kind": "flow", "verdict": "observed"},
    "all filters": {
        **{"node": "client7", "identity": "client8", "verdict": "allowed", "kind": "flow"},
        **HOUR_AGO,
    },
}
AUDIT: Mapping[str, Mapping[str, Any]] = {
    "newest": {},
    "one actor": {"actor": "token a7"},
    "one action": {"action": "delete"},
    "one object": {"kind": "rule", "name": "r77"},
    "long ago": LONG_AGO,
    "a prefix that nothing has": {"name_prefix": "zz"},
    "sorted by name": {"sort": "name"},
    "sorted by actor": {"sort": "-actor"},
}


def measure() -> list[Figure]:
    """The 99th percentile and the median of each search; events a second that are stored."""
    with serving({"client": 100}, 10) as served:
        settings = load(served.coordinator.directory / "coordinator.toml")
        with opened(settings.database_url) as store:
            empty = _intake(store, served.nodes[0])
            _fill(store, served.nodes)
            full = _intake(store, served.nodes[0])
        with closing(Owner(served)) as owner:
            times = dict(_searches(owner))
    every = sorted(ms for found in times.values() for ms in found)
    figures = [at_most("log and audit, 1,000,000 rows each: p99", [_p99(every)], "ms", BAR_MS)]
    figures += [
        at_most(f"  {name}: p99", [_p99(sorted(found))], "ms", BAR_MS)
        for name, found in times.items()
    ]
    figures += [beside(f"  {name}: median", found, "ms") for name, found in times.items()]
    for name, found in (("an empty store", empty), ("a full one", full)):
        figures.append(beside(f"stored in {name}", found, "events/s", more_is_better=True))
    return figures


def _searches(owner: Owner) -> Iterator[tuple[str, list[float]]]:
    owner.ask("GET", "/logs")  # connects
    for path, searches in (("/logs", LOGS), ("/audit", AUDIT)):
        for name, query in searches.items():
            address = f"{path}?{urlencode({**query, 'limit': 100})}"
            yield (
                f"{path} {name}",
                [_timed(partial(owner.ask, "GET", address)) for _ in range(ROUNDS)],
            )


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


def _intake(store: Store, node: SeededNode) -> list[float]:
    """Events a second, of each batch."""
    events = [_flow(random.Random(1), node.name) for _ in range(BATCH)]
    caller = Caller(node_id=node.id, name=node.name, token_expires_at=clock.now())
    found = []
    for _ in range(BATCHES):
        head = batches.head(*events)
        records = memoryview(b"".join(batches.record(one, head.byte_order) for one in events))

        def store_it(head: Any = head, records: memoryview = records) -> None:
            with store.writing() as session:
                logs.store_batch(session, caller, head, records, clock.now())

        found.append(BATCH * 1000 / _timed(store_it))
    return found


def _flow(chance: random.Random, source: str) -> dict[str, Any]:
    is_rare = chance.random() < 0.0001
    return {
        "at": clock.rfc3339(clock.now()),
        "kind": "packet" if is_rare else chance.choice(("flow", "update", "end")),
        "verdict": "no_rule" if is_rare else "allowed",
        "hook": "ingress",
        "source": "10.77.0.3",
        "destination": "10.77.0.2",
        "protocol": 6,
        "source_port": chance.randrange(1024, 65536),
        "destination_port": 8080,
        "source_identity": source,
        "destination_identity": "api",
        "source_tag": 4,
        "destination_tag": 3,
        "rule": None,
    }


def _fill(store: Store, nodes: list[SeededNode]) -> None:
    chance = random.Random(2)
    for first in range(0, ROWS, PORTION):
        with store.writing() as session:
            _fill_log(session, nodes, chance, first)
    for first in range(0, ROWS, PORTION):
        with store.writing() as session:
            _fill_audit(session, chance, first)


def _fill_log(session: Session, nodes: list[SeededNode], chance: random.Random, first: int) -> None:
    last = session.query(LogEventRow.id).order_by(LogEventRow.id.desc()).limit(1).scalar() or 0
    rows = []
    for number in range(first, first + PORTION):
        node, peer = chance.choice(nodes), chance.choice(nodes)
        at = START + timedelta(seconds=number // 100)
        event = {**_flow(chance, node.name), "destination_identity": peer.name}
        if event["kind"] == "end" and chance.random() < 0.5:
            event["verdict"] = "observed"  # frequent, and never a flow's
        columns = {f: event[f] for f in ("verdict", "kind", "source_identity")}
        columns |= {"destination_identity": peer.name, "event": event}
        rows.append({"node_id": node.id, "node": node.name, "at": at, "received_at": at, **columns})
    session.execute(insert(LogEventRow), rows)
    numbers = range(last + 1, last + PORTION + 1)
    spans.note(session, spans.LOG, numbers, rows[0]["at"], rows[-1]["at"])


def _fill_audit(session: Session, chance: random.Random, first: int) -> None:
    """Rows of no chain: they are searched, and nobody verifies them."""
    last = session.query(AuditRow.id).order_by(AuditRow.id.desc()).limit(1).scalar() or 0
    rows: list[dict[str, Any]] = [
        {
            "id": last + 1 + i,
            "at": START + timedelta(seconds=(first + i) // 100),
            "actor": f"token a{chance.randrange(20)}",
            "action": chance.choice(("create", "update", "delete")),
            "kind": chance.choice(("rule", "group", "node")),
            "name": f"r{chance.randrange(1000)}",
            "epoch": "e",
            "number": 1,
            "before": None,
            "after": {"name": "something", "members": ["web", "api"]},
            "previous": "0" * 64,
            "hash": f"{first + i:064x}",
        }
        for i in range(PORTION)
    ]
    session.execute(insert(AuditRow), rows)
    numbers = range(last + 1, last + PORTION + 1)
    spans.note(session, spans.AUDIT, numbers, rows[0]["at"], rows[-1]["at"])
