"""From a scenario to what the lab builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ztlab.errors import SchemaError
from ztlab.lab.plan import LanPlan, Listener
from ztlab.model.verdict import AuthzMode
from ztlab.scenario.loading import from_data, load

SCENARIOS = Path(__file__).parents[3] / "scenarios"


def test_3node_is_a_mesh_of_three_with_bobs_listeners() -> None:
    plan = load(SCENARIOS / "3node.yaml").plan()
    assert plan.name == "3node"
    assert [(n.name, n.role, n.identity) for n in plan.nodes] == [
        ("alice", "mesh", "web"),
        ("bob", "mesh", "api"),
        ("carol", "mesh", "guest"),
    ]
    assert plan.nodes[1].listen == (
        Listener(proto="tcp", port=8080),
        Listener(proto="tcp", port=9090),
        Listener(proto="udp", port=5353),
    )
    assert {n.authz_mode for n in plan.nodes} == {AuthzMode.ENFORCE}


def test_the_document_is_what_the_management_api_takes() -> None:
    document = load(SCENARIOS / "gateway.yaml").plan().document
    assert document["identities"] == ["staff", "gateway"]
    assert document["resources"] == [
        {
            "name": name,
            "cidr": cidr,
            "gateway": "gw",
            "priority": 100,
            "alternatives": [],
            "via": [],
        }
        for name, cidr in (("office", "192.168.50.2/31"), ("files", "192.168.50.3/32"))
    ]
    assert document["policy"]["rules"][0] == {
        "id": "staff-to-office",
        "from": "staff",
        "to": "office",
        "action": "allow",
        "proto": "tcp",
        "ports": [8080],
        "icmp_types": [],
    }


def test_a_host_has_no_identity_and_stands_on_its_lan() -> None:
    plan = load(SCENARIOS / "gateway.yaml").plan()
    wiki = next(n for n in plan.nodes if n.name == "wiki")
    assert (wiki.kind, wiki.identity, wiki.lan) == ("host", None, "office")
    assert plan.lans == (LanPlan(name="office", gateway="gw", prefixes=("192.168.50.0/24",)),)


def test_identities_that_no_node_has_exist_too() -> None:
    data = {"name": "x", "nodes": {"a": {}}, "identities": ["later", "a"], "steps": []}
    assert from_data(data).plan().document["identities"] == ["later", "a"]


def test_a_nodes_own_settings_win_over_the_defaults() -> None:
    data = {
        "name": "x",
        "defaults": {"authz_mode": "observe", "logging_enabled": False},
        "nodes": {"a": {}, "b": {"authz_mode": "enforce", "logging_enabled": True}},
        "steps": [],
    }
    a, b = from_data(data).plan().nodes
    assert (a.authz_mode, a.logging_enabled) == (AuthzMode.OBSERVE, False)
    assert (b.authz_mode, b.logging_enabled) == (AuthzMode.ENFORCE, True)


def test_another_name_can_be_given_and_is_checked() -> None:
    scenario = load(SCENARIOS / "3node.yaml")
    assert scenario.plan("3node-gw0-17").name == "3node-gw0-17"
    with pytest.raises(SchemaError):
        scenario.plan("no.dots")


def test_a_second_gateway_of_a_resource_stands_in_plan_and_document() -> None:
    metric = {"at": "gate1", "name": "zt_peers", "equals": 1}
    text: dict[str, Any] = {
        "name": "two",
        "nodes": {
            "laptop": {"role": "client"},
            "gate1": {"role": "gateway", "lan": "office"},
            "gate2": {"role": "gateway", "lan": "office"},
        },
        "lans": {"office": {"gateway": "gate1", "prefixes": ["192.168.50.0/24"]}},
        "resources": {
            "office": {
                "cidr": "192.168.50.0/24",
                "gateway": "gate1",
                "priority": 7,
                "alternatives": [{"gateway": "gate2", "priority": 9}],
            }
        },
        "policy": {"rules": []},
        "steps": [{"name": "look", "expect": {"metric": metric}}],
    }
    plan = from_data(text).plan()
    (resource,) = plan.document["resources"]
    assert resource == {"name": "office", "via": [], **text["resources"]["office"]}
    assert {n.name: n.lan for n in plan.nodes if n.role == "gateway"} == {
        "gate1": "office",
        "gate2": "office",
    }
