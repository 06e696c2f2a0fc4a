"""Gateways: the nodes of that role, as whoever connects through them sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coordinator.enrolment import check_plain_endpoint
from coordinator.nodes import find
from coordinator.store.models import NodeRow, ResourceRow
from ztlab.errors import NotFound
from ztlab.model.codec import field

LIVE = select(NodeRow).where(NodeRow.role == "gateway", NodeRow.revoked_at.is_(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayBody:
    """Body of PUT /gateways/NAME. The key is the node's to change, the rest the node's entry.

    is_drained  what other gateways offer as well is reached through them, whatever the priorities
    """

    endpoint: str | None = field(check=check_plain_endpoint)
    is_drained: bool = field(default=False)


def gateway(session: Session, name: str) -> NodeRow:
    """The live gateway of that name or id; NotFound if there is none."""
    node = find(session, name)
    if node.role != "gateway" or node.revoked_at is not None:
        raise NotFound(f"no gateway is called {name!r}")
    return node


def describe_all(session: Session, found: Sequence[NodeRow]) -> list[dict[str, Any]]:
    """FOUND as docs/PROTOCOL.md shows them, in three queries."""
    behind: dict[str, list[str]] = {}
    offered = select(ResourceRow.name, ResourceRow.gateway, ResourceRow.alternatives)
    for resource, first, others in session.execute(offered.order_by(ResourceRow.name)):
        for name in (first, *(offer["gateway"] for offer in others)):
            behind.setdefault(name, []).append(resource)
    # Every client has a tunnel to every gateway: coordinator/distribute.py.
    live = select(func.count()).where(NodeRow.role == "client", NodeRow.revoked_at.is_(None))
    clients = session.scalar(live)
    return [
        {
            "id": node.id,
            "name": node.name,
            "endpoint": node.endpoint,
            "public_key": node.public_key,
            "client_id": node.client_id,
            "is_drained": node.is_drained,
            "resources": behind.get(node.name, []),
            "clients": clients,
        }
        for node in found
    ]


def put(session: Session, name: str, body: GatewayBody) -> NodeRow:
    """Clients reach it there from now on; one that is drained, only for what nobody else has."""
    node = gateway(session, name)
    node.endpoint, node.is_drained = body.endpoint, body.is_drained
    return node
