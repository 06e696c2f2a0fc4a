"""/api/v1, the management API: one view per line of docs/PROTOCOL.md's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, request
from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import access, catalog, clock, logs, network, nodes, rules
from coordinator.access import AdminRole, SetupKeyBody, TokenBody
from coordinator.api.context import bearer, body, revised, service
from coordinator.catalog import DocumentBody, GroupBody, IdentityBody, PolicyBody, ResourceBody
from coordinator.errors import Conflict
from coordinator.nodes import NodeBody
from coordinator.store.models import GroupRow, IdentityRow, ResourceRow
from ztlab.errors import SchemaError
from ztlab.model.codec import did_you_mean

blueprint = Blueprint("admin", __name__)
Answer = dict[str, Any]

Row = TypeVar("Row", IdentityRow, GroupRow, ResourceRow)
# Only owners hand out what lets others in.
_OWNED = ("/setup-keys", "/tokens")


@blueprint.before_request
def authorize() -> None:
    """Viewers read, editors write, owners manage setup keys and administrators' tokens."""
    path = request.path.removeprefix("/api/v1")
    reads = request.method in ("GET", "HEAD")
    is_owned = path.startswith("/tokens") or (path.startswith(_OWNED) and not reads)
    needed: AdminRole = "owner" if is_owned else "viewer" if reads else "editor"
    with service().store.reading() as session:
        access.authorize(session, bearer(), needed)


def _change(work: Callable[[Session], Answer | None]) -> Answer:
    here = service()
    answer, revision = network.change(here.store, here.hub, work)
    return revised(revision, answer)


# --- the network as a whole


@blueprint.get("/network")
def get_network() -> Answer:
    with service().store.reading() as session:
        return network.summary(session)


@blueprint.put("/network-document")
def put_document() -> Answer:
    document = body(DocumentBody)
    return _change(lambda session: catalog.put_document(session, document, clock.now()))


@blueprint.get("/policy")
def get_policy() -> Answer:
    with service().store.reading() as session:
        return rules.policy(session)


@blueprint.put("/policy")
def put_policy() -> Answer:
    policy = body(PolicyBody)
    return _change(lambda session: catalog.put_policy(session, policy))


@blueprint.get("/logs")
def get_logs() -> Answer:
    wanted = _search()
    with service().store.reading() as session:
        return logs.search(session, wanted)


# --- nodes


@blueprint.get("/nodes")
def list_nodes() -> Answer:
    with service().store.reading() as session:
        return {"items": nodes.list_all(session)}


@blueprint.get("/nodes/<name>")
def get_node(name: str) -> Answer:
    with service().store.reading() as session:
        return nodes.describe(session, nodes.find(session, name))


@blueprint.put("/nodes/<name>")
def put_node(name: str) -> Answer:
    wanted = body(NodeBody)
    answer = _change(lambda session: {"id": nodes.put(session, name, wanted).id})
    with service().store.reading() as session:
        return {**nodes.describe(session, nodes.find(session, answer["id"])), **answer}


@blueprint.delete("/nodes/<name>")
def delete_node(name: str) -> Answer:
    return _change(lambda session: {"id": nodes.revoke(session, name, clock.now()).id})


# --- identities, groups, resources


@blueprint.get("/identities")
def list_identities() -> Answer:
    return _list(IdentityRow)


@blueprint.post("/identities")
def post_identity() -> tuple[Answer, int]:
    wanted = body(IdentityBody)
    return _create(
        IdentityRow, wanted.name, lambda session: catalog.put_identity(session, wanted, clock.now())
    )


@blueprint.get("/identities/<name>")
def get_identity(name: str) -> Answer:
    with service().store.reading() as session:
        return catalog.describe(catalog.identity(session, name))


@blueprint.put("/identities/<name>")
def put_identity(name: str) -> Answer:
    wanted = body(IdentityBody, name=name)
    return _change(
        lambda session: catalog.describe(catalog.put_identity(session, wanted, clock.now()))
    )


@blueprint.delete("/identities/<name>")
def delete_identity(name: str) -> Answer:
    return _change(lambda session: catalog.delete_identity(session, name, clock.now()))


@blueprint.get("/groups")
def list_groups() -> Answer:
    return _list(GroupRow)


@blueprint.post("/groups")
def post_group() -> tuple[Answer, int]:
    wanted = body(GroupBody)
    return _create(GroupRow, wanted.name, lambda session: catalog.put_group(session, wanted))


@blueprint.get("/groups/<name>")
def get_group(name: str) -> Answer:
    with service().store.reading() as session:
        return catalog.describe(catalog.group(session, name))


@blueprint.put("/groups/<name>")
def put_group(name: str) -> Answer:
    wanted = body(GroupBody, name=name)
    return _change(lambda session: catalog.describe(catalog.put_group(session, wanted)))


@blueprint.delete("/groups/<name>")
def delete_group(name: str) -> Answer:
    return _change(lambda session: catalog.delete_group(session, name))


@blueprint.get("/resources")
def list_resources() -> Answer:
    return _list(ResourceRow)


@blueprint.post("/resources")
def post_resource() -> tuple[Answer, int]:
    wanted = body(ResourceBody)
    return _create(
        ResourceRow, wanted.name, lambda session: catalog.put_resource(session, wanted, clock.now())
    )


@blueprint.get("/resources/<name>")
def get_resource(name: str) -> Answer:
    with service().store.reading() as session:
        return catalog.describe(catalog.resource(session, name))


@blueprint.put("/resources/<name>")
def put_resource(name: str) -> Answer:
    wanted = body(ResourceBody, name=name)
    return _change(
        lambda session: catalog.describe(catalog.put_resource(session, wanted, clock.now()))
    )


@blueprint.delete("/resources/<name>")
def delete_resource(name: str) -> Answer:
    return _change(lambda session: catalog.delete_resource(session, name, clock.now()))


# --- setup keys and administrators' tokens: no part of the network, so they raise no revision


@blueprint.get("/setup-keys")
def list_setup_keys() -> Answer:
    with service().store.reading() as session:
        return {"items": access.setup_keys(session)}


@blueprint.post("/setup-keys")
def post_setup_key() -> tuple[Answer, int]:
    here, wanted = service(), body(SetupKeyBody)
    with here.store.writing() as session:
        answer = access.create_setup_key(session, wanted, here.place.authority, clock.now())
        return revised(network.revision(session), answer), 201


@blueprint.get("/setup-keys/<key_id>")
def get_setup_key(key_id: str) -> Answer:
    with service().store.reading() as session:
        return access.describe_setup_key(access.setup_key(session, key_id))


@blueprint.delete("/setup-keys/<key_id>")
def delete_setup_key(key_id: str) -> Answer:
    with service().store.writing() as session:
        access.revoke_setup_key(session, key_id, clock.now())
        return revised(network.revision(session))


@blueprint.get("/tokens")
def list_tokens() -> Answer:
    with service().store.reading() as session:
        return {"items": access.tokens(session)}


@blueprint.post("/tokens")
def post_token() -> tuple[Answer, int]:
    wanted = body(TokenBody)
    with service().store.writing() as session:
        token = access.create_token(session, wanted.name, wanted.role, clock.now())
        answer = {"name": wanted.name, "role": wanted.role, "token": token}
        return revised(network.revision(session), answer), 201


@blueprint.delete("/tokens/<name>")
def delete_token(name: str) -> Answer:
    with service().store.writing() as session:
        access.delete_token(session, name)
        return revised(network.revision(session))


# --- helpers


def _list(table: type[Row]) -> Answer:
    with service().store.reading() as session:
        rows = session.scalars(select(table).order_by(table.name))
        return {"items": [catalog.describe(row) for row in rows]}


def _create(
    table: type[Row],
    name: str,
    put: Callable[[Session], Row],
) -> tuple[Answer, int]:
    """POST: as PUT, but Conflict if it is there."""

    def work(session: Session) -> Answer:
        if session.get(table, name) is not None:
            raise Conflict(f"{name!r} is there already")
        return catalog.describe(put(session))

    return _change(work), 201


def _search() -> logs.Search:
    """The query of GET /logs; SchemaError for a parameter that is unknown or malformed."""
    known = ("node", "identity", "verdict", "since", "after", "limit")
    given = request.args
    faults = [f"{k}: unknown parameter{did_you_mean(k, known)}" for k in given if k not in known]
    since = after = None
    limit = logs.DEFAULT_LIMIT
    try:
        since = clock.parse_rfc3339(given["since"]) if "since" in given else None
    except ValueError as error:
        faults.append(f"since: {error}")
    for name, least, most in (("after", 0, 2**63 - 1), ("limit", 1, logs.MAX_LIMIT)):
        text = given.get(name)
        if text is None:
            continue
        is_number = len(text) <= 20 and text.isascii() and text.isdigit()
        if not (is_number and least <= int(text) <= most):
            faults.append(f"{name}: want a number from {least} to {most}, got {text[:20]!r}")
        elif name == "after":
            after = int(text)
        else:
            limit = int(text)
    if faults:
        raise SchemaError(faults)
    return logs.Search(
        node=given.get("node"),
        identity=given.get("identity"),
        verdict=given.get("verdict"),
        since=since,
        after=after,
        limit=limit,
    )
