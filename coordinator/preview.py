"""Dry runs: a change is made, looked at, and taken back; nobody is told, nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.orm import Session

from coordinator import audit, differences, network
from coordinator.hub import Hub
from coordinator.network import Made
from coordinator.store.engine import Store
from ztlab.model.config import Revision
from ztlab.model.preview import NodeChange, ObjectChange, Preview, config_changes

T = TypeVar("T")
MOST_CHANGES = 200
MOST_NODES = 100


class _TakeBack(Exception):
    """Ends the transaction of a rehearsal, which must not be committed."""


def rehearse(
    store: Store, hub: Hub, work: Callable[[Session], T], by: str
) -> tuple[T, Revision, Preview]:
    """What network.change would answer, the present revision, and what the change would do.

    SchemaError, Conflict and whatever else the change would be refused with. It waits its turn
    among those who write, since it reads what they write, and keeps them no longer than a change.
    """
    made: Made[T] | None = None
    try:
        with store.writing() as session:
            made = network.attempt(session, hub, work, by)
            raise _TakeBack
    except _TakeBack:
        assert made is not None
    return made.result, made.before.revision, of(made)


def rehearse_write(store: Store, work: Callable[[Session], T]) -> tuple[T, Revision, Preview]:
    """Likewise of WORK that changes no part of the network: what it would tell the audit log."""
    try:
        with store.writing() as session:
            result, revision = work(session), network.revision(session)
            session.flush()
            noted = audit.pending(session)
            raise _TakeBack
    except _TakeBack:
        pass
    changes = tuple(
        ObjectChange(
            action=one.action, kind=one.kind, name=one.name, before=one.before, after=one.after
        )
        for one in noted
    )
    return (
        result,
        revision,
        Preview(change_count=len(changes), changes=changes, node_count=0, nodes=()),
    )


def of(made: Made[T]) -> Preview:
    """What MADE changes, and for whom."""
    before, after = made.before.network, made.after.network
    changes = [
        ObjectChange(
            action=one.action, kind=one.kind, name=one.name, before=one.before, after=one.after
        )
        for one in differences.between(before, after)
    ]
    nodes = sorted(_nodes(made, made.concerned), key=lambda node: node[0])
    return Preview(
        change_count=len(changes),
        changes=tuple(changes[:MOST_CHANGES]),
        node_count=len(nodes),
        nodes=tuple(_node(made, name, node_id) for name, node_id in nodes[:MOST_NODES]),
    )


def _nodes(made: Made[T], ids: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(name, id), of those that are or were nodes."""
    for node_id in ids:
        node = made.after.view.by_id.get(node_id) or made.before.view.by_id[node_id]
        yield node.name, node_id


def _node(made: Made[T], name: str, node_id: str) -> NodeChange:
    old, new = made.before.view, made.after.view
    if node_id not in new.by_id:
        return NodeChange(name=name, state="gone", parts=())
    if node_id not in old.by_id:
        return NodeChange(name=name, state="new", parts=())
    parts = config_changes(old.config(node_id), new.config(node_id))
    return NodeChange(name=name, state="told", parts=parts)
