"""The network's revision, and the one way to change what nodes are told."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import and_, bindparam, case, event, func, select, update
from sqlalchemy.orm import Session

from coordinator import audit, clock, history, memory, state, validation
from coordinator.hub import Hub
from coordinator.memory import Known, Wanted
from coordinator.settings import Settings
from coordinator.store import notices
from coordinator.store.engine import Store
from coordinator.store.models import NetworkRow, NodeRow, RotationRow
from coordinator.store.written import recorded
from ztlab.errors import SchemaError, ZtError
from ztlab.model.config import NodeConfig, Revision

T = TypeVar("T")

# has_converged, of a live node, for a query.
CONVERGED = and_(
    NodeRow.revoked_at.is_(None),
    NodeRow.applied_error.is_(None),
    NodeRow.applied_digest.is_not_distinct_from(NodeRow.wanted_digest),
    NodeRow.applied_epoch.is_not_distinct_from(NodeRow.wanted_epoch),
    NodeRow.applied_number.is_not_distinct_from(NodeRow.wanted_number),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made(Generic[T]):
    """A change that was made, and is not yet committed.

    concerned  ids of the nodes that are told something else now, or are nodes no more
    """

    result: T
    before: Known
    after: Known
    concerned: frozenset[str]


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
    begun = Revision(epoch=row.epoch, number=row.number)
    notices.changed(session, begun)
    return begun


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
        made = attempt(session, hub, work, by)
        # Before the next writer has the lock, which begins with what is known then.
        event.listen(session, "after_commit", lambda _: hub.memory.publish(made.after), once=True)
    hub.wake(made.concerned)
    return made.result, made.after.revision


def attempt(
    session: Session, hub: Hub, work: Callable[[Session], T], by: str = audit.OPERATOR
) -> Made[T]:
    """Do WORK in a transaction that is SESSION's, whole but for its commit (see `change`).

    SchemaError as there. Whoever rolls back instead has made a rehearsal: nobody is woken.
    """
    row = lock(session)
    before = hub.known(session)
    with recorded(session) as written:
        result = work(session)
    network = state.load(session, before.network, written)
    if network is before.network:
        return Made(result=result, before=before, after=before, concerned=frozenset())
    if faults := validation.faults(network, before.network):
        raise SchemaError(faults)
    row.number += 1
    after = before.followed_by(network, Revision(epoch=row.epoch, number=row.number))
    notices.changed(session, after.revision)
    concerned = {who for who, w in after.wanted.items() if before.wanted.get(who) is not w}
    _want(session, {who: after.wanted[who] for who in concerned})
    concerned |= before.wanted.keys() - after.wanted.keys()
    history.note(session, before.network, network, by, clock.now())
    return Made(result=result, before=before, after=after, concerned=frozenset(concerned))


def refresh(store: Store, hub: Hub) -> None:
    """Look whether another process committed; streams that it concerns are woken."""
    with store.reading() as session:
        hub.known(session)


def reconcile(store: Store) -> None:
    """At start: another version of this program may derive other configurations from one state."""
    with store.writing() as session:
        row = lock(session)
        known = memory.read(session)
        stale = [who for who, w in known.wanted.items() if w.digest != known.view.digest(who)]
        if stale:
            row.number += 1
            at = Revision(epoch=row.epoch, number=row.number)
            notices.changed(session, at)
            _want(session, {who: Wanted(at, known.view.digest(who)) for who in stale})


def _want(session: Session, wanted: Mapping[str, Wanted]) -> None:
    """Write down what nodes should have, five thousand as quickly as one."""
    if not wanted:
        return
    session.flush()
    table = NodeRow.__table__
    statement = (
        update(NodeRow)
        .where(table.c.id == bindparam("node"))
        .values({c: bindparam(c) for c in ("wanted_epoch", "wanted_number", "wanted_digest")})
    )
    values = [
        {
            "node": who,
            "wanted_epoch": one.revision.epoch,
            "wanted_number": one.revision.number,
            "wanted_digest": one.digest,
        }
        for who, one in wanted.items()
    ]
    session.connection().execute(statement, values)
    for row in session.identity_map.values():
        if isinstance(row, NodeRow) and row.id in wanted:
            session.expire(row, ["wanted_epoch", "wanted_number", "wanted_digest"])


def wanted(node: NodeRow) -> Wanted:
    """What NODE should have."""
    return Wanted(Revision(epoch=node.wanted_epoch, number=node.wanted_number), node.wanted_digest)


def has_converged(node: NodeRow) -> bool:
    """Did NODE acknowledge that it applied exactly what is wanted of it?"""
    return (
        node.applied_error is None
        and node.applied_digest == node.wanted_digest
        and (node.applied_epoch, node.applied_number) == (node.wanted_epoch, node.wanted_number)
    )


def config_of(session: Session, hub: Hub, node_id: str) -> NodeConfig | None:
    """The configuration of a node as SESSION sees the network; None if it is no (live) node."""
    view = hub.known(session).view
    return view.config(node_id) if node_id in view.by_id else None


def summary(session: Session) -> dict[str, Any]:
    """GET /network."""
    row = session.scalars(select(NetworkRow)).one()
    counts = select(func.count(), func.count(case((CONVERGED, 1))))
    total, converged = session.execute(counts.where(NodeRow.revoked_at.is_(None))).one()
    return {
        "network_id": row.network_id,
        "name": row.name,
        "pools": list(row.pools),
        "revision": {"epoch": row.epoch, "number": row.number},
        "has_converged": converged == total,
        "nodes": {"total": total, "converged": converged},
    }
