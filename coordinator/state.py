"""The network as one immutable value: what validation and distribution are pure functions of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.store.models import (
    AddressRow,
    GroupRow,
    IdentityRow,
    NetworkRow,
    NodeRow,
    ResourceRow,
    RotationRow,
    RuleRow,
)
from coordinator.store.written import Written
from ztlab.model import codec
from ztlab.model.config import Role
from ztlab.model.management import DEFAULT_PRIORITY, Offer
from ztlab.model.policy import Policy, Rule

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One unrevoked node.

    next_key   the public key it is changing to; None: it is not
    addresses  its tunnel addresses in the order of the pools, /32 and /128
    is_drained  of a gateway: any other that can take what it has is preferred to it
    """

    id: str
    name: str
    role: Role
    identity: str
    public_key: str
    endpoint: str | None
    addresses: tuple[str, ...]
    next_key: str | None = None
    is_drained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceState:
    """A resource with all gateways that offer it: `gateway`, and the alternatives."""

    name: str
    tag: int
    cidr: str
    gateway: str
    priority: int = DEFAULT_PRIORITY
    alternatives: tuple[Offer, ...] = ()
    via: tuple[str, ...] = ()

    @property
    def gateways(self) -> tuple[str, ...]:
        """Names of those that offer it, by priority: the one that goes first is the first."""
        if not self.alternatives:
            return (self.gateway,)
        offers = (Offer(gateway=self.gateway, priority=self.priority), *self.alternatives)
        return tuple(one.gateway for one in sorted(offers, key=lambda one: one.priority))


def in_use(offering: Sequence[str], gateways: Mapping[str, bool]) -> str | None:
    """Which of the gateways OFFERING something, by priority, it is reached through.

    gateways  those that are enrolled and not revoked, by name: is it drained? One that is drained
              serves where nobody else can. None: nobody can

    Nothing else counts, and no clock: two replicas, and one before and after its restart, say the
    same. A gateway that is not heard of stays, since the network that failed may be our own.
    """
    live = [name for name in offering if name in gateways]
    return next((name for name in live if not gateways[name]), live[0] if live else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """Everything that configurations are made of, and nothing else.

    pools       prefixes that tunnel addresses come from
    nodes       unrevoked, by name
    identities  name to tag
    resources   by name
    policy      with its groups filled in, by name
    """

    network_id: str
    pools: tuple[str, ...]
    nodes: tuple[NodeState, ...]
    identities: Mapping[str, int]
    resources: tuple[ResourceState, ...]
    policy: Policy

    @property
    def principals(self) -> frozenset[str]:
        """Whom policy may name beside groups and `world`: identities and resources."""
        return frozenset(self.identities) | {resource.name for resource in self.resources}

    @property
    def gateways(self) -> Mapping[str, bool]:
        """The names of the gateways, in order; is one drained?"""
        return {node.name: node.is_drained for node in self.nodes if node.role == "gateway"}


def load(
    session: Session, before: NetworkState | None = None, written: Written | None = None
) -> NetworkState:
    """The network as SESSION sees it.

    before   any state of the same network: what is alike in it is taken over, object by object
    written  all that was written since BEFORE, if that is known: nothing else is read; None: is not
    """
    if before is None or written is None:
        written = Written.everything()
    nodes = _nodes(session, before, written)
    identities = _identities(session, before, written)
    resources = _resources(session, before, written)
    policy = _policy(session, before, written)
    if before is None:
        network = session.scalars(select(NetworkRow)).one()
        return NetworkState(
            network_id=network.network_id,
            pools=tuple(network.pools),
            nodes=nodes,
            identities=identities,
            resources=resources,
            policy=policy,
        )
    now = (nodes, identities, resources, policy)
    then = (before.nodes, before.identities, before.resources, before.policy)
    if all(new is old for new, old in zip(now, then, strict=True)):
        return before
    return replace(before, nodes=nodes, identities=identities, resources=resources, policy=policy)


def host_prefix(address: str) -> str:
    """An address as the prefix of itself alone: /32 or /128."""
    return f"{address}/{128 if ':' in address else 32}"


def resource_of(row: ResourceRow) -> ResourceState:
    """A resource out of the store."""
    return ResourceState(
        name=row.name,
        tag=row.tag,
        cidr=row.cidr,
        gateway=row.gateway,
        priority=row.priority,
        alternatives=tuple(Offer(**offer) for offer in row.alternatives),
        via=tuple(row.via),
    )


def _nodes(
    session: Session, before: NetworkState | None, written: Written
) -> tuple[NodeState, ...]:
    ids = written.keys_of(NodeRow, AddressRow, RotationRow)
    former = {} if before is None else {node.id: node for node in before.nodes}
    if before is not None and ids is not None:
        if not ids:
            return before.nodes
        stay = [node for node in before.nodes if node.id not in ids]
    else:
        ids, stay = None, []
    found = [_kept(node, former.get(node.id)) for node in _read_nodes(session, ids)]
    nodes = tuple(sorted(stay + found, key=lambda node: node.name))
    return _kept(nodes, None if before is None else before.nodes)


def _read_nodes(session: Session, ids: frozenset[str] | None) -> Iterator[NodeState]:
    """The unrevoked nodes, or those of IDS."""
    held = select(AddressRow.node_id, AddressRow.address).where(AddressRow.released_at.is_(None))
    coming = select(RotationRow.node_id, RotationRow.public_key)
    columns = (NodeRow.id, NodeRow.name, NodeRow.role, NodeRow.identity)
    live = select(*columns, NodeRow.public_key, NodeRow.endpoint, NodeRow.is_drained)
    live = live.where(NodeRow.revoked_at.is_(None))
    if ids is not None:
        held = held.where(AddressRow.node_id.in_(ids))
        coming = coming.where(RotationRow.node_id.in_(ids))
        live = live.where(NodeRow.id.in_(ids))
    addresses: dict[str, list[str]] = {}
    for node_id, address in session.execute(held.order_by(AddressRow.pool)):
        addresses.setdefault(node_id, []).append(host_prefix(address))
    next_keys = {node_id: public_key for node_id, public_key in session.execute(coming)}
    for node_id, name, role, identity, public_key, endpoint, drained in session.execute(live):
        yield NodeState(
            id=node_id,
            name=name,
            role=codec.decode(Role, role),  # type: ignore[arg-type]
            identity=identity,
            public_key=public_key,
            endpoint=endpoint,
            addresses=tuple(addresses.get(node_id, ())),
            next_key=next_keys.get(node_id),
            is_drained=drained,
        )


def _identities(
    session: Session, before: NetworkState | None, written: Written
) -> Mapping[str, int]:
    names = written.keys_of(IdentityRow)
    found = select(IdentityRow.name, IdentityRow.tag)
    stay: Mapping[str, int] = {}
    if before is not None and names is not None:
        if not names:
            return before.identities
        found = found.where(IdentityRow.name.in_(names))
        stay = {name: tag for name, tag in before.identities.items() if name not in names}
    read = {name: tag for name, tag in session.execute(found)}
    return _kept(_by_name({**stay, **read}), None if before is None else before.identities)


def _resources(
    session: Session, before: NetworkState | None, written: Written
) -> tuple[ResourceState, ...]:
    names = written.keys_of(ResourceRow)
    if before is not None and names is not None and not names:
        return before.resources
    former = {} if before is None else {one.name: one for one in before.resources}
    read = [resource_of(row) for row in session.scalars(select(ResourceRow))]
    resources = sorted(read, key=lambda resource: resource.name)
    kept = tuple(_kept(resource, former.get(resource.name)) for resource in resources)
    return _kept(kept, None if before is None else before.resources)


def _policy(session: Session, before: NetworkState | None, written: Written) -> Policy:
    old = None if before is None else before.policy
    rules = _rules(session, old, written)
    groups = _groups(session, old, written)
    if old is not None and not written.touches(NetworkRow):
        if rules is old.rules and groups is old.groups:
            return old
        return replace(old, rules=rules, groups=groups)
    said = session.scalars(select(NetworkRow)).one().policy
    rest = codec.decode(Policy, said, path="policy")
    return _kept(replace(rest, rules=rules, groups=groups), old)


def _rules(session: Session, old: Policy | None, written: Written) -> tuple[Rule, ...]:
    ids = written.keys_of(RuleRow)
    found = select(RuleRow.id, RuleRow.body).order_by(RuleRow.position)
    if old is None or ids is None:
        rules = tuple(_rule(body) for _, body in session.execute(found))
        return _kept(rules, None if old is None else old.rules)
    if not ids:
        return old.rules
    found = found.where(RuleRow.id.in_(ids))
    read = {rule_id: _rule(body) for rule_id, body in session.execute(found)}
    # A rule that is written by itself stays in its place, and a new one is the last.
    patched = [
        read.pop(rule.id, None) if rule.id in ids else rule for rule in old.rules
    ]  # None: deleted
    return _kept(tuple(rule for rule in (*patched, *read.values()) if rule), old.rules)


@lru_cache(maxsize=32768)
def _rule(body: str) -> Rule:
    return codec.decode(Rule, json.loads(body), path="policy.rules")


def _groups(
    session: Session, old: Policy | None, written: Written
) -> Mapping[str, tuple[str, ...]]:
    if old is not None and not written.touches(GroupRow):
        return old.groups
    found = session.execute(select(GroupRow.name, GroupRow.members))
    groups = _by_name({name: tuple(members) for name, members in found})
    return _kept(groups, None if old is None else old.groups)


def _by_name(mapping: Mapping[str, T]) -> Mapping[str, T]:
    """In the order of names, which is Python's: that of databases depends on their locale."""
    return dict(sorted(mapping.items()))


def _kept(new: T, old: T | None) -> T:
    """OLD if it says the same: what is one object is known to be equal at a glance."""
    return old if old is not None and new == old else new
