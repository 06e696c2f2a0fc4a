"""The management API: collections, conflicts that say why, one revision per write."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from coordinator import network
from coordinator.api.context import Service
from coordinator.settings import Settings
from coordinator.setup import create_token
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.test_network import add_node
from ztlab.errors import SchemaError

ON_BOTH_STORES = True

POLICY: dict[str, Any] = {
    "default": "deny",
    "rules": [{"id": "r", "from": "web", "to": "api", "action": "allow", "proto": "tcp"}],
    "tests": [{"from": "web", "to": "api", "proto": "tcp", "port": 80, "expect": "allow"}],
}
DOCUMENT: dict[str, Any] = {
    "identities": ["web", "api"],
    "groups": {"all": ["web", "api"]},
    "resources": [],
    "policy": POLICY,
}


def errors(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(fault["path"], fault["message"]) for fault in answer["errors"]]


def test_a_document_is_written_whole_and_read_back_in_parts(call: Call) -> None:
    assert call("PUT", "/network-document", DOCUMENT)["revision"]["number"] == 1
    assert call("GET", "/identities")["items"] == [
        {"name": "api", "tag": 3},
        {"name": "web", "tag": 2},
    ]
    assert call("GET", "/groups")["items"] == [{"name": "all", "members": ["web", "api"]}]
    policy = call("GET", "/policy")
    assert policy["tests"] == [POLICY["tests"][0] | {"icmp_type": None}]
    assert call("PUT", "/policy", policy)["revision"]["number"] == 1  # what is read can be written
    assert call("PUT", "/network-document", DOCUMENT)["revision"]["number"] == 1


def test_a_document_takes_away_what_it_does_not_name_but_no_identity_of_a_node(
    call: Call, service: Service
) -> None:
    add_node(service, 1, "mesh")
    call("PUT", "/network-document", DOCUMENT)
    call("PUT", "/network-document", {"identities": [{"name": "web"}]})
    assert [item["name"] for item in call("GET", "/identities")["items"]] == ["i1", "web"]
    assert call("GET", "/groups")["items"] == []
    assert call("GET", "/policy")["rules"] == []


def test_an_identity_that_comes_back_gets_a_new_tag(call: Call) -> None:
    call("POST", "/identities", {"name": "a"}, status=201)
    call("DELETE", "/identities/a")
    assert call("POST", "/identities", {"name": "a"}, status=201)["tag"] == 3


def test_a_write_that_breaks_a_policy_test_is_refused(call: Call) -> None:
    call("PUT", "/network-document", DOCUMENT)
    answer = call("PUT", "/policy", {**POLICY, "rules": []}, status=422)
    assert errors(answer) == [
        ("policy.tests[0]", "want web -> api tcp/80 allow, got no_rule by default deny")
    ]
    assert len(call("GET", "/policy")["rules"]) == 1


def test_a_dangling_name_is_refused_with_its_path(call: Call) -> None:
    broken = {**DOCUMENT, "groups": {"all": ["wep"]}}
    assert errors(call("PUT", "/network-document", broken, status=422)) == [
        ("groups.all", "no identity 'wep' (did you mean \"web\"?)")
    ]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"identities": ["web", "api", "web"]}, "identities[2]"),
        ({"identities": ["web", "api", "world"]}, "identities[2]"),
        ({"identities": ["web", "api", ""]}, "identities[2]"),
        ({"groups": {"*": []}}, "groups.*"),
        ({"groups": {"web": []}}, "groups.web"),
        ({"policy": {**POLICY, "rules": POLICY["rules"] * 2}}, "policy"),
        ({"policy": {**POLICY, "quota": []}}, "policy.quota"),
        (
            {"resources": [{"name": "db", "cidr": "192.0.2.0/24", "gateway": "gw"}]},
            "resources[0].gateway",
        ),
        (
            {"resources": [{"name": "db", "cidr": "192.0.2.1/24", "gateway": "gw"}]},
            "resources[0].cidr",
        ),
    ],
)
def test_a_wrong_document_is_refused_with_the_path(
    call: Call, changes: dict[str, Any], path: str
) -> None:
    answer = call("PUT", "/network-document", {**DOCUMENT, **changes}, status=422)
    assert [found for found, _ in errors(answer)] == [path]
    assert call("GET", "/identities")["items"] == []


def test_what_is_in_use_is_not_deleted_and_the_answer_says_by_what(
    call: Call, service: Service
) -> None:
    add_node(service, 1, "mesh")
    call("PUT", "/network-document", DOCUMENT)
    key = call("POST", "/setup-keys", {"role": "mesh", "identity": "web"}, status=201)
    assert errors(call("DELETE", "/identities/web", status=409)) == [
        (f"setup-keys.{key['id']}.identity", "gives 'web'"),
        ("groups.all", "has 'web'"),
        ("policy.rules[0].from", "names 'web'"),
        ("policy.tests[0].from", "names 'web'"),
    ]
    assert errors(call("DELETE", "/identities/i1", status=409)) == [
        ("nodes.n1.identity", "is 'i1'")
    ]
    rules = [{"id": "r", "from": "all", "to": "api", "action": "allow"}]
    call("PUT", "/policy", {"rules": rules})
    assert errors(call("DELETE", "/groups/all", status=409)) == [
        ("policy.rules[0].from", "names 'all'")
    ]
    call("PUT", "/policy", {})
    call("DELETE", "/groups/all")
    call("DELETE", f"/setup-keys/{key['id']}")
    call("DELETE", "/identities/web")


def test_a_resource_lies_behind_a_gateway_that_is_there_or_awaited(
    call: Call, service: Service
) -> None:
    body = {"name": "db", "cidr": "192.0.2.0/24", "gateway": "gw", "via": ["203.0.113.1"]}
    answer = call("POST", "/resources", body, status=422)
    assert errors(answer) == [("gateway", "no gateway is called 'gw'")]
    call("POST", "/setup-keys", {"role": "gateway", "name": "gw"}, status=201)
    call("POST", "/resources", body, status=201)
    assert call("GET", "/resources/db") == {
        **body,
        "tag": 2,
        "priority": 100,
        "alternatives": [],
        "via": ["203.0.113.1/32"],
        "in_use": None,  # until that gateway is enrolled
    }
    call("POST", "/resources", body, status=409)
    add_node(service, 1, "gateway")
    call("PUT", "/resources/db", {**body, "gateway": "n1"})
    change = {"name": "gate", "identity": "i1", "endpoint": None}
    assert call("PUT", "/nodes/n1", change)["name"] == "gate"
    assert call("GET", "/resources/db")["gateway"] == "gate"  # it follows the node's name
    call("DELETE", "/resources/db")


def test_a_node_is_changed_and_revoked_and_remains_visible(call: Call, service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    change = {"name": "n1", "identity": "nobody", "endpoint": None}
    assert errors(call("PUT", "/nodes/n1", change, status=422))[0][0] == "identity"
    call("PUT", "/nodes/n1", {"name": "n1", "identity": "i1"}, status=422)  # whole, or not at all
    call("DELETE", "/nodes/n1")
    for name in ("n1", node_id):
        node = call("GET", f"/nodes/{name}")
        assert node["revoked_at"] and node["addresses"] == [] and not node["has_converged"]
    call("DELETE", "/nodes/n1", status=409)
    assert call("GET", "/network")["nodes"] == {"total": 0, "converged": 0}


def test_a_body_that_contradicts_its_url_is_refused(call: Call) -> None:
    call("PUT", "/groups/one", {"name": "two", "members": []}, status=400)
    assert call("PUT", "/groups/one", {"members": []}, status=201)["name"] == "one"


@pytest.mark.parametrize("path", ["identities", "groups", "resources", "nodes", "setup-keys"])
def test_what_is_not_there_is_404_with_a_problem(call: Call, path: str) -> None:
    assert call("GET", f"/{path}/nothing", status=404)["status"] == 404


@pytest.mark.parametrize(
    "query",
    [
        "lmit=5",
        "limit=0",
        "limit=5001",
        "limit=00000000000000000001000000",
        "limit=x",
        "after=-1",
        "after=00000000000000000000" + "9" * 30,
        "since=yesterday",
        "since=0001-01-01T00:00:00%2B23:59",
    ],
)
def test_a_wrong_log_query_is_refused_with_its_parameter(call: Call, query: str) -> None:
    answer = call("GET", f"/logs?{query}", status=422)
    assert errors(answer)[0][0] == query.partition("=")[0]


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "\xff"}',
        b'{"name": "\xed\xa0\x80"}',
        '{"name": "a"}'.encode("utf-16"),
        b"[" * 9999,
    ],
)
def test_a_body_that_is_no_json_in_utf_8_is_400(app: Flask, body: bytes) -> None:
    answer = app.test_client().post(
        "/api/v1/node/token", data=body, content_type="application/json"
    )
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")


def test_two_slashes_are_another_path_and_lead_nowhere(app: Flask) -> None:
    answer = app.test_client().get("/api/v1//nodes", headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


def test_a_bug_is_500_tells_nothing_and_is_logged(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(network, "summary", broken)
    answer = call("GET", "/network", status=500)
    assert "secret" not in str(answer) and "a secret detail" in caplog.text


def test_a_store_that_fails_is_503_and_one_line_of_the_log(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(network, "summary", full)
    assert call("GET", "/network", status=503)["status"] == 503
    assert [record.message for record in caplog.records] == [
        "the store failed: database or disk is full"
    ]


def test_every_route_but_health_and_the_challenge_wants_a_token(app: Flask) -> None:
    client = app.test_client()
    described = ("health", "openapi.json", "docs")  # nothing in there is secret
    open_routes = {("GET", f"/api/v1/{name}") for name in described}
    proven = {f"/api/v1/node/{name}" for name in ("challenge", "enrol", "token", "rotate")}
    served = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/")]
    for i, rule in enumerate(served):  # ui/test_login.py has the pages
        client.environ_base["REMOTE_ADDR"] = f"198.51.100.{i}"  # one that asks so often must wait
        path = rule.rule.replace("<name>", "x").replace("<key_id>", "x")
        for method in (rule.methods or set()) - {"HEAD"}:
            status = client.open(path, method=method, json={}).status_code
            if (method, path) in open_routes:
                assert status == 200
            elif path in proven:  # a body first, then a setup key or a proof
                assert status == 422
            else:
                assert status == 401, f"{method} {path}"


@pytest.mark.parametrize("name", ["a/b", "", " x", "../x"])
def test_the_command_line_makes_no_token_that_the_api_cannot_delete(
    settings: Settings, name: str
) -> None:
    with pytest.raises(SchemaError, match="^name: "):
        create_token(settings, name, "owner")


def test_the_network_says_where_it_stands(call: Call, service: Service) -> None:
    add_node(service, 1, "mesh")
    found = call("GET", "/network")
    assert found["nodes"] == {"total": 1, "converged": 0} and not found["has_converged"]
    assert (found["name"], found["pools"]) == ("test", ["10.77.0.0/29", "fd77::/64"])
    with service.store.reading() as session:
        assert found["revision"]["number"] == network.revision(session).number == 1
