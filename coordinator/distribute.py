"""What each node is told: a pure function of the network and of who asks.

Distribution goes by destination: a client learns how to reach its gateways and nothing about
anybody else; a gateway learns its clients, every identity, resource and the policy; a mesh node
learns the other mesh nodes, and the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network

from coordinator.state import NetworkState, NodeState
from ztlab.model.config import Identity, NodeConfig, Peer, Role, Self
from ztlab.model.policy import Policy

KEEPALIVE_S = 25
MEETS: Mapping[str, Role] = {"client": "gateway", "gateway": "client", "mesh": "mesh"}


def node_config(network: NetworkState, node: NodeState) -> NodeConfig:
    """The whole desired state of NODE, one of NETWORK's. Without I/O and without a clock."""
    peers = peers_of(network, node)
    judges = node.role != "client"
    return NodeConfig(
        version=1,
        network_id=network.network_id,
        node=Self(
            node_id=node.id,
            name=node.name,
            role=node.role,
            identity=node.identity,
            addresses=node.addresses,
        ),
        peers=tuple(entry for peer in peers for entry in _entries(network, node, peer)),
        identities=_identities(network, (node, *peers)) if judges else (),
        resources=network.resources if judges else (),
        policy=_policy(network.policy) if judges else None,
    )


def peers_of(network: NetworkState, node: NodeState) -> tuple[NodeState, ...]:
    """The nodes that NODE has a tunnel to, by name."""
    meets = MEETS[node.role]
    return tuple(peer for peer in network.nodes if peer.role == meets and peer.id != node.id)


def _entries(network: NetworkState, node: NodeState, peer: NodeState) -> tuple[Peer, ...]:
    """PEER as NODE is told of it: once for each key it may come with.

    The key to come has no prefixes yet, so nothing is believed of it, and it is not dialled: its
    owner does not answer to it before it is used.
    """
    present = _peer(network, node, peer)
    if peer.next_key is None:
        return (present,)
    return present, replace(present, public_key=peer.next_key, allowed_ips=(), keepalive_s=0)


def _peer(network: NetworkState, node: NodeState, peer: NodeState) -> Peer:
    return Peer(
        node_id=peer.id,
        name=peer.name,
        role=peer.role,
        public_key=peer.public_key,
        endpoint=peer.endpoint,
        allowed_ips=_allowed_ips(network, node, peer),
        keepalive_s=_keepalive_s(node, peer),
    )


def _allowed_ips(network: NetworkState, node: NodeState, peer: NodeState) -> tuple[str, ...]:
    """What may come from PEER: its own addresses, and for a client all that lies behind a gateway.

    The pools go to the first gateway by name alone: WireGuard gives a prefix to one peer, and
    through that gateway clients reach each other and the other gateways' clients.
    """
    prefixes = set(peer.addresses)
    if node.role == "client":
        for resource in network.resources:
            if resource.gateway == peer.name:
                prefixes |= {resource.cidr, *resource.via}
        if peer == peers_of(network, node)[0]:
            prefixes |= set(network.pools)
    return _sorted(prefixes)


def _keepalive_s(node: NodeState, peer: NodeState) -> int:
    """A keepalive makes WireGuard begin the handshake at once, and keeps a path through NAT open.

    It comes from whoever must open the way: towards an endpoint, from a client to its gateway and
    from both ends of a mesh; a gateway waits for its clients.
    """
    return KEEPALIVE_S if peer.endpoint is not None and node.role != "gateway" else 0


def _identities(network: NetworkState, present: tuple[NodeState, ...]) -> tuple[Identity, ...]:
    """Every identity, so that policy's names resolve; with the addresses of those PRESENT here."""
    prefixes: dict[str, set[str]] = {name: set() for name in network.identities}
    for node in present:
        prefixes[node.identity].update(node.addresses)
    return tuple(
        Identity(name=name, tag=network.identities[name], prefixes=_sorted(prefixes[name]))
        for name in sorted(prefixes)
    )


def _policy(policy: Policy) -> Policy:
    """Without its tests: they guard the writing of policy, and would only stir digests."""
    return replace(policy, tests=())


def _sorted(prefixes: set[str]) -> tuple[str, ...]:
    """IPv4 first, then by address, then the wider one first: one set, one spelling."""

    def order(prefix: str) -> tuple[int, int, int]:
        network = ip_network(prefix)
        return network.version, int(network.network_address), network.prefixlen

    return tuple(sorted(prefixes, key=order))
