"""The network's revision, and the one way to change what nodes are told."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import audit, clock, history, state, validation
from coordinator.distribute import node_config
from coordinator.hub import Hub
from coordinator.settings import Settings
from coordinator.state import NetworkState
from coordinator.store.engine import Store
from coordinator.store.models import NetworkRow, NodeRow, RotationRow
from ztlab.errors import SchemaError, ZtError
from ztlab.model.config import NodeConfig, Revision

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The state a node should be in: the last revision at which its digest changed."""

    revision: Revision
    digest: str


def create(session: Session, settings: Settings) -> bool:
    """Found the network, once; False if it was there. ZtError if the settings contradict it."""
    row = session.scalars(select(NetworkRow)).one_or_none()
    if row is None:
        session.add(
            NetworkRow(
                id=1,
                network_id=str(uuid.uuid4()),
                name=settings.network,
                pools=list(settings.pools),
                epoch=secrets.token_hex(16),
                number=0,
                policy={"default": "deny", "tests": [], "quotas": []},
            )
        )
        return True
    if (row.name, tuple(row.pools)) != (settings.network, settings.pools):
        raise ZtError(
            f"this store is of network {row.name} with pools {', '.join(row.pools)}",
            hint="`network` and `pools` are set at the first init; use another state_dir",
        )
    return False


def begin_epoch(session: Session) -> Revision:
    """After the store was set back: what nodes are told counts anew.

    In the epoch of the backup they would refuse it, being further on.
    """
    row = lock(session)
    row.epoch, row.number = secrets.token_hex(16), 1
    for node in session.scalars(select(NodeRow)):
        node.wanted_epoch, node.wanted_number = row.epoch, row.number
    for rotation in session.scalars(select(RotationRow)):
        rotation.epoch, rotation.number = row.epoch, row.number
    return Revision(epoch=row.epoch, number=row.number)


def lock(session: Session) -> NetworkRow:
    """The network's row, locked: changes queue here (SQLite: at BEGIN IMMEDIATE already)."""
    return session.scalars(select(NetworkRow).with_for_update()).one()


def revision(session: Session) -> Revision:
    """Where the network stands."""
    row = session.scalars(select(NetworkRow)).one()
    return Revision(epoch=row.epoch, number=row.number)


def change(
    store: Store, hub: Hub, work: Callable[[Session], T], by: str = audit.OPERATOR
) -> tuple[T, Revision]:
    """Do WORK in one transaction, give it a revision, and wake the nodes it concerns.

    SchemaError with every fault if the network would be wrong afterwards; then nothing happened.
    Work that changes nothing raises no revision. BY is who the audit log says did it.
    """
    with store.writing() as session:
        row = lock(session)
        before = state.load(session)
        result = work(session)
        session.flush()
        after = state.load(session)
        if after != before:
            faults = validation.faults(after)
            if faults:
                raise SchemaError(faults)
        concerned = settle(session, row, after, is_new=after != before)
        concerned |= {node.id for node in before.nodes} - {node.id for node in after.nodes}
        if after != before:
            history.note(session, before, after, by, clock.now())
        reached = Revision(epoch=row.epoch, number=row.number)
    hub.wake(concerned)
    return result, reached


def settle(session: Session, row: NetworkRow, after: NetworkState, *, is_new: bool) -> set[str]:
    """Raise the revision if something IS_NEW; ids of the nodes whose wanted digest changed."""
    live = select(NodeRow).where(NodeRow.revoked_at.is_(None))
    rows = {node.id: node for node in session.scalars(live)}
    digests = {node.id: node_config(after, node).digest() for node in after.nodes} if is_new else {}
    concerned = {node for node, digest in digests.items() if rows[node].wanted_digest != digest}
    if is_new:
        row.number += 1
    for node in concerned:
        rows[node].wanted_epoch = row.epoch
        rows[node].wanted_number = row.number
        rows[node].wanted_digest = digests[node]
    return concerned


def reconcile(store: Store) -> None:
    """At start: another version of this program may derive other configurations from one state."""
    with store.writing() as session:
        row = lock(session)
        current = state.load(session)
        wanted = {node.id: node.wanted_digest for node in session.scalars(select(NodeRow))}
        stale = any(node_config(current, n).digest() != wanted[n.id] for n in current.nodes)
        settle(session, row, current, is_new=stale)


def wanted(node: NodeRow) -> Wanted:
    """What NODE should have."""
    return Wanted(
        revision=Revision(epoch=node.wanted_epoch, number=node.wanted_number),
        digest=node.wanted_digest,
    )


def has_converged(node: NodeRow) -> bool:
    """Did NODE acknowledge that it applied exactly what is wanted of it?"""
    return (
        node.applied_error is None
        and node.applied_digest == node.wanted_digest
        and (node.applied_epoch, node.applied_number) == (node.wanted_epoch, node.wanted_number)
    )


def config_of(session: Session, node_id: str) -> NodeConfig | None:
    """The configuration of a node as SESSION sees the network; None if it is no (live) node."""
    network = state.load(session)
    for node in network.nodes:
        if node.id == node_id:
            return node_config(network, node)
    return None


def summary(session: Session) -> dict[str, Any]:
    """GET /network."""
    row = session.scalars(select(NetworkRow)).one()
    nodes = session.scalars(select(NodeRow).where(NodeRow.revoked_at.is_(None))).all()
    converged = sum(has_converged(node) for node in nodes)
    return {
        "network_id": row.network_id,
        "name": row.name,
        "pools": list(row.pools),
        "revision": {"epoch": row.epoch, "number": row.number},
        "has_converged": converged == len(nodes),
        "nodes": {"total": len(nodes), "converged": converged},
    }
