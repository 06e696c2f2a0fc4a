"""Forms: what is typed, what the API says of it and where; and that no update is lost."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from coordinator.api.context import Service
from coordinator.ui import forms
from coordinator.ui.kinds import GROUPS, RULES
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.test_network import add_node
from tests.unit.coordinator.ui.conftest import Person

RULE = {"id": "r", "from": "a", "to": "b", "action": "allow"}


@pytest.fixture
def network(call: Call) -> Call:
    """Identities a and b, group both."""
    for name in ("a", "b"):
        call("POST", "/identities", {"name": name}, status=201)
    call("POST", "/groups", {"name": "both", "members": ["a", "b"]}, status=201)
    return call


def faults(page: str) -> dict[str, str]:
    """What is said below each field."""
    return dict(re.findall(r'<p class="fault" id="e-([\w-]+)">([^<]*)</p>', page))


def alert(page: str) -> str:
    (found,) = re.findall(r'<div class="alert".*?</div>', page, re.DOTALL)
    return str(found)


def test_what_is_typed_becomes_the_apis_json() -> None:
    typed = {"id": " r ", "from": "a", "to": "*", "proto": "tcp", "ports": "80, 9000-9010 x"}
    assert forms.typed(RULES.fields, {**typed, "action": "deny"}) == {
        "id": "r",
        "from": "a",
        "to": "*",
        "proto": "tcp",
        "ports": [80, "9000-9010", "x"],
        "icmp_types": [],
        "action": "deny",
    }
    assert "proto" not in forms.typed(RULES.fields, {})
    assert forms.typed(GROUPS.fields, {"members": "a\nb,  c\r\n"})["members"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("from", "from"),
        ("ports[1]", "ports"),
        ("policy.rules[3].to", "to"),
        ("policy.rules.r.from", "from"),
        ("policy.tests[0]", None),
        ("document", None),
    ],
)
def test_a_fault_is_shown_where_its_path_leads(path: str, field: str | None) -> None:
    placed = forms.place(
        [(path, "want it")], [f.name for f in RULES.fields], RULES.prefix("r"), RULES.leftover
    )
    assert dict(placed.fields) == ({field: ("want it",)} if field else {})
    assert len(placed.whole) == (0 if field else 1)


def test_a_rule_is_written_changed_and_deleted(owner: Person, network: Call) -> None:
    new = {"id": "r", "from": "a", "to": "both", "proto": "tcp", "ports": "80", "action": "allow"}
    assert owner.send("/ui/rules/new", new) == "/ui/policy"
    edit = owner.get("/ui/rules/r/edit")
    assert 'value="80"' in edit and 'name="id"' not in edit
    changed = {"from": "a", "to": "b", "proto": "", "ports": "", "action": "deny"}
    assert owner.send("/ui/rules/r/edit", changed) == "/ui/policy"
    rule = network("GET", "/policy/rules/r")
    assert (rule["to"], rule["proto"], rule["ports"], rule["action"]) == ("b", "any", [], "deny")
    assert owner.send("/ui/rules/r/delete") == "/ui/policy"
    assert network("GET", "/policy/rules")["items"] == []


def test_a_rule_that_names_nobody_is_refused_beside_the_field(owner: Person, network: Call) -> None:
    page = owner.send("/ui/rules/new", {**RULE, "to": "bb"}, status=422)
    assert "nobody is called" in faults(page)["to"]
    assert 'value="bb"' in page and 'value="a"' in page  # nothing has to be typed again
    assert network("GET", "/policy/rules")["items"] == []
    owner.send("/ui/rules/new", RULE)


def test_every_field_that_is_wrong_is_named_at_once(owner: Person, network: Call) -> None:
    page = owner.send(
        "/ui/setup-keys/new", status=422, name="-", role="emperor", uses="0", ttl_s="soon"
    )
    assert set(faults(page)) == {"name", "role", "uses", "ttl_s"}
    assert network("GET", "/setup-keys")["items"] == []


def test_a_fault_of_the_whole_is_shown_above_the_form(owner: Person, network: Call) -> None:
    tests = [{"from": "a", "to": "b", "proto": "tcp", "port": 80, "expect": "allow"}]
    network("POST", "/policy/rules", {**RULE, "proto": "tcp"}, status=201)
    owner.send("/ui/policy/tests/edit", {f"0-{k}": str(v) for k, v in tests[0].items()})
    page = owner.send("/ui/rules/r/edit", {**RULE, "action": "deny"}, status=422)
    assert "policy.tests[0]: want a -&gt; b tcp/80 allow, got deny_rule" in alert(page)


def test_what_is_there_already_is_said(owner: Person, network: Call) -> None:
    assert "is there already" in alert(owner.send("/ui/identities/new", status=409, name="a"))


def test_what_is_in_use_is_not_deleted_and_its_users_are_named(
    owner: Person, network: Call
) -> None:
    page = owner.send("/ui/identities/a/delete", status=409)
    assert "groups.both" in alert(page)
    assert network("GET", "/identities/a")
    owner.send("/ui/groups/both/delete")
    assert owner.send("/ui/identities/a/delete") == "/ui/identities"


def test_of_two_who_edit_the_same_the_second_sees_both_versions(
    owner: Person, network: Call
) -> None:
    path = "/ui/groups/both/edit"
    mine = owner.hidden(path)
    owner.send(path, members="a")  # somebody else
    refused = owner.open("POST", path, **mine, members="b")
    assert refused.status_code == 412
    both = re.findall(r'<td data-label="(Yours|Theirs)"[^>]*>([^<]*)</td>', alert(refused.text))
    assert both == [("Yours", "b"), ("Theirs", "a")]
    assert network("GET", "/groups/both")["members"] == ["a"]
    again = owner.open("POST", path, **mine, members="b")
    assert again.status_code == 412  # looking at it is no excuse
    (tag,) = re.findall(r'name="etag" value="([^"]*)"', refused.text)
    tag = tag.replace("&#34;", '"')
    now = owner.open("POST", path, csrf=mine["csrf"], etag=tag, members="b")
    assert now.status_code == 303
    assert network("GET", "/groups/both")["members"] == ["b"]


@pytest.mark.parametrize("path", ["/ui/groups/both/delete", "/ui/policy/tests/edit"])
def test_a_form_that_forgot_what_it_was_made_for_is_refused(
    owner: Person, network: Call, path: str
) -> None:
    csrf = owner.hidden(path)["csrf"]
    assert owner.open("POST", path, csrf=csrf).status_code == 428
    assert network("GET", "/groups/both")


def test_what_a_form_would_change_is_shown_and_not_done(
    owner: Person, service: Service, network: Call
) -> None:
    add_node(service, 1, "mesh")
    at = network("GET", "/network")["revision"]
    page = owner.send("/ui/rules/new", RULE, status=200, preview="1")
    assert "It would change 1 object" in page and "what 1 node is told" in page
    assert "create rule r" in page and "rules +1 (r)" in page
    assert 'value="a"' in page  # and can be sent as it is
    for path, fields in (
        ("/ui/groups/both/edit", {"members": "a"}),
        ("/ui/groups/both/delete", {}),
        ("/ui/policy/default/edit", {"default": "allow"}),
        ("/ui/nodes/n1/edit", {"name": "n2", "identity": "a", "endpoint": ""}),
        ("/ui/nodes/n1/delete", {}),
    ):
        assert "Nothing is changed yet" in owner.send(path, fields, status=200, preview="1")
    assert network("GET", "/network")["revision"] == at
    assert faults(owner.send("/ui/rules/new", {**RULE, "to": "x"}, status=422, preview="1"))
    assert owner.send("/ui/rules/new", RULE) == "/ui/policy"


def test_keys_and_tokens_are_asked_about_as_well_and_none_is_made(
    owner: Person, network: Call
) -> None:
    key = {"role": "mesh", "uses": "1", "ttl_s": "60"}
    token = {"name": "ann", "role": "viewer"}
    for slug, fields in (("setup-keys", key), ("administrators", token)):
        at, path = "/tokens" if slug == "administrators" else f"/{slug}", f"/ui/{slug}/new"
        before = network("GET", at)["items"]
        page = owner.send(path, fields, status=200, preview="1")
        assert "It would change 1 object, and nothing that a node is told" in page
        assert 'id="secret"' not in page
        assert network("GET", at)["items"] == before
        assert 'id="secret"' in owner.send(path, fields, status=200)  # control: not only asked
        assert len(network("GET", at)["items"]) == len(before) + 1


def test_what_was_changed_meanwhile_is_not_deleted_unseen(owner: Person, network: Call) -> None:
    mine = owner.hidden("/ui/groups/both/delete")
    owner.send("/ui/groups/both/edit", members="b")
    refused = owner.open("POST", "/ui/groups/both/delete", **mine)
    assert refused.status_code == 412
    assert "<dt>Members</dt><dd>b</dd>" in refused.text
    assert network("GET", "/groups/both")
    owner.send("/ui/groups/both/delete")


def test_what_somebody_else_deleted_meanwhile_is_not_made_again(
    owner: Person, network: Call
) -> None:
    mine = owner.hidden("/ui/groups/both/edit")
    owner.send("/ui/groups/both/delete")
    assert owner.open("POST", "/ui/groups/both/edit", **mine, members="a").status_code == 404
    assert network("GET", "/groups")["items"] == []


def test_parts_of_the_policy_are_rows_and_empty_rows_are_none(owner: Person, network: Call) -> None:
    rows: dict[str, Any] = {"0-identity": "a", "0-rate": "10mbit", "0-burst": "256kB"}
    assert owner.send("/ui/policy/quotas/edit", {**rows, "2-rate": " "}) == "/ui/policy"
    quotas = network("GET", "/policy/quotas")["quotas"]
    assert quotas == [{"identity": "a", "rate": "10mbit", "burst": "256kB"}]
    bad = {"3-identity": "nobody", "3-rate": "much", "3-burst": "256kB"}
    page = owner.send("/ui/policy/quotas/edit", {**rows, **bad}, status=422)
    assert set(faults(page)) == {"1-rate"}  # the second row that is none of the empty ones
    assert owner.send("/ui/policy/quotas/edit", {k: "" for k in rows}) == "/ui/policy"
    assert network("GET", "/policy/quotas")["quotas"] == []
    assert owner.send("/ui/policy/default/edit", default="allow") == "/ui/policy"
    assert network("GET", "/policy/default")["default"] == "allow"


def test_a_broken_test_is_shown_at_its_row(owner: Person, network: Call) -> None:
    row = {"1-from": "a", "1-to": "b", "1-proto": "tcp", "1-port": "1", "1-expect": "allow"}
    page = owner.send("/ui/policy/tests/edit", row, status=422)
    assert "want a -&gt; b tcp/1 allow, got no_rule by default deny" in page
    owner.send("/ui/policy/tests/edit", {**row, "1-expect": "deny"})


def test_a_node_is_renamed_and_revoked(owner: Person, service: Service, network: Call) -> None:
    add_node(service, 1, "mesh")
    location = owner.send("/ui/nodes/n1/edit", name="anna", identity="a", endpoint="")
    assert location == "/ui/nodes/anna"
    node = network("GET", "/nodes/anna")
    assert (node["identity"], node["endpoint"]) == ("a", None)
    page = owner.send("/ui/nodes/anna/edit", status=422, name="anna", identity="x", endpoint="y")
    assert set(faults(page)) == {"endpoint"}
    assert "Its traffic stops" in owner.get("/ui/nodes/anna/delete")
    assert owner.send("/ui/nodes/anna/delete") == "/ui/nodes"
    assert network("GET", "/nodes/anna")["revoked_at"] is not None


def test_a_node_is_looked_for_by_its_client_id(
    owner: Person, service: Service, network: Call
) -> None:
    for number in (1, 2):
        add_node(service, number, "mesh")
    client_id = network("GET", "/nodes/n2")["client_id"]
    found = owner.get(f"/ui/nodes?client_id={client_id}")
    assert ">n2<" in found and ">n1<" not in found and f'value="{client_id}"' in found
    assert "none like that" in owner.get("/ui/nodes?client_id=nobody")


def test_a_resource_gets_another_gateway_with_a_priority(
    owner: Person, service: Service, network: Call
) -> None:
    for number in (1, 2, 3):
        add_node(service, number, "gateway")
    new = {"name": "db", "cidr": "192.0.2.0/24", "gateway": "n1", "priority": "10"}
    typed = "n2 20\r\n\r\n  n3\t 30 \r\n"
    assert owner.send("/ui/resources/new", {**new, "alternatives": typed}) == "/ui/resources"
    found = network("GET", "/resources/db")
    assert (found["priority"], found["via"]) == (10, [])
    assert found["alternatives"] == [
        {"gateway": "n2", "priority": 20},
        {"gateway": "n3", "priority": 30},
    ]
    assert '<td data-label="Others">n2 (20), n3 (30)</td>' in owner.get("/ui/resources")
    edit = owner.get("/ui/resources/db/edit")
    assert "n2 20\nn3 30</textarea>" in edit and 'value="10"' in edit

    for wrong, says in (
        ("n2", "want a whole number"),
        ("n2 soon 7", "want a whole number, got 'soon 7'"),
        ("n2 10", "10 is that of gateway n1, want another for gateway n2"),
        ("n1 20", "n1 offers it already"),
        ("n9 20", "no gateway is called"),
    ):
        page = owner.send("/ui/resources/db/edit", {**new, "alternatives": wrong}, status=422)
        assert says in unescape(faults(page)["alternatives"])
        assert f"{wrong}</textarea>" in page  # nothing has to be typed again
    assert network("GET", "/resources/db") == found
    assert owner.send("/ui/resources/db/edit", new) == "/ui/resources"
    assert network("GET", "/resources/db")["alternatives"] == []


def test_a_gateway_is_drained_and_moved_and_taken_back(
    owner: Person, service: Service, network: Call
) -> None:
    for number in (1, 2):
        add_node(service, number, "gateway")
    body = {"name": "db", "cidr": "192.0.2.0/24", "gateway": "n1"}
    more = {"alternatives": [{"gateway": "n2", "priority": 200}]}
    network("POST", "/resources", {**body, **more}, status=201)
    before = network("GET", "/gateways/n1")
    assert ">drained<" not in owner.get("/ui/gateways")

    drained = {"endpoint": before["endpoint"], "is_drained": "true"}
    asked = owner.send("/ui/gateways/n1/edit", drained, status=200, preview="1")
    assert "It would change 1 object" in asked and "<dt>is_drained</dt>" in asked
    assert owner.send("/ui/gateways/n1/edit", drained) == "/ui/gateways"
    assert network("GET", "/gateways/n1") == {**before, "is_drained": True}
    assert owner.get("/ui/gateways").count(">drained<") == 1
    assert '<td data-label="In use">n2</td>' in owner.get("/ui/resources")
    assert '<option value="true" selected>yes</option>' in owner.get("/ui/gateways/n1/edit")

    page = owner.send("/ui/gateways/n1/edit", status=422, endpoint="there", is_drained="maybe")
    assert set(faults(page)) == {"endpoint", "is_drained"}
    owner.send("/ui/gateways/n1/edit", endpoint="gw.example:51820", is_drained="false")
    after = network("GET", "/gateways/n1")
    assert (after["endpoint"], after["is_drained"]) == ("gw.example:51820", False)
    for what in ("new", "n1/delete"):  # they enrol, and are revoked as nodes
        assert owner.open("GET", f"/ui/gateways/{what}").status_code == 404
    assert owner.open("POST", "/ui/gateways/n1/delete", csrf="").status_code in (403, 404)
    assert network("GET", "/gateways/n1") == after


def test_an_administrator_gets_another_role_and_the_last_owner_stays(
    owner: Person, call: Call
) -> None:
    owner.send("/ui/administrators/new", status=200, name="ann", role="viewer")
    assert owner.send("/ui/administrators/ann/edit", role="editor") == "/ui/administrators"
    assert {t["name"]: t["role"] for t in call("GET", "/tokens")["items"]}["ann"] == "editor"
    owner.send("/ui/administrators/test/delete")  # the fixture's own
    page = owner.send("/ui/administrators/owner/delete", status=409)
    assert "last owner" in alert(page)


def test_a_long_collection_comes_in_pages_and_can_be_searched(owner: Person, call: Call) -> None:
    names = [f"i{number:03d}" for number in range(120)]
    call("PUT", "/network-document", {"identities": names})
    first = owner.get("/ui/identities")
    assert "i099" in first and "i100" not in first
    (following,) = re.findall(r'<a rel="next" href="([^"]*)"', first)
    second = owner.get(following.replace("&amp;", "&"))
    assert "i099" not in second and "i119" in second and "First page" in second
    found = owner.get("/ui/identities?name_contains=i11")
    assert re.findall(r">(i\d{3})<", found) == names[110:]
    assert "none like that" in owner.get("/ui/identities?name_contains=zzz")
