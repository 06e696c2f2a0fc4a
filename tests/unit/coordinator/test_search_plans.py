"""Each search of the log and of the audit log that the API offers is served by an index (SQLite).

What is offered is read from the API: a filter or a sort that is added without an index fails here.
"""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.api.admin.history import _AUDIT
from coordinator.api.context import Service
from tests.unit.coordinator import searched
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.searched import (
    AUDIT_FILTERS,
    AUDIT_VALUES,
    LOG_FILTERS,
    LOG_VALUES,
    address,
    noted,
    some_of,
)


@pytest.fixture
def filled(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return searched.filled(service, monkeypatch)


def test_each_search_that_the_api_offers_is_served_by_an_index(
    call: Call, service: Service, filled: list[dict[str, Any]]
) -> None:
    with noted(service) as statements:
        for names in some_of(LOG_FILTERS):
            given = {name: LOG_VALUES[name] for name in names}
            for cursor in ({}, {"after": 40}, {"before": 200}):
                call("GET", address("/logs", {**given, **cursor}))
        for sort in _AUDIT.orders():
            own = sort.removeprefix("-")
            for names in some_of(AUDIT_FILTERS):
                time_only = set(names) <= {"since", "until"}
                if own != "id" and not (set(names) <= {own} or (own == "at" and time_only)):
                    continue  # refused: see above
                given = {"sort": sort, "limit": 1, **{name: AUDIT_VALUES[name] for name in names}}
                following = call("GET", address("/audit", given))["next"]
                if following:
                    call("GET", address("/audit", {**given, "cursor": following}))
    plans = _plans(service, statements)
    assert len(plans) > 60
    for statement, plan in plans.items():
        for step in plan:
            assert "TEMP B-TREE" not in step, (statement, plan)
            assert step.startswith("SEARCH") or "USING INDEX search_" in step, (statement, plan)


def _plans(service: Service, statements: list[tuple[str, Any]]) -> dict[str, list[str]]:
    """What SQLite does for each statement that searches, by its text."""
    found: dict[str, list[str]] = {}
    with service.store.engine.connect() as connection:
        for statement, parameters in statements:
            if "FROM log_events" in statement or "FROM audit" in statement:
                asked = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                found[statement] = [row.detail for row in asked]
    return found


def test_a_search_without_an_index_is_seen_by_that_test(service: Service) -> None:
    (plan,) = _plans(
        service, [("SELECT id FROM log_events WHERE received_at > ? ORDER BY received_at", ("",))]
    ).values()
    assert plan == ["SCAN log_events", "USE TEMP B-TREE FOR ORDER BY"]
