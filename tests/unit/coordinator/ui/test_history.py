"""Audit, revisions and reachability on their pages."""

from __future__ import annotations

import re
from html import unescape

import pytest

from coordinator.api.context import Service
from coordinator.ui.changes import changes
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.test_network import add_node
from tests.unit.coordinator.ui.conftest import Meet, Person

RULE = {"id": "r", "from": "a", "to": "b", "action": "allow"}
TAG = re.compile(r"<[^>]+>")


@pytest.fixture
def network(call: Call) -> Call:
    """Identities a and b."""
    for name in ("a", "b"):
        call("POST", "/identities", {"name": name}, status=201)
    return call


def rows(page: str) -> list[str]:
    """The lines of the first table's body, as text."""
    body = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)[0]
    lines = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [" ".join(unescape(TAG.sub(" ", line)).split()) for line in lines]


def cells(page: str) -> dict[str, str]:
    """The matrix: what each cell is called, and where it leads."""
    found = re.findall(r'<a href="([^"]*)"\s+aria-label="([^"]*)"', page)
    return {label: unescape(href) for href, label in found}


def test_the_fields_that_changed_are_shown_and_no_others() -> None:
    assert changes({"a": 1, "b": "x"}, {"a": 1, "b": "y", "c": [2]}) == [
        ("b", "x", "y"),
        ("c", "", "[2]"),
    ]
    assert changes(None, {"a": "x"}) == [("a", "", "x")]
    assert changes({"a": "x"}, None) == [("a", "x", "")]


def test_the_audit_log_names_who_did_what_from_the_pages(owner: Person, network: Call) -> None:
    owner.send("/ui/rules/new", RULE)
    page = owner.get("/ui/audit?kind=rule")
    (row,) = rows(page)
    assert "token owner" in row and "create" in row and "rule r" in row and "allow" in row
    assert "none like that" in owner.get("/ui/audit?actor=token+nobody")


def test_an_owner_has_the_whole_log_verified_and_a_viewer_has_not(
    owner: Person, meet: Meet, network: Call
) -> None:
    assert "Intact" in owner.send("/ui/audit/verify", status=200, on="/ui/audit")
    viewer = meet("viewer")
    assert "Verify" not in viewer.get("/ui/audit")
    assert "owner" in viewer.send("/ui/audit/verify", status=403, on="/ui/audit")


def test_a_revision_shows_what_differs_and_is_rolled_back_to(owner: Person, network: Call) -> None:
    (first, *_) = network("GET", "/revisions")["items"]
    path = f"/ui/revisions/{first['epoch']}/{first['number']}"
    assert "what is written now is the same" in owner.get(path)
    network("POST", "/policy/rules", RULE, status=201)
    (row,) = rows(owner.get(path))
    assert row.startswith("create rule r ")
    assert owner.send(f"{path}/rollback", on=path) == "/ui/revisions"
    assert network("GET", "/policy/rules")["items"] == []
    assert len(rows(owner.get("/ui/revisions"))) == len(network("GET", "/revisions")["items"])


def test_what_was_written_while_somebody_looked_is_not_rolled_back(
    owner: Person, network: Call
) -> None:
    (first, *_) = network("GET", "/revisions")["items"]
    path = f"/ui/revisions/{first['epoch']}/{first['number']}"
    network("POST", "/policy/rules", RULE, status=201)
    seen = owner.hidden(path)
    network("POST", "/policy/rules", {**RULE, "id": "s"}, status=201)
    refused = owner.open("POST", f"{path}/rollback", **seen)
    assert refused.status_code == 412
    assert "somebody changed the network" in refused.text and "rule s" in refused.text
    assert len(network("GET", "/policy/rules")["items"]) == 2
    owner.send(f"{path}/rollback", on=path)
    assert network("GET", "/policy/rules")["items"] == []


def test_a_viewer_looks_at_revisions_and_rolls_nothing_back(
    meet: Meet, owner: Person, network: Call
) -> None:
    (first, *_) = network("GET", "/revisions")["items"]
    path = f"/ui/revisions/{first['epoch']}/{first['number']}"
    network("POST", "/policy/rules", RULE, status=201)
    viewer = meet("viewer")
    assert "Roll back" not in viewer.get(path) and "rule r" in viewer.get(path)
    seen = {**owner.hidden(path), **viewer.hidden("/ui/")}
    assert viewer.open("POST", f"{path}/rollback", **seen).status_code == 403
    assert len(network("GET", "/policy/rules")["items"]) == 1


def test_a_revision_that_is_none_is_not_found(owner: Person, network: Call) -> None:
    epoch = network("GET", "/network")["revision"]["epoch"]
    for path in (f"{epoch}/999", f"{'0' * 32}/1", "x/1"):
        owner.get(f"/ui/revisions/{path}", status=404)


def test_the_matrix_follows_the_policy_and_a_cell_leads_to_the_reason(
    owner: Person, network: Call
) -> None:
    before = cells(owner.get("/ui/reachability"))
    assert "a to b: nothing" in before
    assert len(before) == 9  # a, b, world
    network("POST", "/policy/rules", {**RULE, "proto": "tcp", "ports": [80]}, status=201)
    now = cells(owner.get("/ui/reachability"))
    assert {*now} - {*before} == {"a to b: some"}
    why = owner.get(now["a to b: some"].partition("#")[0])
    assert "some allowed" in why
    assert "tcp 80 allowed r" in rows(why)
    assert "No rule speaks of them" in owner.get("/ui/reachability?from=b&to=a")


def test_a_cell_is_of_the_identity_and_not_of_a_node_that_is_called_so(
    owner: Person, service: Service, network: Call
) -> None:
    add_node(service, 1, "mesh")
    tag = network("GET", "/nodes/n1")
    owner.send("/ui/nodes/n1/edit", name="a", identity="b", endpoint=tag["endpoint"])
    assert "two meanings" in owner.get("/ui/reachability?from=a&to=b", status=422)
    cell = cells(owner.get("/ui/reachability"))["a to b: nothing"].partition("#")[0]
    assert "nothing allowed" in owner.get(cell)


def test_a_question_about_nobody_is_refused_beside_the_field(owner: Person, network: Call) -> None:
    page = owner.get("/ui/reachability?from=a&to=nobody&port=x", status=422)
    faults = dict(re.findall(r'<p class="fault" id="e-(\w+)">([^<]*)</p>', page))
    assert "nobody" in faults.get("to", "") or "port" in faults
    assert "a to b: nothing" in cells(page)
    owner.get("/ui/reachability?from=a&to=b&proto=tcp&port=80")


def test_a_large_matrix_comes_in_parts(owner: Person, call: Call) -> None:
    call("PUT", "/network-document", {"identities": [f"i{n:02d}" for n in range(50)]})
    page = owner.get("/ui/reachability")
    assert len(cells(page)) == 40 * 40
    (down,) = re.findall(r'href="(/ui/reachability\?down=40&amp;across=0)#matrix">Down', page)
    assert len(cells(owner.get(unescape(down)))) == 11 * 40
