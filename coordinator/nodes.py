"""Enrolled nodes: what is known of them, and what administrators or they themselves may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from coordinator import allocation, clock, network, rotation
from coordinator.enrolment import check_plain_endpoint
from coordinator.errors import Conflict, Forbidden, Unauthenticated
from coordinator.secrets import digest
from coordinator.state import host_prefix
from coordinator.store import notices
from coordinator.store.engine import Store
from coordinator.store.models import (
    AddressRow,
    FormerKeyRow,
    IdentityRow,
    NodeRow,
    NodeTokenRow,
    ResourceRow,
)
from ztlab.errors import NotFound, SchemaError
from ztlab.model import codec
from ztlab.model.codec import did_you_mean, field
from ztlab.model.config import Revision
from ztlab.model.policy import check_name

_MOST_AT_ONCE = 1000  # nodes that one statement names
_SAID = (
    NodeRow.id,
    NodeRow.wanted_epoch,
    NodeRow.wanted_number,
    NodeRow.last_contact_at,
    NodeRow.applied_epoch,
    NodeRow.applied_number,
    NodeRow.applied_digest,
    NodeRow.applied_error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBody:
    """Body of PUT /nodes/NAME: all that may change, whole.

    addresses  one of each pool, as /32 and /128; None: those it has
    """

    name: str = field(check=check_name)
    identity: str = field(check=check_name)
    endpoint: str | None = field(check=check_plain_endpoint)
    addresses: tuple[str, ...] | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Body of POST /node/ack."""

    revision: Revision
    digest: str
    applied: bool
    error: str | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a node said of itself: what it has (None: only that it is there), and when."""

    node_id: str
    ack: Ack | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The node that a token speaks for."""

    node_id: str
    name: str
    token_expires_at: datetime


def authenticate(session: Session, token: str | None, now: datetime) -> Caller:
    """Who TOKEN speaks for. Unauthenticated: nobody, any more; Forbidden: a revoked node."""
    row = session.get(NodeTokenRow, digest(token)) if token else None
    if row is None or row.expires_at <= now:
        raise Unauthenticated(
            "the node token is unknown or expired",
            reason="unknown_token" if row is None else "expired_token",
            hint="prove the key again",
        )
    node = session.get_one(NodeRow, row.node_id)
    if node.revoked_at is not None:
        raise Forbidden(
            f"node {node.name} was revoked at {clock.rfc3339(node.revoked_at)}",
            reason="revoked_node",
            subject=node.name,
        )
    return Caller(node_id=node.id, name=node.name, token_expires_at=row.expires_at)


def open_stream(store: Store, node_id: str) -> int:
    """The number of a stream that the node opens, higher than that of any before; the other
    replicas hear of it, and end theirs. 0 where there are no others: the hub knows them all."""
    if not store.is_shared:
        return 0
    with store.writing() as session:
        row = update(NodeRow).where(NodeRow.id == node_id)
        counted = row.values(stream_number=NodeRow.stream_number + 1)
        number = session.execute(counted.returning(NodeRow.stream_number)).scalar_one()
        notices.stream_opened(session, node_id, number)
        return number


def acknowledge(session: Session, node_id: str, ack: Ack, now: datetime) -> None:
    """Keep what one node says it has; SchemaError if that was never sent."""
    (error,) = keep(session, [Said(node_id=node_id, ack=ack, at=now)])
    if error is not None:
        raise error


def keep(session: Session, said: Sequence[Said]) -> list[SchemaError | None]:
    """Keep what nodes said; for each, why it is refused (None: it is not).

    An acknowledgement never moves a node back.
    """
    session.flush()
    ids = list({one.node_id for one in said})
    values: dict[str, dict[str, Any]] = {}
    for i in range(0, len(ids), _MOST_AT_ONCE):
        found = select(*_SAID).where(NodeRow.id.in_(ids[i : i + _MOST_AT_ONCE]))
        values |= {row.id: row._asdict() for row in session.execute(found)}
    errors = [_said(values[one.node_id], one) for one in said]
    table = NodeRow.__table__
    kept = ["last_contact_at", *(c.key for c in _SAID if c.key.startswith("applied"))]
    statement = update(NodeRow).where(table.c.id == bindparam("node"))
    session.connection().execute(
        statement.values({name: bindparam(name) for name in kept}),
        [{"node": row["id"], **{name: row[name] for name in kept}} for row in values.values()],
    )
    for row in session.identity_map.values():
        if isinstance(row, NodeRow) and row.id in values:
            session.expire(row, kept)
    return errors


def _said(row: dict[str, Any], said: Said) -> SchemaError | None:
    """Put what a node said into the values of its row; why not."""
    row["last_contact_at"] = said.at
    if (ack := said.ack) is None:
        return None
    at = ack.revision
    if at.epoch != row["wanted_epoch"] or not 0 <= at.number <= row["wanted_number"]:
        wanted = f"{row['wanted_epoch']}/{row['wanted_number']}"
        return SchemaError([f"revision: want at most {wanted}, which was sent"])
    if row["applied_epoch"] == at.epoch and at.number < (row["applied_number"] or 0):
        return None  # overtaken by a newer one on its way
    row["applied_epoch"], row["applied_number"] = at.epoch, at.number
    row["applied_digest"] = ack.digest[:64]
    row["applied_error"] = None if ack.applied else (ack.error or "no reason given")[:2000]
    return None


def list_all(session: Session) -> list[dict[str, Any]]:
    """Every node, revoked ones included, by name."""
    rows = session.scalars(select(NodeRow).order_by(NodeRow.name, NodeRow.enrolled_at))
    return describe_all(session, rows.all())


def describe_all(session: Session, found: Sequence[NodeRow]) -> list[dict[str, Any]]:
    """FOUND as docs/PROTOCOL.md shows them; how many queries it takes does not grow with them."""
    ids = [node.id for node in found]
    held: dict[str, list[str]] = {}
    rows = select(AddressRow).where(AddressRow.released_at.is_(None), AddressRow.node_id.in_(ids))
    for row in session.scalars(rows.order_by(AddressRow.pool)):
        held.setdefault(row.node_id, []).append(host_prefix(row.address))
    former = rotation.former_keys_by_node(session, ids)
    changing = rotation.describe_all(session, found)
    return [
        _described(node, held.get(node.id, []), changing.get(node.id), former.get(node.id, []))
        for node in found
    ]


def has_had(former: InstrumentedAttribute[str], value: str) -> ColumnElement[bool]:
    """Is VALUE what a node has now, or had once, in the column that FORMER is of former keys?"""
    had = select(FormerKeyRow.node_id).where(former == value)
    present: InstrumentedAttribute[str] = getattr(NodeRow, former.key)
    return or_(present == value, NodeRow.id.in_(had))


def find(session: Session, name: str) -> NodeRow:
    """The node of that id, else of that name: the live one, else the one revoked last. NotFound
    otherwise. (A node that calls itself by another's id is not found by it.)"""
    found = select(NodeRow).where((NodeRow.name == name) | (NodeRow.id == name))
    nodes = session.scalars(found).all()
    if not nodes:
        known = session.scalars(select(NodeRow.name)).all()
        raise NotFound(f"no node is called {name!r}{did_you_mean(name, known)}")
    return max(nodes, key=lambda n: (n.id == name, n.revoked_at is None, n.enrolled_at))


def describe(session: Session, node: NodeRow) -> dict[str, Any]:
    """A node as docs/PROTOCOL.md shows it."""
    return describe_all(session, [node])[0]


def _described(
    node: NodeRow,
    addresses: list[str],
    changing: dict[str, Any] | None,
    former: list[dict[str, str]],
) -> dict[str, Any]:
    applied = None
    if node.applied_number is not None:
        applied = {
            "revision": {"epoch": node.applied_epoch, "number": node.applied_number},
            "digest": node.applied_digest,
            "error": node.applied_error,
        }
    return {
        "id": node.id,
        "name": node.name,
        "role": node.role,
        "identity": node.identity,
        "addresses": addresses,
        "public_key": node.public_key,
        "client_id": node.client_id,
        "setup_key": node.setup_key_id,
        "endpoint": node.endpoint,
        "enrolled_at": clock.rfc3339(node.enrolled_at),
        "last_contact_at": clock.rfc3339_or_none(node.last_contact_at),
        "revoked_at": clock.rfc3339_or_none(node.revoked_at),
        "wanted": codec.encode(network.wanted(node)),
        "applied": applied,
        "has_converged": node.revoked_at is None and network.has_converged(node),
        "rotation": changing,
        "former_keys": former,
    }


def put(session: Session, name: str, body: NodeBody) -> NodeRow:
    """Change a live node. Resources follow its new name."""
    node = _live(session, name)
    if body.name != node.name:
        taken = select(NodeRow).where(NodeRow.name == body.name, NodeRow.revoked_at.is_(None))
        if session.scalars(taken).one_or_none() is not None:
            raise Conflict(f"a node is called {body.name!r} already")
        _follow(session, node.name, body.name)
    if session.get(IdentityRow, body.identity) is None:
        known = session.scalars(select(IdentityRow.name)).all()
        hint = did_you_mean(body.identity, known)
        raise SchemaError([f"identity: no identity {body.identity!r}{hint}"])
    node.name, node.identity, node.endpoint = body.name, body.identity, body.endpoint
    if body.addresses is not None:
        allocation.assign_addresses(session, node.id, body.addresses, clock.now())
    return node


def _follow(session: Session, old: str, new: str) -> None:
    """The resources that the node called OLD offers are offered by NEW."""
    for row in session.scalars(select(ResourceRow)):
        if row.gateway == old:
            row.gateway = new
        if any(offer["gateway"] == old for offer in row.alternatives):
            row.alternatives = [
                {**offer, "gateway": new if offer["gateway"] == old else offer["gateway"]}
                for offer in row.alternatives
            ]


def revoke(session: Session, name: str, now: datetime) -> NodeRow:
    """Nobody is told of this node any more. It keeps its row, its key and its name in the logs."""
    node = _live(session, name)
    node.revoked_at = now
    allocation.release_addresses(session, node.id, now)
    return node


def _live(session: Session, name: str) -> NodeRow:
    node = find(session, name)
    if node.revoked_at is not None:
        raise Conflict(f"node {node.name} was revoked at {clock.rfc3339(node.revoked_at)}")
    return node
