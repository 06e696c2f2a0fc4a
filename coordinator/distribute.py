"""What each node is told: a pure function of the network and of who asks.

Distribution goes by destination: a client learns how to reach its gateways and nothing about
anybody else; a gateway learns its clients, every identity, resource and the policy; a mesh node
learns the other mesh nodes, and the same.

A View is that function over one network. What several nodes are told alike is one object in all
their configurations, and one that is made from the View of the network before shares with it what
stayed: a change costs what it changes, and names the few nodes that it may concern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_network
from typing import TypeVar

from coordinator.state import NetworkState, NodeState, in_use
from ztlab.model.config import Identity, NodeConfig, Peer, Resource, Role, Self
from ztlab.model.policy import Policy

KEEPALIVE_S = 25
MEETS: Mapping[str, Role] = {"client": "gateway", "gateway": "client", "mesh": "mesh"}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Told:
    """One node as it is told of: to itself, and to whom it meets.

    behind   what clients reach through it, beside its own addresses
    entries  one for each key it may come with
    """

    node: NodeState
    own: Self
    behind: frozenset[str]
    entries: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What every node of one role is told; `peers` and `identities` lack what is a node's own.

    peers   of those whom this role meets, by name; a mesh node's has itself in it
    places  of peers: where the entries of a node begin and end
    """

    peers: tuple[Peer, ...] = ()
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False)
    identities: tuple[Identity, ...] = ()
    resources: tuple[Resource, ...] = ()
    policy: Policy | None = None


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The configurations of one network, each made when it is first asked for."""

    network: NetworkState
    by_id: Mapping[str, NodeState]
    _told: Mapping[str, _Told]
    _shared: Mapping[str, _Shared]
    _configs: dict[str, NodeConfig]
    _digests: dict[str, str]

    @classmethod
    def of(cls, network: NetworkState, before: View | None = None) -> View:
        """The View of NETWORK, sharing with BEFORE, any other network's, what is alike."""
        if before is not None and before.network.nodes is network.nodes:
            by_id = before.by_id
        else:
            by_id = {node.id: node for node in network.nodes}
        told = _tell(network, before)
        shared = _share(network, told, before)
        view = cls(network, by_id, told, shared, {}, {})
        if before is not None:
            stale = view.touched_since(before)
            view._configs.update(_without(before._configs, stale))
            view._digests.update(_without(before._digests, stale))
        return view

    def config(self, node_id: str) -> NodeConfig:
        """The whole desired state of one of the network's nodes."""
        config = self._configs.get(node_id)
        if config is None:
            config = self._configs[node_id] = self._make(self.by_id[node_id])
        return config

    def digest(self, node_id: str) -> str:
        """That of the configuration of one of the network's nodes."""
        digest = self._digests.get(node_id)
        if digest is None:
            digest = self._digests[node_id] = self.config(node_id).digest()
        return digest

    def touched_since(self, before: View) -> set[str]:
        """Ids of the nodes whose configuration may be another than in BEFORE; gone ones too."""
        touched = {role for role in MEETS if self._shared[role] is not before._shared[role]}
        if self.by_id is before.by_id:
            return {node.id for node in self.network.nodes if node.role in touched}
        return {
            *(before.by_id.keys() - self.by_id.keys()),
            *(
                node.id
                for node in self.network.nodes
                if node.role in touched or before.by_id.get(node.id) is not node
            ),
        }

    def _make(self, node: NodeState) -> NodeConfig:
        shared = self._shared[node.role]
        peers, identities = shared.peers, shared.identities
        if node.id in shared.places:
            begin, end = shared.places[node.id]
            peers = peers[:begin] + peers[end:]
        if node.role == "gateway":
            identities = _with_own(identities, node)
        return NodeConfig(
            version=1,
            network_id=self.network.network_id,
            node=self._told[node.id].own,
            peers=peers,
            identities=identities,
            resources=shared.resources,
            policy=shared.policy,
        )


def node_config(network: NetworkState, node: NodeState) -> NodeConfig:
    """The whole desired state of NODE, one of NETWORK's. Without I/O and without a clock."""
    return View.of(network).config(node.id)


def _tell(network: NetworkState, before: View | None) -> Mapping[str, _Told]:
    """Every node as others are told of it."""
    is_alike = before is not None and before.network.nodes is network.nodes
    if before is not None and is_alike and before.network.resources is network.resources:
        return before._told
    former = {} if before is None else before._told
    behind = _behind(network)
    nothing: frozenset[str] = frozenset()
    told: dict[str, _Told] = {}
    for node in network.nodes:
        beyond = behind.get(node.name, nothing) if node.role == "gateway" else nothing
        old = former.get(node.id)
        if old is not None and old.node is node and old.behind == beyond:
            told[node.id] = old
        else:
            own = old.own if old is not None and old.node is node else _own(node)
            told[node.id] = _Told(node, own, beyond, _entries(node, beyond))
    return told


def _behind(network: NetworkState) -> Mapping[str, frozenset[str]]:
    """What clients reach through each gateway, by its name.

    WireGuard gives a prefix to one peer, so each resource is behind one of those that offer it.
    The pools go to one gateway alone, the first by name that is not drained: through it clients
    reach each other and the other gateways' clients.
    """
    gateways = network.gateways
    found: dict[str, set[str]] = {}
    for resource in network.resources:
        through = in_use(resource.gateways, gateways)
        if through is not None:
            found.setdefault(through, set()).update((resource.cidr, *resource.via))
    first = in_use(tuple(gateways), gateways)
    if first is not None:
        found.setdefault(first, set()).update(network.pools)
    return {name: frozenset(prefixes) for name, prefixes in found.items()}


def _resources(network: NetworkState, before: View | None) -> tuple[Resource, ...]:
    """The resources as they are told, each behind the gateway in use (with none, the first)."""
    gateways = network.gateways
    former: Mapping[str, Resource] = {}
    if before is not None:
        old = before._shared["mesh"].resources
        is_alike = network.resources is before.network.resources
        if is_alike and gateways == before.network.gateways:
            return old
        former = {resource.name: resource for resource in old}
    made = []
    for one in network.resources:
        through = in_use(one.gateways, gateways) or one.gateways[0]
        new = Resource(name=one.name, tag=one.tag, cidr=one.cidr, gateway=through, via=one.via)
        made.append(_kept(new, former.get(one.name)))
    return tuple(made)


def _own(node: NodeState) -> Self:
    return Self(
        node_id=node.id,
        name=node.name,
        role=node.role,
        identity=node.identity,
        addresses=node.addresses,
    )


def _entries(node: NodeState, behind: frozenset[str]) -> tuple[Peer, ...]:
    """NODE as it is told to whom it meets.

    The key to come has no prefixes yet, so nothing is believed of it, and it is not dialled: its
    owner does not answer to it before it is used.

    A keepalive makes WireGuard begin the handshake at once, and keeps a path through NAT open. It
    comes from whoever must open the way: towards an endpoint, from a client to its gateway and
    from both ends of a mesh; a gateway waits for its clients.
    """
    present = Peer(
        node_id=node.id,
        name=node.name,
        role=node.role,
        public_key=node.public_key,
        endpoint=node.endpoint,
        allowed_ips=_sorted({*node.addresses, *behind}),
        keepalive_s=KEEPALIVE_S if node.endpoint is not None and node.role != "client" else 0,
    )
    if node.next_key is None:
        return (present,)
    return present, replace(present, public_key=node.next_key, allowed_ips=(), keepalive_s=0)


def _share(
    network: NetworkState, told: Mapping[str, _Told], before: View | None
) -> Mapping[str, _Shared]:
    """What the nodes of each role are told alike; an object of BEFORE where nothing changed."""
    if before is not None and told is before._told:
        alike = network.identities is before.network.identities
        if alike and network.policy is before.network.policy:
            return before._shared
    policy = _policy(network.policy, before)
    resources = _resources(network, before)
    shared = {}
    for role, meets in MEETS.items():
        old = None if before is None else before._shared[role]
        if old is not None and before is not None and told is before._told:
            peers, places = old.peers, old.places
        else:
            peers, places = _peers(network, told, meets, own=role == meets)
        new = _Shared(peers=_kept(peers, old.peers if old else None), places=places)
        if role != "client":
            identities = _identities(network, told, meets, before)
            new = replace(
                new,
                identities=_kept(identities, old.identities if old else None),
                resources=resources,
                policy=policy,
            )
        shared[role] = _kept(new, old)
    return shared


def _peers(
    network: NetworkState, told: Mapping[str, _Told], role: Role, *, own: bool
) -> tuple[tuple[Peer, ...], Mapping[str, tuple[int, int]]]:
    """All nodes of ROLE as they are told of, and (if OWN is among them) where each is."""
    peers: list[Peer] = []
    places = {}
    for node in network.nodes:
        if node.role == role:
            entries = told[node.id].entries
            if own:
                places[node.id] = len(peers), len(peers) + len(entries)
            peers += entries
    return tuple(peers), places


def _identities(
    network: NetworkState, told: Mapping[str, _Told], role: Role, before: View | None
) -> tuple[Identity, ...]:
    """Every identity, so that policy's names resolve; with the addresses of all nodes of ROLE."""
    former: Mapping[str, Identity] = {}
    stirred = set(network.identities)  # whose addresses may be others than before
    if before is not None:
        former = {identity.name: identity for identity in before._shared[MEETS[role]].identities}
        stirred = _stirred(told, before._told) | (stirred - former.keys())
    prefixes: dict[str, list[str]] = {name: [] for name in stirred}
    for node in network.nodes:
        if node.role == role and node.identity in stirred:
            prefixes[node.identity].extend(node.addresses)
    made = []
    for name in sorted(network.identities):
        tag, old = network.identities[name], former.get(name)
        held = old.prefixes if old is not None and name not in stirred else _sorted(prefixes[name])
        is_kept = old is not None and (old.tag, old.prefixes) == (tag, held)
        made.append(
            old if old is not None and is_kept else Identity(name=name, tag=tag, prefixes=held)
        )
    return tuple(made)


def _stirred(told: Mapping[str, _Told], former: Mapping[str, _Told]) -> set[str]:
    """The identities of all nodes that are new, gone, or not what they were."""
    if told is former:
        return set()
    found = {one.node.identity for who, one in former.items() if told.get(who) is not one}
    return found | {one.node.identity for who, one in told.items() if former.get(who) is not one}


def _with_own(identities: tuple[Identity, ...], node: NodeState) -> tuple[Identity, ...]:
    """IDENTITIES with the addresses of NODE itself."""
    return tuple(
        replace(identity, prefixes=_sorted({*identity.prefixes, *node.addresses}))
        if identity.name == node.identity
        else identity
        for identity in identities
    )


def _policy(policy: Policy, before: View | None) -> Policy:
    """Without its tests: they guard the writing of policy, and would only stir digests."""
    if before is not None:
        old = before._shared["mesh"].policy
        if before.network.policy is policy and old is not None:
            return old
        stripped = replace(policy, tests=()) if policy.tests else policy
        return _kept(stripped, old)
    return replace(policy, tests=()) if policy.tests else policy


def _without(known: Mapping[str, T], ids: set[str]) -> Mapping[str, T]:
    return {who: what for who, what in known.items() if who not in ids}


def _kept(new: T, old: T | None) -> T:
    """OLD if it says the same: what is one object is known to be equal at a glance."""
    return old if old is not None and new == old else new


def _sorted(prefixes: Iterable[str]) -> tuple[str, ...]:
    """IPv4 first, then by address, then the wider one first: one set, one spelling."""
    return tuple(sorted(set(prefixes), key=_order))


@lru_cache(maxsize=65536)
def _order(prefix: str) -> tuple[int, int, int]:
    network = ip_network(prefix)
    return network.version, int(network.network_address), network.prefixlen
