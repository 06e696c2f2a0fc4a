"""/audit, /revisions, /explain, dry runs: asked over HTTP, by roles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from coordinator import access, clock
from coordinator.api.context import Service
from coordinator.api.route import DryRunQuery
from coordinator.api.table import ROUTES
from coordinator.store.models import Base
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.test_api import DOCUMENT, POLICY, errors
from tests.unit.coordinator.test_network import add_node

ON_BOTH_STORES = True


def dump(service: Service) -> list[Any]:
    """The whole store."""
    with service.store.reading() as session:
        return [
            (table.name, sorted(session.execute(select(table)).all(), key=repr))
            for table in Base.metadata.sorted_tables
        ]


@pytest.fixture
def written(call: Call, service: Service) -> Service:
    add_node(service, 1, "gateway")
    add_node(service, 2, "client")
    call("PUT", "/network-document", DOCUMENT)
    return service


# --- audit


def test_a_change_is_found_by_who_and_what_and_when(call: Call, written: Service) -> None:
    before = clock.rfc3339(clock.now())
    call("PUT", "/groups/staff", {"members": ["web"]}, status=201)
    call("PUT", "/groups/staff", {"members": ["api"]})

    (changed, made) = call("GET", "/audit?kind=group&name=staff")["items"]
    assert (made["action"], made["before"], made["after"]) == (
        "create",
        None,
        {"name": "staff", "members": ["web"]},
    )
    assert (changed["action"], changed["actor"]) == ("update", "token test")
    assert (changed["before"], changed["after"]["members"]) == (made["after"], ["api"])
    since = before.replace("+", "%2B")
    assert call("GET", f"/audit?since={since}")["items"] == [changed, made]
    assert changed not in call("GET", f"/audit?until={since}")["items"]
    assert call("GET", "/audit?actor=token%20nobody")["items"] == []


def test_the_log_is_read_in_pages(call: Call, written: Service) -> None:
    whole = call("GET", "/audit")["items"]
    first = call("GET", "/audit?limit=3")
    second = call("GET", f"/audit?limit=1000&cursor={first['next']}")

    assert first["items"] + second["items"] == whole and second["next"] is None
    assert [row["id"] for row in whole] == sorted((row["id"] for row in whole), reverse=True)


def test_the_head_of_the_log_is_what_a_verification_is_held_against(
    call: Call, written: Service
) -> None:
    head = call("GET", "/audit/head")
    call("POST", "/identities", {"name": "late"}, status=201)

    found = call("GET", f"/audit/verify?expect={head['hash']}")
    assert found["is_intact"] and found["head"] == call("GET", "/audit/head")["hash"]
    found = call("GET", f"/audit/verify?expect={'f' * 64}")
    assert not found["is_intact"] and "cut off" in found["faults"][0]
    (fault,) = errors(call("GET", "/audit/verify?expect=x", status=422))
    assert fault[0] == "expect"


def test_setup_keys_and_tokens_are_in_the_log_and_their_secrets_are_not(
    call: Call, written: Service
) -> None:
    key = call("POST", "/setup-keys", {"role": "client"}, status=201)
    token = call("POST", "/tokens", {"name": "ci", "role": "viewer"}, status=201)
    call("DELETE", f"/setup-keys/{key['id']}")
    call("DELETE", "/tokens/ci")

    rows = call("GET", "/audit")["items"][:4]
    assert [(row["action"], row["name"]) for row in rows] == [
        ("delete", "ci"),
        ("delete", key["id"]),
        ("create", "ci"),
        ("create", key["id"]),
    ]
    stored = str(dump(written))
    assert key["id"] in stored
    assert key["key"] not in stored and token["token"] not in stored


# --- revisions


def test_a_revision_is_read_compared_and_rolled_back_to(call: Call, written: Service) -> None:
    then = call("GET", "/network")["revision"]
    path = f"/revisions/{then['epoch']}/{then['number']}"
    call("PUT", "/policy", {**POLICY, "default": "allow"})
    call("PUT", "/groups/all", {"members": []})

    found = call("GET", f"{path}?against=present")
    assert found["document"]["policy"]["default"] == "deny"
    assert found["since"]["number"] == then["number"]
    assert {(one["kind"], one["action"]) for one in found["differences"]} == {
        ("policy", "update"),
        ("group", "update"),
    }
    assert call("GET", f"{path}?against={then['epoch']}/{then['number']}")["differences"] == []
    assert call("GET", path)["differences"] is None

    rehearsed = call("POST", f"{path}/rollback?dry_run=true")
    assert rehearsed["preview"]["change_count"] == 2
    revision = call("POST", f"{path}/rollback")["revision"]

    assert revision["number"] == then["number"] + 3
    assert call("GET", "/policy")["default"] == "deny"
    newest = call("GET", "/revisions")["items"][0]
    assert (newest["number"], newest["actor"]) == (revision["number"], "token test")
    assert sorted(newest["summary"]) == ["update group all", "update policy policy"]


def test_what_somebody_wrote_meanwhile_is_not_rolled_back(
    call: Call, app: Flask, written: Service
) -> None:
    then = call("GET", "/network")["revision"]
    call("PUT", "/policy", {**POLICY, "default": "allow"})
    seen = call("GET", "/network")["revision"]
    call("PUT", "/groups/all", {"members": []})
    with written.store.writing() as session:
        token = access.create_token(session, "another", "editor", clock.now())
    path = f"/api/v1/revisions/{then['epoch']}/{then['number']}/rollback"

    def status(**headers: str) -> int:
        bearer = {"Authorization": f"Bearer {token}"}
        return app.test_client().post(path, headers={**bearer, **headers}).status_code

    assert status() == 428
    assert status(**{"If-Match": f'"{seen["epoch"]}/{seen["number"]}"'}) == 412
    assert call("GET", "/groups/all")["members"] == []
    now = call("GET", "/network")["revision"]
    assert status(**{"If-Match": f'"{now["epoch"]}/{now["number"]}"'}) == 200
    assert call("GET", "/groups/all")["members"] != []


@pytest.mark.parametrize("path", ["x/1", "{epoch}/9999", "{epoch}/-1", "{epoch}/x"])
def test_a_revision_that_is_not_known_is_not_found(call: Call, written: Service, path: str) -> None:
    path = path.format(epoch=call("GET", "/network")["revision"]["epoch"])
    call("GET", f"/revisions/{path}", status=404)
    call("POST", f"/revisions/{path}/rollback", status=404)


# --- dry runs


def dry(call: Call, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer: dict[str, Any] = call(method, f"{path}?dry_run=true", body)
    return answer


def test_a_dry_run_says_what_would_change_and_for_whom(call: Call, written: Service) -> None:
    rule = {"id": "new", "from": "web", "to": "i1", "action": "allow"}

    answer = dry(call, "PUT", "/policy/rules/new", rule)

    (change,) = answer["preview"]["changes"]
    assert (change["action"], change["kind"], change["name"]) == ("create", "rule", "new")
    (node,) = answer["preview"]["nodes"]  # the gateway judges; its client is told of no rule
    assert (node["name"], node["state"]) == ("n1", "told")
    (part,) = node["parts"]
    assert part["part"] == "rules" and part["added"] == {"count": 1, "names": ["new"]}
    assert part["removed"]["count"] == part["changed"]["count"] == 0


def test_a_dry_run_of_a_revocation_names_who_loses_a_peer(call: Call, written: Service) -> None:
    nodes = dry(call, "DELETE", "/nodes/n2")["preview"]["nodes"]

    assert [(node["name"], node["state"]) for node in nodes] == [("n1", "told"), ("n2", "gone")]
    parts = {part["part"]: part for part in nodes[0]["parts"]}
    assert parts["peers"]["removed"] == {"count": 1, "names": ["n2"]}


def writes() -> Iterator[tuple[str, str, Any]]:
    yield "POST", "/identities", {"name": "x"}
    yield "PUT", "/identities/x", {}
    yield "DELETE", "/identities/i2", None
    yield "PUT", "/groups/x", {"members": ["web"]}
    yield "PATCH", "/groups/all", {"members": ["web"]}
    yield "DELETE", "/groups/all", None
    yield "PUT", "/resources/x", {"cidr": "192.0.2.0/24", "gateway": "n1"}
    yield "PUT", "/policy", {"default": "allow"}
    yield "PUT", "/policy/default", {"default": "allow"}
    yield "DELETE", "/policy/rules/r", None
    yield "PUT", "/network-document", {}
    yield "PATCH", "/nodes/n1", {"endpoint": None}
    yield "DELETE", "/nodes/n1", None


@pytest.mark.parametrize(("method", "path", "body"), list(writes()))
def test_a_dry_run_writes_nothing_and_wakes_nobody(
    call: Call, written: Service, method: str, path: str, body: Any
) -> None:
    call("PUT", "/policy/tests", {"tests": []})
    if path == "/identities/i2":
        call("DELETE", "/nodes/n2")
    before, known = dump(written), written.hub.memory.known
    revision = call("GET", "/network")["revision"]

    answer = dry(call, method, path, body)

    assert answer["preview"]["change_count"] > 0 and answer["revision"] == revision
    assert dump(written) == before
    assert written.hub.memory.known is known
    done = call(method, path, body, status=201 if answer_creates(method, path) else 200)
    assert "preview" not in done and done["revision"]["number"] == revision["number"] + 1


def answer_creates(method: str, path: str) -> bool:
    return method == "POST" or (method == "PUT" and path.endswith("/x"))


@pytest.mark.parametrize(("method", "path", "body"), list(writes()))
def test_every_write_leaves_rows_that_say_who_and_at_which_revision(
    call: Call, written: Service, method: str, path: str, body: Any
) -> None:
    call("PUT", "/policy/tests", {"tests": []})
    if path == "/identities/i2":
        call("DELETE", "/nodes/n2")
    head = call("GET", "/audit/head")["id"]

    done = call(method, path, body, status=201 if answer_creates(method, path) else 200)

    rows = [row for row in call("GET", "/audit?limit=1000")["items"] if row["id"] > head]
    assert rows and {row["actor"] for row in rows} == {"token test"}
    assert all(row["revision"] == done["revision"] for row in rows)
    assert all(row["before"] != row["after"] for row in rows)
    assert call("GET", "/audit/verify")["is_intact"]


def test_what_would_be_refused_is_refused_in_a_dry_run(call: Call, written: Service) -> None:
    broken = {**POLICY, "rules": []}
    refused = [call("PUT", f"/policy{q}", broken, status=422) for q in ("", "?dry_run=true")]

    assert refused[0] == refused[1] and "tests[0]" in errors(refused[0])[0][0]


def test_every_write_can_be_rehearsed() -> None:
    for route in ROUTES:
        if route.method != "GET" and route.view is not None:
            is_question = route.path == "/policy/test"
            assert (route.query is DryRunQuery) != is_question, (route.method, route.path)


# --- explain


def test_an_explanation_names_rule_and_membership(call: Call, written: Service) -> None:
    found = call("GET", "/explain?from=web&to=api&proto=tcp&port=80")

    assert found["verdict"] == "allow"
    (pair,) = found["pairs"]
    assert pair["slices"][0]["rule"] == "r" and pair["matches"][0]["from_by"] == "name"
    assert call("GET", "/explain?from=web&to=api&proto=17&port=53")["verdict"] == "deny"
    paths = [e[0] for e in errors(call("GET", "/explain?from=webb&to=x&proto=9999", status=422))]
    assert paths == ["from", "to", "proto"]


def test_the_matrix_is_answered_in_parts(call: Call, written: Service) -> None:
    whole = call("GET", "/reachability")
    part = call("GET", "/reachability?from_offset=1&from_limit=2&to_limit=1")

    assert whole["total"] == len(whole["rows"]) == len(whole["destinations"]) == 5
    assert [row["from"] for row in part["rows"]] == [row["from"] for row in whole["rows"][1:3]]
    assert [row["cells"] for row in part["rows"]] == [
        row["cells"][:1] for row in whole["rows"][1:3]
    ]
    verdicts = {(r["from"], c["to"]): c["verdict"] for r in whole["rows"] for c in r["cells"]}
    assert verdicts["web", "api"] == "some" and verdicts["api", "web"] == "deny"


def test_tests_are_run_against_the_present_or_a_given_policy(call: Call, written: Service) -> None:
    before = dump(written)
    assert call("POST", "/policy/test", {}) == {"passed": True, "tests": 1, "failures": []}
    found = call("POST", "/policy/test", {"policy": {"default": "deny", "tests": POLICY["tests"]}})
    assert not found["passed"] and "no_rule by default deny" in found["failures"][0]
    deny = {"from": "web", "to": "api", "proto": "tcp", "port": 1, "expect": "deny"}
    assert "allowed by rule r" in call("POST", "/policy/test", {"tests": [deny]})["failures"][0]
    nobody = {**deny, "from": "nobody"}
    (fault,) = errors(call("POST", "/policy/test", {"tests": [nobody]}, status=422))
    assert fault[0] == "tests[0].from"
    assert dump(written) == before


# --- roles


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("GET", "/audit", "viewer"),
        ("GET", "/audit/head", "viewer"),
        ("GET", "/audit/verify", "owner"),
        ("GET", "/revisions", "viewer"),
        ("GET", "/explain?from=world&to=world", "viewer"),
        ("GET", "/reachability", "viewer"),
        ("POST", "/revisions/{epoch}/{number}/rollback", "editor"),
    ],
)
def test_each_role_may_what_it_may(
    app: Flask, service: Service, method: str, path: str, least: str
) -> None:
    client, roles = app.test_client(), ("viewer", "editor", "owner")
    for role in roles:
        with service.store.writing() as session:
            token = access.create_token(session, role, role, clock.now())  # type: ignore[arg-type]
        headers = {"Authorization": f"Bearer {token}"}
        now = client.get("/api/v1/network", headers=headers).get_json()["revision"]
        headers |= {"If-Match": "*"} if method == "POST" else {}
        answer = client.open(f"/api/v1{path.format(**now)}", method=method, headers=headers)
        may = roles.index(role) >= roles.index(least)
        assert answer.status_code == (200 if may else 403), answer.get_data(as_text=True)


def test_a_dry_run_of_keys_and_tokens_says_what_would_change_and_keeps_nothing(
    call: Call, written: Service
) -> None:
    key = call("POST", "/setup-keys", {"role": "mesh"}, status=201)
    assert call("POST", "/tokens", {"name": "eve", "role": "viewer"}, status=201)["token"]
    before = dump(written)
    for method, path, body, kind, action in (
        ("POST", "/setup-keys", {"role": "mesh"}, "setup key", "create"),
        ("DELETE", f"/setup-keys/{key['id']}", None, "setup key", "delete"),
        ("POST", "/tokens", {"name": "bob", "role": "editor"}, "token", "create"),
        ("PATCH", "/tokens/eve", {"role": "editor"}, "token", "update"),
        ("DELETE", "/tokens/eve", None, "token", "delete"),
    ):
        answer = dry(call, method, path, body)
        (change,) = answer["preview"]["changes"]
        assert (change["kind"], change["action"]) == (kind, action)
        assert answer.get("key") is answer.get("token") is None
        assert answer["preview"]["nodes"] == []
        assert dump(written) == before
        creates = method == "POST"
        assert "preview" not in call(method, path, body, status=201 if creates else 200)
        assert dump(written) != before
        before = dump(written)
    call("POST", "/tokens?dry_run=true", {"name": "bob", "role": "editor"}, status=409)
