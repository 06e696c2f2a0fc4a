"""/resources: what lies behind gateways. A client's AllowedIPs are made of these and of `via`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import catalog, clock
from coordinator.api.collection import Collection
from coordinator.api.route import Answer, Route
from coordinator.catalog import ResourceBody
from coordinator.listing import Listing, NamedQuery
from coordinator.store.models import ResourceRow
from ztlab.model import management
from ztlab.model.codec import field


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceQuery(NamedQuery):
    """What resources can be looked for by."""

    tag: int | None = field(default=None)
    cidr: str | None = field(default=None)
    gateway: str | None = field(default=None)
    priority: int | None = field(default=None)


def _read(session: Session, name: str) -> Answer:
    return catalog.describe_resources(session, [catalog.resource(session, name)])[0]


def _put(session: Session, body: ResourceBody, _: str | None) -> str:
    return catalog.put_resource(session, body, clock.now()).name


def _delete(session: Session, name: str) -> None:
    catalog.delete_resource(session, name, clock.now())


COLLECTION = Collection(
    path="/resources",
    noun="resource",
    answer=management.Resource,
    listing=Listing(
        rows=select(ResourceRow),
        key=ResourceRow.name,
        columns={
            "name": ResourceRow.name,
            "tag": ResourceRow.tag,
            "cidr": ResourceRow.cidr,
            "gateway": ResourceRow.gateway,
            "priority": ResourceRow.priority,
        },
        describe=catalog.describe_resources,
    ),
    query=ResourceQuery,
    read=_read,
    body=ResourceBody,
    put=_put,
    delete=_delete,
    observed=frozenset({"in_use"}),  # it follows the gateways
)
ROUTES: tuple[Route, ...] = COLLECTION.routes()
