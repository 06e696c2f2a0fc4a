"""Who has which address."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from tests.unit.lab.plans import BEHIND_A_GATEWAY, HOSTS, MESH
from ztlab.errors import SchemaError
from ztlab.lab.addressing import Cable, cables, namespaces
from ztlab.lab.plan import LabPlan, LanPlan, NodePlan


def of(plan: LabPlan, node: str) -> list[Cable]:
    return [cable for cable in cables(plan) if cable.node == node]


def test_the_coordinator_has_the_first_underlay_address_and_nodes_follow() -> None:
    found = {cable.node: cable.addresses for cable in cables(MESH)}
    assert found == {
        "coordinator": ("198.18.0.1/16", "fd18::1/64"),
        "alice": ("198.18.0.2/16", "fd18::2/64"),
        "bob": ("198.18.0.3/16", "fd18::3/64"),
    }


def test_a_lab_of_plain_hosts_has_no_coordinator_and_is_still_a_network() -> None:
    assert namespaces(HOSTS) == ("switch", "h1", "h2")
    assert [cable.addresses[0] for cable in cables(HOSTS)] == ["198.18.0.1/16", "198.18.0.2/16"]


def test_a_gateway_has_the_first_address_of_each_prefix_of_its_lan() -> None:
    underlay, lan = of(BEHIND_A_GATEWAY, "gate")
    assert (underlay.interface, lan.interface) == ("eth0", "lan0")
    assert lan.addresses == ("192.168.9.1/24", "fd09::1/64")
    assert lan.gateways == ()


def test_a_host_of_a_lan_is_on_that_lan_only_and_routes_through_the_gateway() -> None:
    (printer,) = of(BEHIND_A_GATEWAY, "printer")
    assert printer.interface == "lan0"
    assert printer.addresses == ("192.168.9.2/24", "fd09::2/64")
    assert printer.gateways == ("192.168.9.1", "fd09::1")
    (files,) = of(BEHIND_A_GATEWAY, "files")
    assert files.addresses == ("192.168.9.3/24", "fd09::3/64")


def test_another_gateway_of_a_lan_is_on_it_like_a_host_and_goes_out_by_itself() -> None:
    second = NodePlan(name="gate2", role="gateway", lan="office")
    plan = replace(BEHIND_A_GATEWAY, nodes=(*BEHIND_A_GATEWAY.nodes, second))
    assert {c.gateways for c in of(plan, "printer")} == {("192.168.9.1", "fd09::1")}  # the first
    underlay, lan = of(plan, "gate2")
    assert (underlay.interface, lan.bridge) == ("eth0", of(plan, "gate")[1].bridge)
    assert lan.addresses == ("192.168.9.4/24", "fd09::4/64")
    assert lan.gateways == ()


def test_two_lans_are_two_bridges() -> None:
    plan = replace(
        BEHIND_A_GATEWAY,
        nodes=(*BEHIND_A_GATEWAY.nodes, NodePlan(name="gate2", role="gateway", lan="lab")),
        lans=(
            *BEHIND_A_GATEWAY.lans,
            LanPlan(name="lab", gateway="gate2", prefixes=("10.9.0.0/24",)),
        ),
    )
    assert {c.bridge for c in cables(plan)} == {"underlay", "lan0", "lan1"}


def test_no_address_is_given_twice_on_one_bridge() -> None:
    nodes = tuple(NodePlan(name=f"n{i}") for i in range(400))
    found = [
        (cable.bridge, ip_interface(address).ip)
        for cable in cables(replace(MESH, nodes=nodes))
        for address in cable.addresses
    ]
    assert len(found) == len(set(found)) == 802


@pytest.mark.parametrize(("prefix", "fits"), [("10.9.0.0/29", True), ("10.9.0.0/30", False)])
def test_a_lan_too_small_for_its_hosts_is_refused(prefix: str, fits: bool) -> None:
    lan = replace(BEHIND_A_GATEWAY.lans[0], prefixes=(prefix,))
    plan = replace(BEHIND_A_GATEWAY, lans=(lan,))
    if fits:
        assert cables(plan)
    else:
        with pytest.raises(SchemaError, match="no room for 3"):
            cables(plan)
