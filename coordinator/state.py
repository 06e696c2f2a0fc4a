"""The network as one immutable value: what validation and distribution are pure functions of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import rules
from coordinator.store.models import (
    AddressRow,
    GroupRow,
    IdentityRow,
    NetworkRow,
    NodeRow,
    ResourceRow,
    RotationRow,
)
from ztlab.model import codec
from ztlab.model.config import Resource, Role
from ztlab.model.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One unrevoked node.

    next_key   the public key it is changing to; None: it is not
    addresses  its tunnel addresses in the order of the pools, /32 and /128
    """

    id: str
    name: str
    role: Role
    identity: str
    public_key: str
    endpoint: str | None
    addresses: tuple[str, ...]
    next_key: str | None = None


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
    resources: tuple[Resource, ...]
    policy: Policy

    @property
    def principals(self) -> frozenset[str]:
        """Whom policy may name beside groups and `world`: identities and resources."""
        return frozenset(self.identities) | {resource.name for resource in self.resources}


def load(session: Session) -> NetworkState:
    """The network as SESSION sees it."""
    network = session.scalars(select(NetworkRow)).one()
    groups = {
        group.name: list(group.members)
        for group in session.scalars(select(GroupRow).order_by(GroupRow.name))
    }
    identities = session.scalars(select(IdentityRow).order_by(IdentityRow.name))
    resources = session.scalars(select(ResourceRow).order_by(ResourceRow.name))
    return NetworkState(
        network_id=network.network_id,
        pools=tuple(network.pools),
        nodes=_nodes(session),
        identities={identity.name: identity.tag for identity in identities},
        resources=tuple(
            Resource(
                name=row.name, tag=row.tag, cidr=row.cidr, gateway=row.gateway, via=tuple(row.via)
            )
            for row in resources
        ),
        policy=codec.decode(Policy, {**rules.policy(session), "groups": groups}, path="policy"),
    )


def host_prefix(address: str) -> str:
    """An address as the prefix of itself alone: /32 or /128."""
    return f"{address}/{128 if ':' in address else 32}"


def _nodes(session: Session) -> tuple[NodeState, ...]:
    addresses: dict[str, list[str]] = {}
    held = select(AddressRow).where(AddressRow.released_at.is_(None)).order_by(AddressRow.pool)
    for row in session.scalars(held):
        addresses.setdefault(row.node_id, []).append(host_prefix(row.address))
    coming = {row.node_id: row.public_key for row in session.scalars(select(RotationRow))}
    live = select(NodeRow).where(NodeRow.revoked_at.is_(None)).order_by(NodeRow.name)
    return tuple(
        NodeState(
            id=row.id,
            name=row.name,
            role=codec.decode(Role, row.role),  # type: ignore[arg-type]
            identity=row.identity,
            public_key=row.public_key,
            endpoint=row.endpoint,
            addresses=tuple(addresses.get(row.id, ())),
            next_key=coming.get(row.id),
        )
        for row in session.scalars(live)
    )
