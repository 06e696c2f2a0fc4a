"""What all collections of the management API have in common: pages, patches, entity tags."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from sqlalchemy import event
from werkzeug.test import TestResponse

from coordinator import access, clock
from coordinator.api.context import Service
from coordinator.store.models import FormerKeyRow
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.networks import key
from tests.unit.coordinator.test_network import add_node
from ztlab.model.codec import decode
from ztlab.model.identity import client_id
from ztlab.model.management import NodeConfiguration


@pytest.fixture
def ask(app: Flask, service: Service) -> Any:
    """ask("PUT", "/groups/a", {...}, **{"If-Match": "*"}): the response, with its headers."""
    with service.store.writing() as session:
        token = access.create_token(session, "asker", "owner", clock.now())

    def request(
        method: str, path: str, body: Any = None, media: str = "", **headers: str
    ) -> TestResponse:
        usual = "application/merge-patch+json" if method == "PATCH" else "application/json"
        media = media or usual
        content: dict[str, Any] = (
            {} if body is None else {"data": json.dumps(body), "content_type": media}
        )
        sent = {"Authorization": f"Bearer {token}", **headers}
        return app.test_client().open(f"/api/v1{path}", method=method, headers=sent, **content)

    return request


def names(answer: dict[str, Any], key: str = "name") -> list[str]:
    return [item[key] for item in answer["items"]]


def faults(answer: dict[str, Any]) -> list[str]:
    return [fault["path"] for fault in answer["errors"]]


# --- pages


def test_pages_follow_each_other_whatever_comes_and_goes_between(call: Call) -> None:
    for name in ("d", "b", "a", "e"):
        call("POST", "/identities", {"name": name}, status=201)
    first = call("GET", "/identities?limit=2")
    assert names(first) == ["a", "b"]
    call("DELETE", "/identities/a")  # a page by number would now skip one
    call("POST", "/identities", {"name": "c"}, status=201)
    second = call("GET", f"/identities?limit=2&cursor={first['next']}")
    assert names(second) == ["c", "d"]
    last = call("GET", f"/identities?limit=2&cursor={second['next']}")
    assert (names(last), last["next"]) == (["e"], None)


@pytest.mark.parametrize(
    ("sort", "found"),
    [("name", "abc"), ("-name", "cba"), ("tag", "bca"), ("-tag", "acb")],
)
def test_a_list_is_sorted_both_ways_page_by_page(call: Call, sort: str, found: str) -> None:
    for name in "bca":
        call("POST", "/identities", {"name": name}, status=201)
    seen, cursor = [], ""
    while True:
        page = call("GET", f"/identities?limit=1&sort={sort}{cursor}")
        seen += names(page)
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == list(found)


def test_what_has_no_value_comes_last_in_either_order(call: Call, service: Service) -> None:
    for number in (1, 2, 3):
        add_node(service, number, "mesh")
    for name, port in (("n1", 1), ("n3", 3)):
        call("PATCH", f"/nodes/{name}", {"endpoint": f"192.0.2.1:{port}"})
    call("PATCH", "/nodes/n2", {"endpoint": None})
    for sort, found in (("endpoint", ["n1", "n3", "n2"]), ("-endpoint", ["n3", "n1", "n2"])):
        seen, cursor = [], ""
        for _ in found:
            page = call("GET", f"/nodes?limit=1&sort={sort}{cursor}")
            seen += names(page)
            cursor = f"&cursor={page['next']}"
        assert (seen, page["next"]) == (found, None)


def test_a_list_is_filtered_by_fields_and_by_parts_of_names(call: Call, service: Service) -> None:
    add_node(service, 1, "mesh")
    add_node(service, 2, "gateway")
    add_node(service, 3, "mesh")
    call("DELETE", "/nodes/n3")
    assert names(call("GET", "/nodes")) == ["n1", "n2", "n3"]
    assert names(call("GET", "/nodes?role=mesh")) == ["n1", "n3"]
    assert names(call("GET", "/nodes?role=mesh&revoked=false")) == ["n1"]
    assert names(call("GET", "/nodes?revoked=true")) == ["n3"]
    assert names(call("GET", "/nodes?has_converged=true")) == []
    assert names(call("GET", "/nodes?name=n2")) == ["n2"]
    assert names(call("GET", "/nodes?name_prefix=N")) == ["n1", "n2", "n3"]
    assert names(call("GET", "/nodes?name_contains=2")) == ["n2"]
    assert names(call("GET", "/nodes?name_contains=_")) == []  # it is no wildcard
    assert names(call("GET", "/nodes?name_contains=%25")) == []


def test_a_node_is_found_by_what_its_key_was(call: Call, service: Service) -> None:
    for number in (1, 2):
        add_node(service, number, "mesh")
    with service.store.writing() as session:
        session.add(
            FormerKeyRow(
                public_key=key(9),
                client_id=client_id(key(9)),
                node_id="node-1",
                since=clock.now(),
                until=clock.now(),
            )
        )
    for number, found in ((1, ["n1"]), (9, ["n1"]), (2, ["n2"]), (8, [])):
        public_key = quote(key(number), safe="")
        assert names(call("GET", f"/nodes?client_id={client_id(key(number))}")) == found
        assert names(call("GET", f"/nodes?public_key={public_key}")) == found
    assert names(call("GET", f"/nodes?client_id={client_id(key(9))}&role=client")) == []
    call("DELETE", "/nodes/n1")
    assert names(call("GET", f"/nodes?client_id={client_id(key(9))}")) == ["n1"]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("colour=red", "colour"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("sort=public_keys", "sort"),
        ("cursor=nonsense", "cursor"),
        ("cursor=W10=", "cursor"),
        ("role=server", "role"),
        ("revoked=maybe", "revoked"),
        ("name=a&name=b", "name"),
        ("name=%00", "name"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(call: Call, query: str, path: str) -> None:
    assert faults(call("GET", f"/nodes?{query}", status=422)) == [path]


def test_a_cursor_is_of_one_order(call: Call) -> None:
    for name in "ab":
        call("POST", "/identities", {"name": name}, status=201)
    cursor = call("GET", "/identities?limit=1")["next"]
    assert names(call("GET", f"/identities?cursor={cursor}")) == ["b"]
    assert faults(call("GET", f"/identities?sort=tag&cursor={cursor}", status=422)) == ["cursor"]


def test_a_list_of_many_nodes_takes_no_more_queries_than_one_of_few(
    call: Call, service: Service
) -> None:
    counted: list[str] = []
    event.listen(service.store.engine, "before_cursor_execute", lambda *a: counted.append(a[2]))

    def queries() -> int:
        counted.clear()
        call("GET", "/nodes")
        return len(counted)

    add_node(service, 1, "mesh")
    few = queries()
    for number in (2, 3, 4, 5):
        add_node(service, number, "mesh")
    assert queries() == few > 0


# --- patches (RFC 7396)


def test_a_patch_changes_what_it_names_and_null_takes_away(call: Call, service: Service) -> None:
    add_node(service, 1, "gateway")
    whole = {"name": "db", "cidr": "192.0.2.0/24", "gateway": "n1", "via": ["203.0.113.1"]}
    call("POST", "/resources", whole, status=201)
    assert call("PATCH", "/resources/db", {"cidr": "198.51.100.0/24"})["via"] == ["203.0.113.1/32"]
    changed = call("PATCH", "/resources/db", {"via": None})
    assert (changed["cidr"], changed["via"]) == ("198.51.100.0/24", [])


def test_a_patch_is_judged_by_the_whole_that_it_makes(call: Call) -> None:
    call("POST", "/identities", {"name": "a"}, status=201)
    rule = {"id": "r", "from": "a", "to": "a", "action": "allow", "proto": "tcp", "ports": [80]}
    call("POST", "/policy/rules", rule, status=201)
    answer = call("PATCH", "/policy/rules/r", {"proto": "icmp"}, status=422)
    assert "ports need proto tcp or udp" in answer["errors"][0]["message"]
    assert call("PATCH", "/policy/rules/r", {"proto": "icmp", "ports": None})["proto"] == "icmp"
    assert faults(call("PATCH", "/policy/rules/r", {"prot": "udp"}, status=422)) == ["prot"]
    assert call("PATCH", "/policy/rules/r", {"id": "other"}, status=409)
    assert faults(call("PATCH", "/policy/rules/r", [], status=422)) == ["document"]


def test_a_patch_is_of_its_media_type(ask: Any) -> None:
    ask("PUT", "/groups/a", {"members": []})
    body: dict[str, Any] = {"members": []}
    any_tag = {"If-Match": "*"}
    assert ask("PATCH", "/groups/a", body, **any_tag).status_code == 200
    assert ask("PATCH", "/groups/a", body, media="application/json", **any_tag).status_code == 415


# --- entity tags


def test_what_exists_is_changed_only_by_who_says_what_it_saw(ask: Any) -> None:
    made = ask("PUT", "/groups/a", {"members": []})
    assert made.status_code == 201
    tag = made.headers["ETag"]
    assert ask("GET", "/groups/a").headers["ETag"] == tag
    assert ask("PUT", "/groups/a", {"members": ["world"]}).status_code == 428
    assert ask("PUT", "/groups/a", {"members": ["world"]}, **{"If-Match": '"x"'}).status_code == 412
    weak = {"If-Match": f"W/{tag}"}
    assert ask("PUT", "/groups/a", {"members": ["world"]}, **weak).status_code == 412
    changed = ask("PUT", "/groups/a", {"members": ["world"]}, **{"If-Match": f'"x", {tag}'})
    assert changed.status_code == 200 and changed.headers["ETag"] != tag
    assert ask("DELETE", "/groups/a", **{"If-Match": tag}).status_code == 412
    assert ask("DELETE", "/groups/a").status_code == 428
    assert ask("DELETE", "/groups/a", **{"If-Match": changed.headers["ETag"]}).status_code == 200


def test_a_condition_that_is_no_entity_tag_is_refused(ask: Any) -> None:
    ask("PUT", "/groups/a", {"members": []})
    for wrong in ("abc", '"a" "b"', '"a",', "*, *"):
        answer = ask("DELETE", "/groups/a", **{"If-Match": wrong})
        assert (answer.status_code, faults(answer.get_json())) == (422, ["If-Match"])


def test_a_creation_may_say_that_nothing_must_be_there(ask: Any) -> None:
    new = {"If-None-Match": "*"}
    assert ask("PUT", "/groups/a", {"members": []}, **new).status_code == 201
    assert ask("PUT", "/groups/a", {"members": []}, **new).status_code == 412
    assert ask("PUT", "/groups/b", {"members": []}, **{"If-Match": "*"}).status_code == 412
    assert ask("PUT", "/groups/a", {"members": []}, **{"If-Match": "*"}).status_code == 200


def test_what_a_node_does_by_itself_does_not_move_its_tag(ask: Any, service: Service) -> None:
    node = add_node(service, 1, "mesh")
    tag = ask("GET", "/nodes/n1").headers["ETag"]
    ask("POST", "/identities", {"name": "other"})  # the node wants another configuration
    assert ask("GET", f"/nodes/{node}").headers["ETag"] == tag
    body = {"name": "n1", "identity": "other", "endpoint": None}
    changed = ask("PUT", "/nodes/n1", body, **{"If-Match": tag})
    assert changed.status_code == 200 and changed.headers["ETag"] != tag


@pytest.mark.parametrize("path", ["/policy", "/policy/default", "/network-document"])
def test_documents_have_entity_tags_too(ask: Any, path: str) -> None:
    found = ask("GET", path)
    assert ask("PUT", path, found.get_json()).status_code == 428
    same = ask("PUT", path, found.get_json(), **{"If-Match": found.headers["ETag"]})
    assert same.status_code == 200 and same.headers["ETag"] == found.headers["ETag"]


# --- bodies


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b'{"name": "a"}', 201),
        (b'{"name": "a", "name": "b"}', 400),
        (b'{"name": "a\\u0000"}', 400),
        (b'{"name": "a", "tag": 7}', 422),
        (b'{"name": "\\\\u0000"}', 422),  # a backslash, and no U+0000: a bad name
    ],
)
def test_a_body_has_each_key_once_and_none_that_is_unknown(
    app: Flask, service: Service, raw: bytes, status: int
) -> None:
    with service.store.writing() as session:
        token = access.create_token(session, "raw", "editor", clock.now())
    answer = app.test_client().post(
        "/api/v1/identities",
        data=raw,
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == status


# --- tunnel addresses of one's own choice


@pytest.mark.parametrize(
    ("addresses", "paths", "reason"),
    [
        (["10.77.0.2/32", "fd77::3/128"], ["addresses[0]"], "is node n2's"),
        (["10.78.0.1/32", "fd77::3/128"], ["addresses[0]"], "outside the network's range"),
        (["10.77.0.3/32", "fd77::/128"], ["addresses[1]"], "pool fd77::/64's own"),
        (["10.77.0.7/32", "fd77::3/128"], ["addresses[0]"], "pool 10.77.0.0/29's own"),
        (["10.77.0.0/30", "fd77::3/128"], ["addresses[0]"], "want an address as /32"),
        (["10.77.0.3/32", "10.77.0.4/32"], ["addresses[1]"], "got two of 10.77.0.0/29"),
        (["10.77.0.3/32"], ["addresses"], "got none of fd77::/64"),
        (["nonsense", "fd77::3/128"], ["addresses[0]"], "nonsense"),
    ],
)
def test_an_address_that_cannot_be_a_nodes_is_refused_with_the_reason(
    call: Call, service: Service, addresses: list[str], paths: list[str], reason: str
) -> None:
    add_node(service, 1, "mesh")
    add_node(service, 2, "mesh")
    answer = call("PATCH", "/nodes/n1", {"addresses": addresses}, status=422)
    assert faults(answer) == paths and reason in answer["errors"][0]["message"]
    assert call("GET", "/nodes/n1")["addresses"] == ["10.77.0.1/32", "fd77::1/128"]


def test_a_node_gets_the_addresses_it_is_given_and_what_it_had_rests(
    call: Call, service: Service
) -> None:
    add_node(service, 1, "mesh")
    add_node(service, 2, "mesh")
    chosen = ["10.77.0.5/32", "fd77::5/128"]
    assert call("PATCH", "/nodes/n1", {"addresses": chosen})["addresses"] == chosen
    peers = call("GET", "/nodes/n2/configuration")["config"]["peers"]
    assert peers[0]["allowed_ips"] == chosen
    left = {"addresses": ["10.77.0.1/32", "fd77::2/128"]}
    answer = call("PATCH", "/nodes/n2", left, status=422)
    assert "10.77.0.1 rests until" in answer["errors"][0]["message"]
    same = {"name": "n1", "identity": "i1", "endpoint": None}
    assert call("PUT", "/nodes/n1", same)["addresses"] == chosen  # not named: they stay
    back = {"addresses": ["10.77.0.1/32", "fd77::1/128"]}
    assert call("PATCH", "/nodes/n1", back)["addresses"] == back["addresses"]  # its own


# --- configurations, gateways, the last owner


def test_a_nodes_configuration_shows_what_its_allowed_ips_are_made_of(
    call: Call, service: Service
) -> None:
    add_node(service, 1, "gateway")
    add_node(service, 2, "client")
    body = {"name": "db", "cidr": "192.0.2.0/24", "gateway": "n1", "via": ["203.0.113.1"]}
    call("POST", "/resources", body, status=201)
    found = decode(NodeConfiguration, call("GET", "/nodes/n2/configuration"))
    assert found.config.digest() == found.digest == call("GET", "/nodes/n2")["wanted"]["digest"]
    assert {"192.0.2.0/24", "203.0.113.1/32"} <= set(found.config.peers[0].allowed_ips)
    call("DELETE", "/nodes/n2")
    call("GET", "/nodes/n2/configuration", status=404)


def test_a_gateway_shows_what_lies_behind_it(call: Call, service: Service) -> None:
    add_node(service, 1, "gateway")
    add_node(service, 2, "client")
    call("POST", "/resources", {"name": "db", "cidr": "192.0.2.0/24", "gateway": "n1"}, status=201)
    found = call("GET", "/gateways")["items"]
    assert [(g["name"], g["resources"], g["clients"]) for g in found] == [("n1", ["db"], 1)]
    moved = call("PATCH", "/gateways/n1", {"endpoint": "gw.example:51820"})
    assert moved["endpoint"] == call("GET", "/nodes/n1")["endpoint"] == "gw.example:51820"
    call("GET", "/gateways/n2", status=404)
    call("DELETE", "/nodes/n1")
    assert call("GET", "/gateways")["items"] == []


def test_the_last_owner_stays_an_owner(call: Call) -> None:
    call("POST", "/tokens", {"name": "second", "role": "owner"}, status=201)
    call("PATCH", "/tokens/second", {"role": "viewer"})
    assert faults(call("PATCH", "/tokens/test", {"role": "editor"}, status=409)) == [
        "tokens.test.role"
    ]
    call("DELETE", "/tokens/test", status=409)
    call("PATCH", "/tokens/second", {"role": "owner"})
    call("DELETE", "/tokens/second")
