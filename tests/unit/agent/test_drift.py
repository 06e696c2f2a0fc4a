"""Drift is counted wherever map, interface and configuration disagree."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network

import pytest

from agent.abi import IPNetwork, Kind
from agent.datapath.compile import desired_state
from agent.datapath.state import IdentityEntry
from agent.drift import drift
from agent.keys import NodeKey
from agent.wireguard.backend import WgPeer, WgState
from coordinator.distribute import node_config
from tests.unit.coordinator.networks import network, node
from ztlab.model.config import Identity, NodeConfig, Peer, Resource, Role, Self

GATEWAY = NodeKey(bytes(range(32))).public_key
CLIENT = NodeKey(bytes(range(1, 33))).public_key


def config() -> NodeConfig:
    return NodeConfig(
        version=1,
        network_id="x",
        node=Self(node_id="m", name="me", role="mesh", identity="me", addresses=("10.0.0.1/32",)),
        peers=(
            Peer(
                node_id="g",
                name="gw",
                role="gateway",
                public_key=GATEWAY,
                allowed_ips=("10.0.0.2/32", "192.168.0.0/24", "172.16.0.1/32"),
            ),
            Peer(
                node_id="c",
                name="c",
                role="mesh",
                public_key=CLIENT,
                allowed_ips=("10.0.0.3/32",),
            ),
        ),
        identities=(
            Identity(name="me", tag=2, prefixes=("10.0.0.1/32",)),
            Identity(name="gw", tag=3, prefixes=("10.0.0.2/32",)),
            Identity(name="c", tag=4, prefixes=("10.0.0.3/32",)),
        ),
        resources=(
            Resource(
                name="lan", tag=5, cidr="192.168.0.0/24", gateway="gw", via=("172.16.0.1/32",)
            ),
        ),
    )


def interface(config: NodeConfig) -> WgState:
    peers = {
        peer.public_key: WgPeer(
            endpoint=None,
            allowed_ips=frozenset(peer.allowed_ips),
            keepalive_s=0,
            last_handshake_at=0,
            rx_bytes=0,
            tx_bytes=0,
        )
        for peer in config.peers
    }
    return WgState(public_key=base64.b64encode(bytes(32)).decode(), listen_port=1, peers=peers)


def counted(
    *,
    said: NodeConfig | None = None,
    wg: WgState | None = None,
    found: Mapping[IPNetwork, IdentityEntry] | None = None,
) -> int:
    said = said or config()
    wanted = desired_state(said)
    return drift(said, wanted, wg or interface(said), wanted.identities if found is None else found)


def test_what_was_applied_has_no_drift() -> None:
    assert counted() == 0


def test_a_prefix_that_moved_to_another_peer_is_drift() -> None:
    peers = dict(interface(config()).peers)
    moved = frozenset({"10.0.0.3/32"})
    peers[CLIENT] = replace(peers[CLIENT], allowed_ips=frozenset())
    peers[GATEWAY] = replace(peers[GATEWAY], allowed_ips=peers[GATEWAY].allowed_ips | moved)
    assert counted(wg=replace(interface(config()), peers=peers)) == 2


def test_a_peer_that_is_gone_is_drift() -> None:
    peers = {GATEWAY: interface(config()).peers[GATEWAY]}
    assert counted(wg=replace(interface(config()), peers=peers)) == 1


def test_an_entry_that_is_gone_foreign_or_another_is_drift() -> None:
    entries = dict(desired_state(config()).identities)
    gone = {k: v for k, v in entries.items() if k != ip_network("10.0.0.3/32")}
    assert counted(found=gone) >= 1
    foreign = entries | {ip_network("10.9.9.9/32"): IdentityEntry(4, Kind.NODE)}
    assert counted(found=foreign) >= 1
    other = entries | {ip_network("10.0.0.3/32"): IdentityEntry(3, Kind.NODE)}
    assert counted(found=other) == 1


def test_an_identity_outside_every_peers_prefixes_is_drift_although_map_and_config_agree() -> None:
    said = config()
    stray = Identity(name="stray", tag=9, prefixes=("10.0.0.77/32",))
    assert counted(said=replace(said, identities=(*said.identities, stray))) == 1


def test_a_prefix_of_a_peer_that_nobody_is_named_for_is_drift() -> None:
    said = config()
    widened = replace(said.peers[1], allowed_ips=("10.0.0.3/32", "10.0.0.4/32"))
    assert counted(said=replace(said, peers=(said.peers[0], widened))) == 1


def test_a_client_names_nobody_and_claims_nothing() -> None:
    said = config()
    client = replace(
        said, node=replace(said.node, role="client"), identities=(), resources=(), policy=None
    )
    assert counted(said=client) == 0


def test_a_resource_behind_this_very_gateway_needs_no_peer() -> None:
    said = config()
    own = Resource(name="own", tag=8, cidr="192.168.9.0/24", gateway="me")
    gateway = replace(
        said, node=replace(said.node, role="gateway"), resources=(*said.resources, own)
    )
    assert counted(said=gateway) == 0


def test_a_resource_behind_a_gateway_that_is_a_peer_must_be_among_its_prefixes() -> None:
    said = config()
    narrowed = replace(said.peers[0], allowed_ips=("10.0.0.2/32", "172.16.0.1/32"))
    assert counted(said=replace(said, peers=(narrowed, said.peers[1]))) == 1


@pytest.mark.parametrize("name", ["gw1", "gw2", "c1", "m1", "m2"])
def test_what_the_coordinator_says_to_each_node_of_a_network_with_everything_has_no_drift(
    name: str,
) -> None:
    roles: dict[str, Role] = {
        "gw1": "gateway", "gw2": "gateway", "c1": "client", "m1": "mesh", "m2": "mesh",
    }  # fmt: skip
    nodes = [node(i, each, role) for i, (each, role) in enumerate(roles.items(), 1)]
    whole = network(*nodes)
    assert [r.gateway for r in whole.resources] == ["gw1"]
    (asking,) = (each for each in nodes if each.name == name)
    said = node_config(whole, asking)
    assert counted(said=said) == 0
    # What really is astray is counted on the same node.
    first = replace(said.peers[0], allowed_ips=said.peers[0].allowed_ips[1:])
    assert counted(said=said, wg=interface(replace(said, peers=(first, *said.peers[1:])))) == 1
