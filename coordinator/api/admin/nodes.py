"""/nodes: what is known of enrolled machines, and what administrators may change of them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import clock, network, nodes
from coordinator.api.collection import Collection
from coordinator.api.route import Answer, Call, Route
from coordinator.listing import Listing, NamedQuery
from coordinator.nodes import NodeBody
from coordinator.store.models import FormerKeyRow, NodeRow
from ztlab.errors import NotFound
from ztlab.model import codec, management
from ztlab.model.codec import field
from ztlab.model.config import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeQuery(NamedQuery):
    """What nodes can be looked for by; client ID and public key may be former ones of theirs."""

    id: str | None = field(default=None)
    role: Role | None = field(default=None)
    identity: str | None = field(default=None)
    client_id: str | None = field(default=None)
    public_key: str | None = field(default=None)
    endpoint: str | None = field(default=None)
    revoked: bool | None = field(default=None)
    has_converged: bool | None = field(default=None)


def _read(session: Session, name: str) -> Answer:
    return nodes.describe(session, nodes.find(session, name))


def _put(session: Session, body: NodeBody, name: str | None) -> str:
    return nodes.put(session, name or body.name, body).id


def _delete(session: Session, name: str) -> None:
    nodes.revoke(session, name, clock.now())


COLLECTION = Collection(
    path="/nodes",
    noun="node",
    answer=management.Node,
    listing=Listing(
        rows=select(NodeRow),
        key=NodeRow.id,
        order="name",
        columns={
            "id": NodeRow.id,
            "name": NodeRow.name,
            "role": NodeRow.role,
            "identity": NodeRow.identity,
            "client_id": NodeRow.client_id,
            "public_key": NodeRow.public_key,
            "endpoint": NodeRow.endpoint,
            "enrolled_at": NodeRow.enrolled_at,
            "last_contact_at": NodeRow.last_contact_at,
            "revoked_at": NodeRow.revoked_at,
        },
        filters={
            "revoked": NodeRow.revoked_at.is_not(None),
            "has_converged": network.CONVERGED,
        },
        matches={
            "client_id": lambda value: nodes.has_had(FormerKeyRow.client_id, value),
            "public_key": lambda value: nodes.has_had(FormerKeyRow.public_key, value),
        },
        describe=nodes.describe_all,
    ),
    query=NodeQuery,
    read=_read,
    body=NodeBody,
    put=_put,
    delete=_delete,
    is_created_by_post=False,  # they enrol
    is_created_by_put=False,
    observed=frozenset({"last_contact_at", "wanted", "applied", "has_converged", "rotation"}),
    renames=True,
)


def _get_configuration(call: Call) -> Answer:
    with call.reading() as session:
        node = nodes.find(session, call.path["name"])
        config = network.config_of(session, call.service.hub, node.id)
        if config is None:
            raise NotFound(f"node {node.name} was revoked: it is told nothing any more")
        return {**codec.encode(network.wanted(node)), "config": codec.encode(config)}


ROUTES: tuple[Route, ...] = (
    *COLLECTION.routes(),
    Route(
        method="GET",
        path="/nodes/{name}/configuration",
        view=_get_configuration,
        summary="Everything the node is told: its peers with their AllowedIPs, identities, policy",
        group="nodes",
        role="viewer",
        answer=management.NodeConfiguration,
    ),
)
