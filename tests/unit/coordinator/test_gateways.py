"""A resource that several gateways offer: which is in use, as the API says and clients are told."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from coordinator import access, clock
from coordinator.api.context import Service
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.test_api import errors
from tests.unit.coordinator.test_network import add_node

ON_BOTH_STORES = True
CIDR = "192.0.2.0/24"
ROUTER = "203.0.113.1/32"
DB = {
    "name": "db",
    "cidr": CIDR,
    "gateway": "n1",
    "priority": 10,
    "alternatives": [{"gateway": "n2", "priority": 20}],
    "via": [ROUTER],
}


@pytest.fixture
def network(call: Call, service: Service) -> Call:
    """Gateways n1 and n2, which offer db in this order; n3, another; client n4."""
    for number in (1, 2, 3):
        add_node(service, number, "gateway")
    add_node(service, 4, "client")
    call("POST", "/resources", DB, status=201)
    return call


def way(call: Call) -> str:
    """The gateway in use: as the resource says, and as the client has its prefixes."""
    through: str = call("GET", "/resources/db")["in_use"]
    peers = call("GET", "/nodes/n4/configuration")["config"]["peers"]
    for prefix in (CIDR, ROUTER):
        assert [peer["name"] for peer in peers if prefix in peer["allowed_ips"]] == [through]
    return through


def offers(call: Call) -> dict[str, list[str]]:
    return {one["name"]: one["resources"] for one in call("GET", "/gateways")["items"]}


def test_a_resource_is_read_as_it_was_written_and_says_who_has_it(network: Call) -> None:
    assert network("GET", "/resources/db") == {**DB, "tag": 6, "in_use": "n1"}
    assert network("GET", "/resources")["items"] == [network("GET", "/resources/db")]
    assert offers(network) == {"n1": ["db"], "n2": ["db"], "n3": []}
    assert way(network) == "n1"


def test_the_lowest_priority_goes_first_wherever_it_stands(network: Call) -> None:
    network("PATCH", "/resources/db", {"priority": 30})
    assert way(network) == "n2"
    network("PATCH", "/resources/db", {"alternatives": [{"gateway": "n3", "priority": 0}]})
    assert way(network) == "n3"
    assert offers(network) == {"n1": ["db"], "n2": [], "n3": ["db"]}
    network("PUT", "/resources/db", {"name": "db", "cidr": CIDR, "gateway": "n1", "via": [ROUTER]})
    assert way(network) == "n1"
    assert network("GET", "/resources/db")["alternatives"] == []


def test_a_drained_gateway_is_used_for_what_nobody_else_offers(network: Call) -> None:
    network(
        "POST", "/resources", {"name": "own", "cidr": "192.0.3.0/24", "gateway": "n1"}, status=201
    )
    assert network("PATCH", "/gateways/n1", {"is_drained": True})["is_drained"]
    assert way(network) == "n2"
    assert network("GET", "/resources/own")["in_use"] == "n1"
    drained = network("GET", "/gateways?is_drained=true")["items"]
    assert [one["name"] for one in drained] == ["n1"]

    network("PATCH", "/gateways/n2", {"is_drained": True})
    assert way(network) == "n1"  # all are drained: by priority, as if none was
    network("PATCH", "/gateways/n1", {"is_drained": False})
    assert way(network) == "n1"
    endpoint = network("GET", "/gateways/n2")["endpoint"]
    assert not network("PUT", "/gateways/n2", {"endpoint": endpoint})["is_drained"]
    assert network("GET", "/gateways?is_drained=true")["items"] == []


def test_who_is_told_of_a_switch_are_clients_and_those_who_judge(
    network: Call, service: Service
) -> None:
    add_node(service, 5, "mesh")
    preview = network("PATCH", "/gateways/n1?dry_run=true", {"is_drained": True})["preview"]
    (change,) = preview["changes"]
    assert (change["action"], change["kind"], change["name"]) == ("update", "node", "n1")
    assert (change["before"]["is_drained"], change["after"]["is_drained"]) == (False, True)
    told = {one["name"]: {part["part"] for part in one["parts"]} for one in preview["nodes"]}
    judges = ("n1", "n2", "n3", "n5")
    assert told == {"n4": {"peers"}, **dict.fromkeys(judges, {"resources"})}
    assert way(network) == "n1"  # it was a rehearsal

    network("PATCH", "/gateways/n1", {"is_drained": True})
    (row,) = network("GET", "/audit?kind=node&action=update")["items"]
    assert (row["actor"], row["name"]) == ("token test", "n1")
    third = network("PATCH", "/gateways/n3?dry_run=true", {"is_drained": True})["preview"]
    assert third["node_count"] == 0  # nothing goes through it


def test_a_revoked_gateway_leaves_what_it_offers_to_the_next(network: Call) -> None:
    network("DELETE", "/nodes/n1")
    assert way(network) == "n2"
    assert offers(network) == {"n2": ["db"], "n3": []}
    network("PATCH", "/resources/db", {"via": []})  # n1 still stands there: it may come back
    network("DELETE", "/nodes/n2")
    assert network("GET", "/resources/db")["in_use"] is None


def test_a_gateway_may_be_awaited_as_an_alternative_and_one_nobody_heard_of_may_not(
    network: Call,
) -> None:
    def alternatives(*names: str) -> dict[str, Any]:
        return {"alternatives": [{"gateway": n, "priority": 20 + i} for i, n in enumerate(names)]}

    answer = network("PATCH", "/resources/db", alternatives("n2", "n5"), status=422)
    ((path, said),) = errors(answer)
    assert path == "alternatives[1].gateway" and said.startswith("no gateway is called 'n5'")
    network("POST", "/setup-keys", {"role": "gateway", "name": "n5"}, status=201)
    network("PATCH", "/resources/db", alternatives("n2", "n5"))
    network("PATCH", "/resources/db", alternatives("n5"))
    network("DELETE", "/nodes/n1")
    assert network("GET", "/resources/db")["in_use"] is None


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"priority": 20}, "resources.db.alternatives[0].priority"),
        ({"gateway": "n2"}, "resources.db.alternatives[0].gateway"),
        ({"priority": -1}, "priority"),
        ({"priority": 65536}, "priority"),
        ({"alternatives": [{"gateway": "n2"}]}, "alternatives[0].priority"),
        (
            {"alternatives": [{"gateway": "n2", "priority": 1, "weight": 2}]},
            "alternatives[0].weight",
        ),
        ({"alternatives": [{"gateway": "n4", "priority": 1}]}, "alternatives[0].gateway"),
    ],
)
def test_an_offer_that_leaves_open_who_goes_first_is_refused(
    network: Call, change: dict[str, Any], path: str
) -> None:
    before = network("GET", "/resources/db")
    assert [
        where for where, _ in errors(network("PATCH", "/resources/db", change, status=422))
    ] == [path]
    assert network("GET", "/resources/db") == before


def test_the_same_prefix_again_is_no_way_to_offer_it_twice(network: Call) -> None:
    again = {"name": "db2", "cidr": CIDR, "gateway": "n3", "priority": 30}
    ((path, said),) = errors(network("POST", "/resources", again, status=422))
    assert path == "resources.db2.cidr" and "one of its alternatives" in said


def test_a_renamed_gateway_offers_what_it_did(network: Call) -> None:
    for name, to in (("n2", "second"), ("n1", "first")):
        body = {"name": to, "identity": f"i{name[1:]}", "endpoint": None}
        network("PUT", f"/nodes/{name}", body)
    found = network("GET", "/resources/db")
    assert (found["gateway"], found["in_use"]) == ("first", "first")
    assert found["alternatives"] == [{"gateway": "second", "priority": 20}]
    assert offers(network) == {"first": ["db"], "n3": [], "second": ["db"]}
    network("PATCH", "/gateways/first", {"is_drained": True})
    assert way(network) == "second"
    taken = {"name": "n3", "identity": "i2", "endpoint": None}
    network("PUT", "/nodes/second", taken, status=409)


def test_a_tag_covers_what_is_written_and_not_who_is_in_use(
    network: Call, app: Flask, service: Service
) -> None:
    with service.store.writing() as session:
        token = access.create_token(session, "reader", "viewer", clock.now())

    def tags() -> tuple[str, str]:
        headers = {"Authorization": f"Bearer {token}"}
        paths = ("/api/v1/resources/db", "/api/v1/gateways/n1")
        db, n1 = (app.test_client().get(path, headers=headers).headers["ETag"] for path in paths)
        return db, n1

    before = tags()
    network("PATCH", "/gateways/n1", {"is_drained": True})
    assert network("GET", "/resources/db")["in_use"] == "n2"
    drained = tags()
    assert drained[0] == before[0] and drained[1] != before[1]
    network("PATCH", "/resources/db", {"priority": 11})
    assert tags()[0] != drained[0]


def test_a_rollback_brings_the_priorities_of_then_and_leaves_a_drained_gateway_drained(
    network: Call,
) -> None:
    then = network("GET", "/network")["revision"]
    network(
        "PATCH",
        "/resources/db",
        {"priority": 30, "alternatives": [{"gateway": "n3", "priority": 5}]},
    )
    network("PATCH", "/gateways/n3", {"is_drained": True})
    network("DELETE", "/resources/db")

    path = f"/revisions/{then['epoch']}/{then['number']}"
    shown = network("GET", path)["document"]["resources"]
    assert shown == [DB]
    network("POST", f"{path}/rollback")

    found = network("GET", "/resources/db")
    assert {key: found[key] for key in DB} == DB
    assert way(network) == "n1"
    assert network("GET", "/gateways/n3")["is_drained"]  # nodes are in no document
