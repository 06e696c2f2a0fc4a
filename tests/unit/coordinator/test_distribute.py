"""Distribution goes by destination: golden configurations of a client, a gateway, a mesh node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coordinator.distribute import View, node_config
from coordinator.state import NetworkState, NodeState, ResourceState
from tests.unit.coordinator.networks import NETWORK_ID, key, network, node
from ztlab.model import codec
from ztlab.model.config import NodeConfig
from ztlab.model.management import Offer
from ztlab.model.policy import Policy, PolicyTest

ALICE = node(1, "alice", "client", "web", endpoint=False)
BORIS = node(2, "boris", "client", "web")
GW1 = node(3, "gw1", "gateway")
GW2 = node(4, "gw2", "gateway")
MARY = node(5, "mary", "mesh")
MIKE = node(6, "mike", "mesh", endpoint=False)
ALL = network(ALICE, BORIS, GW1, GW2, MARY, MIKE)


def told(who: NodeState, where: NetworkState = ALL) -> dict[str, Any]:
    """WHO's configuration as plain data, which a node's strict decoder takes back."""
    config = node_config(where, who)
    plain: dict[str, Any] = codec.encode(config)
    assert codec.decode(NodeConfig, plain) == config
    return plain


def identities(config: dict[str, Any]) -> dict[str, list[str]]:
    return {identity["name"]: identity["prefixes"] for identity in config["identities"]}


def test_a_client_learns_its_gateways_and_nothing_else() -> None:
    assert told(ALICE) == {
        "version": 1,
        "network_id": NETWORK_ID,
        "node": {
            "node_id": ALICE.id,
            "name": "alice",
            "role": "client",
            "identity": "web",
            "addresses": ["10.77.0.1/32", "fd77::1/128"],
        },
        "peers": [
            {
                "node_id": GW1.id,
                "name": "gw1",
                "role": "gateway",
                "public_key": key(3),
                "endpoint": "198.18.0.3:51820",
                "allowed_ips": [
                    "10.77.0.0/16",
                    "10.77.0.3/32",
                    "192.0.2.0/24",
                    "203.0.113.1/32",
                    "fd77::/64",
                    "fd77::3/128",
                ],
                "keepalive_s": 25,
            },
            {
                "node_id": GW2.id,
                "name": "gw2",
                "role": "gateway",
                "public_key": key(4),
                "endpoint": "198.18.0.4:51820",
                "allowed_ips": ["10.77.0.4/32", "fd77::4/128"],
                "keepalive_s": 25,
            },
        ],
        "identities": [],
        "resources": [],
        "policy": None,
    }


def test_a_gateway_learns_its_clients_all_identities_resources_and_policy() -> None:
    config = told(GW1)
    assert config["peers"] == [
        {
            "node_id": ALICE.id,
            "name": "alice",
            "role": "client",
            "public_key": key(1),
            "endpoint": None,
            "allowed_ips": ["10.77.0.1/32", "fd77::1/128"],
            "keepalive_s": 0,
        },
        {
            "node_id": BORIS.id,
            "name": "boris",
            "role": "client",
            "public_key": key(2),
            "endpoint": "198.18.0.2:51820",
            "allowed_ips": ["10.77.0.2/32", "fd77::2/128"],
            "keepalive_s": 0,
        },
    ]
    assert identities(config) == {
        "gw1": ["10.77.0.3/32", "fd77::3/128"],
        "gw2": [],
        "mary": [],
        "mike": [],
        "nobody": [],
        "web": ["10.77.0.1/32", "10.77.0.2/32", "fd77::1/128", "fd77::2/128"],
    }
    assert config["resources"] == [
        {
            "name": "db",
            "tag": 100,
            "cidr": "192.0.2.0/24",
            "gateway": "gw1",
            "via": ["203.0.113.1/32"],
        }
    ]
    assert config["policy"]["groups"] == {"people": ["web"]}
    assert [rule["id"] for rule in config["policy"]["rules"]] == ["r"]


def test_a_mesh_node_learns_the_other_mesh_nodes_and_the_policy() -> None:
    config = told(MARY)
    assert [(p["name"], p["endpoint"], p["keepalive_s"]) for p in config["peers"]] == [
        ("mike", None, 0)
    ]
    assert [(p["name"], p["keepalive_s"]) for p in told(MIKE)["peers"]] == [("mary", 25)]
    assert identities(config)["mary"] == ["10.77.0.5/32", "fd77::5/128"]
    assert identities(config)["mike"] == ["10.77.0.6/32", "fd77::6/128"]
    assert identities(config)["web"] == []
    assert config["policy"] is not None and len(config["resources"]) == 1


def test_both_ends_of_a_mesh_begin_the_handshake() -> None:
    both = network(MARY, node(7, "nora", "mesh"))
    assert [p["keepalive_s"] for who in both.nodes for p in told(who, both)["peers"]] == [25, 25]


def test_what_is_no_business_of_a_nodes_does_not_change_its_digest() -> None:
    without = network(ALICE, BORIS, GW1, GW2, MARY)
    assert node_config(without, ALICE).digest() == node_config(ALL, ALICE).digest()
    assert node_config(without, MARY).digest() != node_config(ALL, MARY).digest()


def test_the_tests_of_a_policy_are_not_distributed() -> None:
    test = PolicyTest(source="web", destination="db", expect="allow")
    tested = Policy(rules=ALL.policy.rules, groups=ALL.policy.groups, tests=(test,))
    other = network(*ALL.nodes, policy=tested)
    assert node_config(other, MARY).digest() == node_config(ALL, MARY).digest()


def test_no_configuration_gives_one_prefix_to_two_peers() -> None:
    for who in ALL.nodes:
        prefixes = [p for peer in node_config(ALL, who).peers for p in peer.allowed_ips]
        assert len(prefixes) == len(set(prefixes))


def test_a_key_to_come_is_told_beside_the_present_one_without_prefixes_or_keepalive() -> None:
    changing = replace(GW1, next_key=key(99))
    where = network(ALICE, BORIS, changing, GW2, MARY, MIKE)
    before, after = (told(ALICE, at)["peers"] for at in (ALL, where))
    present, coming = after[:2]
    assert [present, *after[2:]] == before
    assert coming == {**present, "public_key": key(99), "allowed_ips": [], "keepalive_s": 0}


def test_a_node_that_changes_its_key_is_told_nothing_new_and_neither_are_strangers() -> None:
    where = network(ALICE, BORIS, replace(GW1, next_key=key(99)), GW2, MARY, MIKE)
    changing = next(node for node in where.nodes if node.name == "gw1")
    assert told(changing, where) == told(GW1)
    for stranger in (GW2, MARY):
        assert told(stranger, where) == told(stranger)


def offered(first: int = 100, second: int = 200) -> NetworkState:
    """`db` behind gw1 and gw2, with these priorities."""
    db = ResourceState(
        name="db",
        tag=100,
        cidr="192.0.2.0/24",
        gateway="gw1",
        priority=first,
        alternatives=(Offer(gateway="gw2", priority=second),),
        via=("203.0.113.1/32",),
    )
    return replace(ALL, resources=(db,))


def ways(where: NetworkState, prefix: str) -> list[str]:
    """The peers that a client has PREFIX through; WireGuard knows one at most."""
    return [peer["name"] for peer in told(ALICE, where)["peers"] if prefix in peer["allowed_ips"]]


def without(where: NetworkState, *names: str) -> NetworkState:
    return replace(where, nodes=tuple(node for node in where.nodes if node.name not in names))


def drained(where: NetworkState, *names: str) -> NetworkState:
    nodes = (replace(node, is_drained=node.name in names) for node in where.nodes)
    return replace(where, nodes=tuple(nodes))


def test_of_several_gateways_that_offer_a_resource_clients_have_it_through_one() -> None:
    for where, through in (
        (offered(), ["gw1"]),
        (offered(200, 100), ["gw2"]),
        (without(offered(), "gw1"), ["gw2"]),
        (drained(offered(), "gw1"), ["gw2"]),
        (drained(offered(200, 100), "gw2"), ["gw1"]),
        (drained(offered(), "gw1", "gw2"), ["gw1"]),
        (without(drained(offered(), "gw2"), "gw1"), ["gw2"]),
        (without(offered(), "gw1", "gw2"), []),
    ):
        assert ways(where, "192.0.2.0/24") == ways(where, "203.0.113.1/32") == through


def test_gateways_are_told_which_of_them_has_a_resource_and_clients_nothing_of_it() -> None:
    for where, through in ((offered(), "gw1"), (offered(200, 100), "gw2")):
        for who in (GW1, GW2, MARY):
            assert told(who, where)["resources"] == [
                {
                    "name": "db",
                    "tag": 100,
                    "cidr": "192.0.2.0/24",
                    "gateway": through,
                    "via": ["203.0.113.1/32"],
                }
            ]
        assert told(ALICE, where)["resources"] == []


def test_a_drained_gateway_gives_the_way_between_clients_away_too() -> None:
    assert ways(ALL, "10.77.0.0/16") == ["gw1"]
    assert ways(drained(ALL, "gw1"), "10.77.0.0/16") == ["gw2"]
    assert ways(drained(ALL, "gw1", "gw2"), "10.77.0.0/16") == ["gw1"]


def test_a_view_that_follows_another_says_of_a_switch_what_a_fresh_one_says() -> None:
    steps = [offered(), drained(offered(), "gw1"), offered(200, 100), offered(200, 300), ALL]
    steps += [without(offered(), "gw1"), offered()]
    before: View | None = None
    for where in steps:
        after = View.of(where, before)
        fresh = View.of(where)
        for one in where.nodes:
            assert after.config(one.id) == fresh.config(one.id)
            assert after.digest(one.id) == fresh.digest(one.id)
        before = after


def test_a_priority_that_decides_nothing_is_told_to_nobody() -> None:
    before = View.of(offered(100, 200))
    after = View.of(offered(100, 300), before)
    assert {n.id for n in ALL.nodes if before.digest(n.id) != after.digest(n.id)} == set()
