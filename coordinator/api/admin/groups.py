"""/groups: sets of identities."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import catalog, clock
from coordinator.api.collection import Collection
from coordinator.api.route import Answer, Route
from coordinator.catalog import GroupBody
from coordinator.listing import Listing, NamedQuery
from coordinator.store.models import GroupRow
from ztlab.model import management


def _read(session: Session, name: str) -> Answer:
    return catalog.describe(catalog.group(session, name))


def _put(session: Session, body: GroupBody, _: str | None) -> str:
    return catalog.put_group(session, body).name


def _delete(session: Session, name: str) -> None:
    catalog.delete_group(session, name, clock.now())


COLLECTION = Collection(
    path="/groups",
    noun="group",
    answer=management.Group,
    listing=Listing(
        rows=select(GroupRow),
        key=GroupRow.name,
        columns={"name": GroupRow.name},
        describe=lambda _, rows: [catalog.describe(row) for row in rows],
    ),
    query=NamedQuery,
    read=_read,
    body=GroupBody,
    put=_put,
    delete=_delete,
)
ROUTES: tuple[Route, ...] = COLLECTION.routes()
