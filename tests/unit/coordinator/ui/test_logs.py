"""Log events on their page: filtered, in pages both ways, and what a node says is text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from html import unescape
from typing import Any

import pytest

from coordinator import clock, logs
from coordinator.api.context import Service
from coordinator.nodes import Caller
from tests.unit import batches
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.test_network import add_node
from tests.unit.coordinator.ui.conftest import Person
from ztlab.model.logbatch import KINDS

NOON = "2026-03-01T12:{:02d}:{:02d}.000000Z"


def event(number: int, **changed: Any) -> dict[str, Any]:
    """One flow, at NUMBER seconds past noon, from port 1000 + NUMBER."""
    return {
        "at": NOON.format(number // 60, number % 60),
        "kind": "flow",
        "verdict": "allowed",
        "hook": "ingress",
        "source": "10.77.0.3",
        "destination": "10.77.0.2",
        "protocol": 6,
        "source_port": 1000 + number,
        "destination_port": 8080,
        "source_identity": "web",
        "destination_identity": "api",
        "source_tag": 4,
        "destination_tag": 3,
        "rule": None,
        **changed,
    }


@pytest.fixture
def stored(service: Service) -> None:
    """From node n1: 250 flows of web, and one of guest that was dropped."""
    add_node(service, 1, "mesh")
    many = [event(number) for number in range(250)]
    guest = event(251, verdict="no_rule", source_identity="guest", source_tag=5)
    for batch in (many, [guest]):
        _store(service, batch)


def _store(service: Service, events: Sequence[Mapping[str, Any]]) -> None:
    caller = Caller(node_id="node-1", name="n1", token_expires_at=clock.now() + timedelta(hours=1))
    head = batches.head(*events)
    records = b"".join(batches.record(e, head.byte_order) for e in events)
    with service.store.writing() as session:
        logs.store_batch(session, caller, head, memoryview(records), clock.now())


def ports(page: str) -> list[int]:
    """The source ports of the events shown, less 1000: their numbers."""
    return [int(port) - 1000 for port in re.findall(r"10\.77\.0\.3 port (\d+)", page)]


def way(page: str, rel: str) -> str | None:
    found = re.findall(rf'<a rel="{rel}" href="([^"]*)"', page)
    return unescape(found[0]) if found else None


def test_the_newest_come_first_and_pages_lead_back_and_forth(owner: Person, stored: None) -> None:
    newest = owner.get("/ui/logs")
    assert ports(newest) == [*range(151, 250), 251]
    older = way(newest, "prev")
    assert older is not None
    second = owner.get(older)
    assert ports(second) == [*range(51, 151)]
    third = owner.get(str(way(second, "prev")))
    assert ports(third) == [*range(51)]
    assert way(third, "prev") is None
    assert ports(owner.get(str(way(third, "next")))) == [*range(51, 151)]
    assert ports(owner.get(str(way(second, "next")))) == ports(newest)


def test_what_comes_after_the_newest_page_is_found_from_it(
    owner: Person, service: Service, stored: None
) -> None:
    newer = str(way(owner.get("/ui/logs"), "next"))
    nothing = owner.get(newer)
    assert ports(nothing) == []
    _store(service, [event(300)])
    assert ports(owner.get(newer)) == [300]
    assert ports(owner.get(str(way(nothing, "prev")))) == [*range(151, 250), 251]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("identity=guest", [251]),
        ("identity=api&verdict=no_rule", [251]),
        ("node=n1&since=2026-03-01T12:04:08&until=2026-03-01T12:04:10", [248, 249]),
        ("since=2026-03-01T13:04:09%2B01:00", [249, 251]),
        ("node=n2", []),
        ("kind=end", []),
        ("kind=flow&identity=guest", [251]),
    ],
)
def test_a_filter_shows_what_it_says(
    owner: Person, stored: None, query: str, numbers: list[int]
) -> None:
    page = owner.get(f"/ui/logs?{query}")
    assert ports(page) == numbers
    assert ("none like that" in page) == (not numbers)


def test_every_kind_of_event_can_be_asked_for(owner: Person, stored: None) -> None:
    page = owner.get("/ui/logs?kind=update")
    (select,) = re.findall(r'<select id="kind".*?</select>', page, re.DOTALL)
    assert sorted(re.findall(r'<option value="(\w+)"', select)) == sorted(KINDS.values())
    assert re.findall(r'<option value="(\w+)" selected', select) == ["update"]


def test_a_filter_stays_on_from_page_to_page(owner: Person, stored: None) -> None:
    page = owner.get("/ui/logs?identity=web")
    assert ports(page) == [*range(150, 250)]
    assert ports(owner.get(str(way(page, "prev")))) == [*range(50, 150)]


def test_a_time_that_is_none_is_refused_beside_its_field(owner: Person, stored: None) -> None:
    page = owner.get("/ui/logs?since=yesterday", status=422)
    (fault,) = re.findall(r'id="e-since">([^<]*)<', page)
    assert "want an RFC 3339 time" in fault
    assert ports(page) == []


def test_a_cursor_leads_one_way_or_the_other(call: Call, stored: None) -> None:
    call("GET", "/logs?after=1")
    call("GET", "/logs?before=100")
    assert call("GET", "/logs?after=1&before=100", status=422)
    assert call("GET", "/logs?limit=1000")["previous"] is None
