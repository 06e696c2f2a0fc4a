"""/identities: whom policy speaks of."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import catalog, clock
from coordinator.api.collection import Collection
from coordinator.api.route import Answer, Route
from coordinator.catalog import IdentityBody
from coordinator.listing import Listing, NamedQuery
from coordinator.store.models import IdentityRow
from ztlab.model import management
from ztlab.model.codec import field


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityQuery(NamedQuery):
    """What identities can be looked for by."""

    tag: int | None = field(default=None)


def _read(session: Session, name: str) -> Answer:
    return catalog.describe(catalog.identity(session, name))


def _put(session: Session, body: IdentityBody, _: str | None) -> str:
    return catalog.put_identity(session, body, clock.now()).name


def _delete(session: Session, name: str) -> None:
    catalog.delete_identity(session, name, clock.now())


COLLECTION = Collection(
    path="/identities",
    noun="identity",
    answer=management.Identity,
    listing=Listing(
        rows=select(IdentityRow),
        key=IdentityRow.name,
        columns={"name": IdentityRow.name, "tag": IdentityRow.tag},
        describe=lambda _, rows: [catalog.describe(row) for row in rows],
    ),
    query=IdentityQuery,
    read=_read,
    body=IdentityBody,
    put=_put,
    delete=_delete,
)
ROUTES: tuple[Route, ...] = COLLECTION.routes()
