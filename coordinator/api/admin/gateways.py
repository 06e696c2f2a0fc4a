"""/gateways: where clients connect to, and what lies behind."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from coordinator import gateways
from coordinator.api.collection import Collection
from coordinator.api.route import Answer, Route
from coordinator.gateways import GatewayBody
from coordinator.listing import Listing, NamedQuery
from coordinator.store.models import NodeRow
from ztlab.model import management
from ztlab.model.codec import field


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayQuery(NamedQuery):
    """What gateways can be looked for by."""

    id: str | None = field(default=None)
    endpoint: str | None = field(default=None)
    public_key: str | None = field(default=None)
    client_id: str | None = field(default=None)
    is_drained: bool | None = field(default=None)


def _read(session: Session, name: str) -> Answer:
    return gateways.describe_all(session, [gateways.gateway(session, name)])[0]


def _put(session: Session, body: GatewayBody, name: str | None) -> str:
    assert name is not None  # nobody creates one here
    return gateways.put(session, name, body).id


COLLECTION = Collection(
    path="/gateways",
    noun="gateway",
    answer=management.Gateway,
    listing=Listing(
        rows=gateways.LIVE,
        key=NodeRow.id,
        order="name",
        columns={
            "id": NodeRow.id,
            "name": NodeRow.name,
            "endpoint": NodeRow.endpoint,
            "public_key": NodeRow.public_key,
            "client_id": NodeRow.client_id,
        },
        filters={"is_drained": NodeRow.is_drained.is_(True)},
        describe=gateways.describe_all,
    ),
    query=GatewayQuery,
    read=_read,
    body=GatewayBody,
    put=_put,
    is_created_by_post=False,  # a node enrols with that role
    is_created_by_put=False,
    observed=frozenset({"clients"}),
    renames=True,
)
ROUTES: tuple[Route, ...] = COLLECTION.routes()
