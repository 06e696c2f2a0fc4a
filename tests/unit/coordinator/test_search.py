"""Searches of the log and of the audit log: complete, page by page, and each page bounded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from coordinator import clock, logs, spans
from coordinator.api.context import Service
from coordinator.logs import Search
from coordinator.store.models import LogEventRow, SpanRow
from tests.unit.coordinator import searched
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.searched import (
    AUDIT_FILTERS,
    AUDIT_VALUES,
    COUNT,
    LOG_FILTERS,
    LOG_VALUES,
    START,
    address,
    noted,
    some_of,
)

ON_BOTH_STORES = True


@pytest.fixture
def filled(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return searched.filled(service, monkeypatch)


def _matches(one: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    ends = (one["source_identity"], one["destination_identity"])
    return all(
        (
            given.get("node") in (None, one["node"]),
            given.get("identity") in (None, *ends),
            given.get("verdict") in (None, one["verdict"]),
            given.get("kind") in (None, one["kind"]),
            "since" not in given or one["at"] >= given["since"],
            "until" not in given or one["at"] < given["until"],
        )
    )


def test_pages_of_the_log_lead_to_each_event_once_both_ways(
    call: Call, filled: list[dict[str, Any]]
) -> None:
    sizes = set()
    for names in some_of(LOG_FILTERS):
        given = {name: LOG_VALUES[name] for name in names}
        wanted = [one["at"] for one in filled if _matches(one, given)]
        backwards: list[str] = []
        query: dict[str, Any] = {**given, "limit": 9}
        while True:
            page = call("GET", address("/logs", query))
            backwards = [item["at"] for item in page["items"]] + backwards
            if page["previous"] is None:
                break
            query["before"] = page["previous"]
        forwards, query = [], {**given, "limit": 9, "after": 0}
        while query["after"] < COUNT:
            page = call("GET", address("/logs", query))
            forwards += [item["at"] for item in page["items"]]
            assert page["next"] > query["after"]
            query["after"] = page["next"]
        assert backwards == forwards == wanted, names
        sizes.add(len(wanted))
    assert COUNT in sizes and len(sizes) > 10  # the filters filter


def test_pages_of_the_audit_log_lead_to_each_row_once(
    call: Call, filled: list[dict[str, Any]]
) -> None:
    whole = call("GET", "/audit?sort=at&limit=1000")["items"]
    for names in some_of(AUDIT_FILTERS):
        given = {name: AUDIT_VALUES[name] for name in names}
        wanted = [row["id"] for row in whole if _is_row(row, given)]
        for sort in ("id", "-id"):
            found: list[int] = []
            query = {**given, "sort": sort, "limit": 40}
            while True:
                page = call("GET", address("/audit", query))
                found += [row["id"] for row in page["items"]]
                if page["next"] is None:
                    break
                query["cursor"] = page["next"]
            assert found == sorted(wanted, reverse=sort == "-id"), (names, sort)


def _is_row(row: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return all(
        (
            *(given.get(f) in (None, row[f]) for f in ("actor", "action", "kind", "name")),
            row["name"].lower().startswith(given.get("name_prefix", "")),
            "since" not in given or row["at"] >= given["since"],
            "until" not in given or row["at"] < given["until"],
        )
    )


def test_a_page_that_finds_nothing_stops_after_a_bounded_number(
    service: Service, filled: list[dict[str, Any]]
) -> None:
    # Each of the two is frequent, and never are they together.
    with service.store.writing() as session:
        session.execute(update(LogEventRow).where(LogEventRow.node == "n1").values(verdict="ours"))
    with service.store.reading() as session:
        both = logs.search(session, Search(node="n2", verdict="ours"))
        assert both["items"] == [] and 200 < both["previous"] <= COUNT - 20
        rare = logs.search(session, Search(node="n2", verdict="observed"))
        assert (rare["items"], rare["previous"]) == ([], None)  # it is known of all: there is none


def test_a_search_by_time_passes_over_what_lies_outside(
    service: Service, filled: list[dict[str, Any]]
) -> None:
    with service.store.reading() as session, noted(service) as statements:
        found = logs.search(session, Search(until=START + timedelta(seconds=9), limit=5))
    assert len(found["items"]) == 5  # at once, from the far end
    assert len(statements) < 25


def test_a_sort_that_no_index_serves_is_refused(call: Call) -> None:
    for query in (
        "sort=actor&kind=rule",
        "sort=-name&name_prefix=r",
        "sort=kind&since=2026-03-01T12:00:00Z",
    ):
        answer = call("GET", f"/audit?{query}", status=422)
        assert [(e["path"], "want id" in e["message"]) for e in answer["errors"]] == [
            ("sort", True)
        ]
    for query in ("sort=actor&actor=x", "sort=-at&since=2026-03-01T12:00:00Z", "sort=id&kind=rule"):
        call("GET", f"/audit?{query}")


def test_spans_go_with_the_events(service: Service, filled: list[dict[str, Any]]) -> None:
    count = select(func.count()).select_from(SpanRow).where(SpanRow.of == spans.LOG)
    with service.store.writing() as session:
        before = session.scalar(count)
        logs.prune(session, clock.now() + timedelta(days=1), most=COUNT, at_once=COUNT - 40)
        assert (before, session.scalar(count)) == (COUNT // 16 + 1, 3)
