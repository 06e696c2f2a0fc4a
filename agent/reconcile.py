"""From what is to what shall be: the steps of one change, in the one order that is safe.

Pure: no I/O, no clock. What is removed goes identity first (the door closes at once), then peer;
what is added comes policy, identity, peer: never a live peer whose packets nobody can name.
A prefix that moves between peers leaves the old one before the new one gets it, since WireGuard
would move it silently; which is just what is wanted where one node has changed its key, and on a
client, whose peers have no identities: what is behind another gateway now is never behind none.
Routes come last in both directions: a route without its peer drops packets, a peer without its
route would let them out beside the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from types import MappingProxyType

from agent.wireguard.backend import Address, Endpoint, PeerSpec, Route, WgPeer, WgState
from agent.wireguard.preshared import PresharedKey
from ztlab.errors import ZtError
from ztlab.model.config import NodeConfig

NONE: Mapping[str, PresharedKey] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The interface as it was read back.

    outside  addresses our rules keep outside the tunnel; None: there are no such rules
    """

    wg: WgState
    addresses: frozenset[str]
    routes: frozenset[Route]
    outside: frozenset[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the configuration asks of the interface, with names resolved.

    nodes        whose key it is: node id by public key; one that changes its key has two
    names_peers  does it know peers as identities? A client does not
    """

    addresses: frozenset[str]
    peers: Mapping[str, PeerSpec]
    routes: frozenset[Route]
    outside: frozenset[str] | None
    nodes: Mapping[str, str] = field(default_factory=dict)
    names_peers: bool = True


@dataclass(frozen=True, slots=True)
class RemoveIdentities:
    """Of the datapath: forget whoever is not in the new configuration."""


@dataclass(frozen=True, slots=True)
class RemovePeers:
    public_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NarrowPeer:
    """A peer that stays loses these prefixes; the others are in force all the while."""

    public_key: str
    prefixes: frozenset[str]


@dataclass(frozen=True, slots=True)
class ApplyPolicy:
    """Of the datapath: judge by the new policy."""


@dataclass(frozen=True, slots=True)
class PutIdentities:
    """Of the datapath: know whoever is in the new configuration."""


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    prefix: str


@dataclass(frozen=True, slots=True)
class AddAddress:
    prefix: str


@dataclass(frozen=True, slots=True)
class SetPeers:
    """Add peers, or give them what they lack; takes no prefix away."""

    peers: tuple[PeerSpec, ...]


@dataclass(frozen=True, slots=True)
class SetOutside:
    """The rules that keep endpoints and coordinator outside the tunnel; None removes them."""

    addresses: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class AddRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    route: Route


Step = (
    RemoveIdentities
    | RemovePeers
    | NarrowPeer
    | ApplyPolicy
    | PutIdentities
    | RemoveAddress
    | AddAddress
    | SetPeers
    | SetOutside
    | AddRoute
    | RemoveRoute
)

# What every change begins with, where no peer has to go in between.
DATAPATH: tuple[Step, ...] = (RemoveIdentities(), ApplyPolicy(), PutIdentities())


def desired(
    config: NodeConfig,
    *,
    endpoints: Mapping[str, Endpoint],
    coordinator: frozenset[Address],
    own_key: str = "",
    preshared: Mapping[str, PresharedKey] = NONE,
) -> Desired:
    """What CONFIG asks of the interface.

    endpoints    resolved, by the text in the configuration; a name that is missing did not resolve
    coordinator  its addresses, which stay outside the tunnel
    own_key      this node's public key: a peer with it is a fault, ZtError
    preshared    this node's preshared keys, by the peer's public key
    """
    peers: dict[str, PeerSpec] = {}
    owner: dict[str, str] = {}
    for peer in config.peers:
        if peer.public_key in peers or peer.public_key == own_key:
            whose = "this node's own" if peer.public_key == own_key else "another peer's"
            raise ZtError(f"peer {peer.name} has {whose} public key")
        for prefix in peer.allowed_ips:
            if prefix in owner:
                raise ZtError(f"{prefix} belongs to two peers, {owner[prefix]} and {peer.name}")
            if prefix in config.node.addresses:
                raise ZtError(f"{prefix} is this node's own address, and peer {peer.name}'s too")
            owner[prefix] = peer.name
        peers[peer.public_key] = PeerSpec(
            public_key=peer.public_key,
            endpoint=endpoints.get(peer.endpoint) if peer.endpoint else None,
            allowed_ips=frozenset(peer.allowed_ips),
            keepalive_s=peer.keepalive_s,
            preshared_key=preshared.get(peer.public_key),
        )
    underlay = coordinator | {p.endpoint.address for p in peers.values() if p.endpoint}
    routes = frozenset(_route(prefix, underlay) for prefix in owner)
    diverts = any(route.table == "tunnel" for route in routes)
    return Desired(
        addresses=frozenset(config.node.addresses),
        peers=peers,
        routes=routes,
        outside=frozenset(map(str, coordinator)) if diverts else None,
        nodes={peer.public_key: peer.node_id for peer in config.peers},
        names_peers=config.node.role != "client",
    )


def as_told(wanted: Desired, told: Mapping[str, str]) -> Desired:
    """WANTED with the endpoints that a predecessor set, by public key: what is the same may have
    moved since, what is not shall be set."""
    peers = {
        key: replace(peer, endpoint=peer.endpoint if told.get(key) == str(peer.endpoint) else None)
        for key, peer in wanted.peers.items()
    }
    return replace(wanted, peers=peers)


def _route(prefix: str, underlay: frozenset[Address]) -> Route:
    """In the main table, unless it is a default or covers an address that must stay outside."""
    network = ip_network(prefix)
    pulls_in = network.prefixlen == 0 or any(address in network for address in underlay)
    return Route(prefix=prefix, table="tunnel" if pulls_in else "main")


def plan(wanted: Desired, now: Observed, *, before: Desired | None) -> tuple[Step, ...]:
    """The ordered steps from NOW to WANTED.

    before  what was applied last: an endpoint that WireGuard has moved since (the peer roams) is
            left alone as long as the configuration's has not changed; None: nothing is known of it
    """
    replaced = _replaced(wanted, now, before)
    return (
        RemoveIdentities(),
        *_removed_peers(wanted, now, replaced),
        ApplyPolicy(),
        PutIdentities(),
        *(RemoveAddress(a) for a in sorted(now.addresses - wanted.addresses)),
        *(AddAddress(a) for a in sorted(wanted.addresses - now.addresses)),
        *_set_peers(wanted, now, before),
        *((RemovePeers(replaced),) if replaced else ()),
        *((SetOutside(wanted.outside),) if _adds_rules(wanted, now) else ()),
        *(AddRoute(r) for r in sorted(wanted.routes - now.routes)),
        *(RemoveRoute(r) for r in sorted(now.routes - wanted.routes)),
        *((SetOutside(None),) if wanted.outside is None and now.outside is not None else ()),
    )


def _adds_rules(wanted: Desired, now: Observed) -> bool:
    return wanted.outside is not None and wanted.outside != now.outside


def _replaced(wanted: Desired, now: Observed, before: Desired | None) -> tuple[str, ...]:
    """Keys that go because their nodes have changed them, with every prefix they hold now.

    These prefixes move straight from the old key to the new one, so that no packet meets none.
    """
    holder = {
        prefix: wanted.nodes.get(key)
        for key, peer in wanted.peers.items()
        for prefix in peer.allowed_ips
    }
    gone = now.wg.peers.keys() - wanted.peers.keys()
    nodes = {key: node for key in gone if before and (node := before.nodes.get(key))}
    return tuple(
        key
        for key, node in sorted(nodes.items())
        if now.wg.peers[key].allowed_ips
        and all(holder.get(prefix) == node for prefix in now.wg.peers[key].allowed_ips)
    )


def _removed_peers(wanted: Desired, now: Observed, replaced: tuple[str, ...]) -> Iterator[Step]:
    gone = sorted(now.wg.peers.keys() - wanted.peers.keys() - set(replaced))
    if gone:
        yield RemovePeers(tuple(gone))
    straight: set[str] = set()  # prefixes that SetPeers takes from who has them
    if not wanted.names_peers:
        straight.update(*(peer.allowed_ips for peer in wanted.peers.values()))
    for key, peer in sorted(wanted.peers.items()):
        there = now.wg.peers.get(key)
        if there is not None and (leaving := there.allowed_ips - peer.allowed_ips - straight):
            yield NarrowPeer(key, leaving)


def _set_peers(wanted: Desired, now: Observed, before: Desired | None) -> Iterator[Step]:
    changed = tuple(
        peer
        for key, peer in sorted(wanted.peers.items())
        if _differs(peer, now.wg.peers.get(key), before.peers.get(key) if before else None)
    )
    if changed:
        yield SetPeers(changed)


def _differs(peer: PeerSpec, there: WgPeer | None, last: PeerSpec | None) -> bool:
    if there is None or peer.allowed_ips - there.allowed_ips:
        return True
    if peer.keepalive_s != there.keepalive_s or peer.preshared_key != there.preshared_key:
        return True
    if peer.endpoint is None:
        return False
    return peer.endpoint != (last.endpoint if last else there.endpoint)


def astray(wanted: Desired, wg: WgState) -> frozenset[str]:
    """The public keys of the peers that are not what was meant, one way or the other.

    Where a peer is now is no part of it: it may roam.
    """
    return frozenset(
        key
        for key in wanted.peers.keys() | wg.peers.keys()
        if _meant(wanted.peers.get(key)) != _meant(wg.peers.get(key))
    )


def _meant(peer: PeerSpec | WgPeer | None) -> object:
    return peer and (peer.allowed_ips, peer.keepalive_s, peer.preshared_key)
