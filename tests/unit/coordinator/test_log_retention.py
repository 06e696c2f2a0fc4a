"""Log events that are too old or too many go, a few at a time, and cursors go on."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, insert, select

from coordinator import clock, logs
from coordinator.api.context import Service
from coordinator.logs import Search
from coordinator.retention import BATCH_IDS, LogRetention
from coordinator.store.models import LogBatchRow, LogEventRow
from tests.unit.coordinator.test_network import add_node

ON_BOTH_STORES = True
NOW = clock.now()


def store(service: Service, count: int, came: datetime) -> None:
    """COUNT events that were received at CAME."""
    with service.store.writing() as session:
        node_id = session.scalar(select(LogEventRow.node_id).limit(1))
    node_id = node_id or add_node(service, 1, "mesh")
    row = {"node_id": node_id, "node": "n1", "at": came, "received_at": came, "verdict": "allowed"}
    with service.store.writing() as session:
        session.execute(insert(LogEventRow), [{**row, "event": {}} for _ in range(count)])


def stored(service: Service) -> int:
    with service.store.reading() as session:
        return session.scalar(select(func.count()).select_from(LogEventRow)) or 0


def test_what_is_too_old_goes_and_the_rest_stays(service: Service) -> None:
    store(service, 2500, NOW - timedelta(days=8))
    store(service, 7, NOW)
    LogRetention(service.store, days=7, most=10_000).tick()
    assert stored(service) == 7


def test_the_oldest_of_too_many_go(service: Service) -> None:
    store(service, 1700, NOW)
    LogRetention(service.store, days=7, most=1200).tick()
    assert stored(service) == 1200


def test_one_transaction_takes_a_bounded_number(service: Service) -> None:
    store(service, 50, NOW - timedelta(days=8))
    with service.store.writing() as session:
        assert logs.prune(session, NOW, most=1000, at_once=20) == 20
    assert stored(service) == 30


def test_a_cursor_goes_on_after_everything_was_forgotten(service: Service) -> None:
    store(service, 30, NOW - timedelta(days=8))
    with service.store.reading() as session:
        cursor = logs.search(session, Search())["next"]
    LogRetention(service.store, days=7, most=1000).tick()
    store(service, 1, NOW)
    with service.store.reading() as session:
        assert len(logs.search(session, Search(after=cursor))["items"]) == 1


def test_ids_of_batches_are_forgotten_when_nobody_can_send_them_again(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    ages = {"old": BATCH_IDS + timedelta(hours=1), "young": BATCH_IDS - timedelta(hours=1)}
    with service.store.writing() as session:
        for name, age in ages.items():
            came = clock.now() - age
            session.add(LogBatchRow(node_id=node_id, batch_id=name, stored=1, received_at=came))
    LogRetention(service.store, days=7, most=1000).tick()
    with service.store.reading() as session:
        assert list(session.scalars(select(LogBatchRow.batch_id))) == ["young"]
