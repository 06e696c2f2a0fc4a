"""/tokens: administrators, who are what their tokens are called, and what each may do."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import access, clock
from coordinator.access import TokenBody
from coordinator.api.collection import Collection
from coordinator.api.route import Answer, Call, Reply, Route
from coordinator.listing import Listing, NamedQuery
from coordinator.store.models import AdminTokenRow
from ztlab.model import management
from ztlab.model.codec import field
from ztlab.model.management import AdminRole


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenQuery(NamedQuery):
    """What tokens can be looked for by."""

    role: AdminRole | None = field(default=None)


def _create(call: Call) -> Reply:
    wanted: TokenBody = call.body

    def work(session: Session) -> Answer:
        token = access.create_token(session, wanted.name, wanted.role, clock.now())
        session.flush()
        made = access.describe_token(access.admin_token(session, wanted.name))
        call.note(session, "token", wanted.name, None, made)
        return {**made, "token": None if call.is_dry_run else token}

    answer = call.write(work)
    shown = {key: answer[key] for key in ("name", "role", "created_at")}
    return Reply(body=answer, status=201, tag=COLLECTION.tag(shown))


def _read(session: Session, name: str) -> Answer:
    return access.describe_token(access.admin_token(session, name))


def _put(session: Session, body: TokenBody, name: str | None) -> str:
    return access.change_role(session, name or body.name, body.role).name


COLLECTION = Collection(
    path="/tokens",
    noun="token",
    answer=management.AdminToken,
    listing=Listing(
        rows=select(AdminTokenRow),
        key=AdminTokenRow.name,
        columns={
            "name": AdminTokenRow.name,
            "role": AdminTokenRow.role,
            "created_at": AdminTokenRow.created_at,
        },
        describe=lambda _, rows: [access.describe_token(row) for row in rows],
    ),
    query=TokenQuery,
    read=_read,
    body=TokenBody,
    put=_put,
    create=_create,
    created=management.CreatedAdminToken,
    delete=access.delete_token,
    is_created_by_put=False,
    is_network=False,
    reads="owner",
    writes="owner",
)
ROUTES: tuple[Route, ...] = COLLECTION.routes()
