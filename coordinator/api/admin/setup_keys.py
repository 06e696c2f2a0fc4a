"""/setup-keys: what lets nodes in."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import access, clock
from coordinator.access import SetupKeyBody
from coordinator.api.collection import Collection
from coordinator.api.route import Answer, Call, Reply, Route
from coordinator.listing import Listing, NamedQuery
from coordinator.store.models import SetupKeyRow
from ztlab.model import management
from ztlab.model.codec import field
from ztlab.model.config import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupKeyQuery(NamedQuery):
    """What setup keys can be looked for by; the name is the node's that one is bound to."""

    role: Role | None = field(default=None)
    identity: str | None = field(default=None)
    group: str | None = field(default=None)


def _create(call: Call) -> Reply:
    authority = call.service.place.authority

    def work(session: Session) -> Answer:
        made = access.create_setup_key(session, call.body, authority, clock.now())
        shown = {key: value for key, value in made.items() if key != "key"}
        call.note(session, "setup key", made["id"], None, shown)
        return {**made, "key": None} if call.is_dry_run else made

    answer = call.write(work)
    shown = {
        key: value for key, value in answer.items() if key not in ("key", "revision", "preview")
    }
    return Reply(body=answer, status=201, tag=COLLECTION.tag(shown))


def _read(session: Session, key_id: str) -> Answer:
    return access.describe_setup_key(access.setup_key(session, key_id))


def _delete(session: Session, key_id: str) -> None:
    access.revoke_setup_key(session, key_id, clock.now())


COLLECTION = Collection(
    path="/setup-keys",
    noun="setup key",
    key="id",
    answer=management.SetupKey,
    listing=Listing(
        rows=select(SetupKeyRow).where(SetupKeyRow.revoked_at.is_(None)),
        key=SetupKeyRow.id,
        order="created_at",
        columns={
            "id": SetupKeyRow.id,
            "name": SetupKeyRow.name,
            "role": SetupKeyRow.role,
            "identity": SetupKeyRow.identity,
            "group": SetupKeyRow.group,
            "uses": SetupKeyRow.uses,
            "uses_left": SetupKeyRow.uses_left,
            "created_at": SetupKeyRow.created_at,
            "expires_at": SetupKeyRow.expires_at,
        },
        describe=lambda _, rows: [access.describe_setup_key(row) for row in rows],
    ),
    query=SetupKeyQuery,
    read=_read,
    body=SetupKeyBody,
    create=_create,
    created=management.CreatedSetupKey,
    delete=_delete,
    observed=frozenset({"uses_left"}),
    is_network=False,
    writes="owner",
)
ROUTES: tuple[Route, ...] = COLLECTION.routes()
