"""A node changes its WireGuard key: announced, acknowledged, committed (docs/PROTOCOL.md).

The new key is distributed beside the old one, with no prefixes. When every peer acknowledged a
configuration with it, or the deadline passed, the node switches its interface and commits: from
then on the new key is the node's, and the old one nobody's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from coordinator import clock
from coordinator.distribute import MEETS
from coordinator.enrolment import (
    Place,
    Spent,
    check_key,
    check_possession,
    check_proof_text,
    holder,
    live_node,
    other_challenge,
)
from coordinator.errors import Conflict
from coordinator.secrets import digest
from coordinator.store.models import (
    FormerKeyRow,
    NetworkRow,
    NodeRow,
    NodeTokenRow,
    RotationRow,
)
from ztlab.errors import NotFound
from ztlab.model.codec import field, restricted
from ztlab.model.identity import client_id, decode_public_key

log = logging.getLogger(__name__)

NAMED = 20  # peers that an answer names, of those that are waited for
LONGEST_WAIT_S = 3600


@restricted(minimum=1, maximum=LONGEST_WAIT_S)
def _check_wait(seconds: int) -> None:
    if not 1 <= seconds <= LONGEST_WAIT_S:
        raise ValueError(f"want 1 to {LONGEST_WAIT_S} seconds, got {seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateRequest:
    """Body of POST /node/rotate: both keys, each proved on the one challenge.

    wait_s  how long to wait for peers that do not acknowledge the new key
    """

    challenge_id: str
    public_key: str = field(check=check_key)
    proof: str = field(check=check_proof_text)
    new_public_key: str = field(check=check_key)
    new_proof: str = field(check=check_proof_text)
    wait_s: int = field(default=30, check=_check_wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """Body of POST /node/rotation/commit: the key that the node uses now."""

    public_key: str = field(check=check_key)


def begin(
    session: Session, place: Place, spent: Spent, request: RotateRequest, now: datetime
) -> dict[str, Any]:
    """Announce the new key. Runs inside network.change. Unauthenticated without both proofs.

    Again for the same key changes nothing; another new key takes the place of one that was
    announced and never committed.
    """
    if (spent.purpose, spent.public_key) != ("rotate", request.public_key):
        raise other_challenge(request.public_key)
    old, new = request.public_key, request.new_public_key
    for key, proof, other in ((old, request.proof, new), (new, request.new_proof, old)):
        check_possession(place, spent, "rotate", key, proof, decode_public_key(other))
    node = live_node(session, old)
    if node.public_key != old:
        raise Conflict("this key is not in use yet: commit the rotation to it first")
    row = session.get(RotationRow, node.id)
    if row is None or row.public_key != new:
        if holder(session, new) is not None:
            raise Conflict("the new key is, was or will be some node's already")
        row = _announce(session, node, row, new, now + timedelta(seconds=request.wait_s), now)
        log.info("node %s announces a new key: %s", node.name, client_id(new))
    node.last_contact_at = now
    return _described(session, node, row, now)


def _announce(
    session: Session,
    node: NodeRow,
    row: RotationRow | None,
    public_key: str,
    deadline: datetime,
    now: datetime,
) -> RotationRow:
    at = session.scalars(select(NetworkRow)).one()
    if row is None:
        row = RotationRow(node_id=node.id)
        session.add(row)
    row.public_key = public_key
    # The network changes by this, so its next revision is the one that says so.
    row.epoch, row.number = at.epoch, at.number + 1
    row.started_at, row.deadline_at = now, deadline
    session.flush()
    return row


def describe(session: Session, node: NodeRow) -> dict[str, Any] | None:
    """How far NODE's change of key is; None: there is none."""
    row = session.get(RotationRow, node.id)
    if row is None or node.revoked_at is not None:
        return None
    return _described(session, node, row, clock.now())


def describe_all(session: Session, nodes: Sequence[NodeRow]) -> dict[str, dict[str, Any]]:
    """How far the changes of key of NODES are, by node id; only of those that have one."""
    live = {node.id: node for node in nodes if node.revoked_at is None}
    rows = session.scalars(select(RotationRow).where(RotationRow.node_id.in_(live))).all()
    now = clock.now()
    return {row.node_id: _described(session, live[row.node_id], row, now) for row in rows}


def progress(session: Session, node_id: str) -> dict[str, Any]:
    """GET /node/rotation. NotFound where the node is not changing its key."""
    found = describe(session, session.get_one(NodeRow, node_id))
    if found is None:
        raise NotFound("this node is not changing its key")
    return found


def commit(
    session: Session, node_id: str, token: str | None, request: CommitRequest, now: datetime
) -> dict[str, Any]:
    """The new key is the node's; the old one is kept with its dates. Runs inside network.change.

    Once more for a key that is committed changes nothing: the first answer may have been lost.
    The node's other tokens end: they may be somebody's who had the old key.
    """
    node = session.get_one(NodeRow, node_id)
    if node.public_key == request.public_key:
        return {"public_key": node.public_key, "client_id": node.client_id}
    row = session.get(RotationRow, node_id)
    if row is None or row.public_key != request.public_key:
        raise Conflict("no rotation to this key is under way")
    if _waiting(session, node, row) and now < row.deadline_at:
        raise Conflict("not every peer has acknowledged the new key, and there is time left")
    before = former_keys_of(session, node_id)
    session.add(
        FormerKeyRow(
            public_key=node.public_key,
            client_id=node.client_id,
            node_id=node.id,
            since=before[-1].until if before else node.enrolled_at,
            until=now,
        )
    )
    log.info(
        "node %s changed its key: %s -> %s", node.name, node.client_id, client_id(row.public_key)
    )
    node.public_key, node.client_id = row.public_key, client_id(row.public_key)
    session.delete(row)
    others = NodeTokenRow.hash != digest(token or "")
    session.execute(delete(NodeTokenRow).where(NodeTokenRow.node_id == node_id, others))
    return {"public_key": node.public_key, "client_id": node.client_id}


def cancel(session: Session, node_id: str) -> None:
    """Forget a key that was announced; nothing happens where none was. Inside network.change."""
    row = session.get(RotationRow, node_id)
    if row is not None:
        node = session.get_one(NodeRow, node_id)
        log.info("node %s keeps its key; %s goes", node.name, client_id(row.public_key))
        session.delete(row)


def former_keys_of(session: Session, node_id: str) -> list[FormerKeyRow]:
    """The keys that a node had once, the oldest first."""
    found = select(FormerKeyRow).where(FormerKeyRow.node_id == node_id)
    return list(session.scalars(found.order_by(FormerKeyRow.until)))


def former_keys(session: Session, node_id: str) -> list[dict[str, str]]:
    """As docs/PROTOCOL.md shows them."""
    return [_former(row) for row in former_keys_of(session, node_id)]


def former_keys_by_node(
    session: Session, node_ids: Sequence[str]
) -> dict[str, list[dict[str, str]]]:
    """Likewise of many nodes; only of those that had others."""
    rows = select(FormerKeyRow).where(FormerKeyRow.node_id.in_(node_ids))
    found: dict[str, list[dict[str, str]]] = {}
    for row in session.scalars(rows.order_by(FormerKeyRow.until)):
        found.setdefault(row.node_id, []).append(_former(row))
    return found


def _former(row: FormerKeyRow) -> dict[str, str]:
    return {
        "public_key": row.public_key,
        "client_id": row.client_id,
        "since": clock.rfc3339(row.since),
        "until": clock.rfc3339(row.until),
    }


def _described(session: Session, node: NodeRow, row: RotationRow, now: datetime) -> dict[str, Any]:
    waiting = _waiting(session, node, row)
    return {
        "public_key": row.public_key,
        "client_id": client_id(row.public_key),
        "state": "announced" if waiting and now < row.deadline_at else "ready",
        "waiting": len(waiting),
        "waiting_for": waiting[:NAMED],
        "started_at": clock.rfc3339(row.started_at),
        "deadline_at": clock.rfc3339(row.deadline_at),
    }


def _waiting(session: Session, node: NodeRow, row: RotationRow) -> list[str]:
    """The names of the peers that have not applied the announcement, or anything later."""
    late = or_(
        NodeRow.applied_epoch.is_distinct_from(row.epoch),
        NodeRow.applied_number < row.number,
        NodeRow.applied_error.is_not(None),
    )
    found = select(NodeRow.name).where(
        NodeRow.role == MEETS[node.role],
        NodeRow.revoked_at.is_(None),
        NodeRow.id != node.id,
        late,
    )
    return list(session.scalars(found.order_by(NodeRow.name)))
