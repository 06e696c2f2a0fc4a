"""What administrators had written at each revision: kept, read back, rolled back to.

A revision keeps the way back to the one before, and nothing else: reading an old one begins with
the present and undoes what came since. So a change costs what it changes, however large the
network is, and the oldest can be forgotten at any time. A revision at which only nodes changed
leaves nothing: the document is that of the one before.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from coordinator import clock, document, state
from coordinator.differences import Difference
from coordinator.document import Document
from coordinator.state import NetworkState
from coordinator.store.models import NetworkRow, RevisionRow
from ztlab.errors import NotFound
from ztlab.model import codec, management
from ztlab.model.config import Revision

KEPT = 1000  # unless the settings say otherwise
NAMED = 20  # changes that a summary names
_ORDER = "order_of_rules"
_PARTS = ("default", "tests", "quotas")


def begin(session: Session, by: str, now: datetime) -> None:
    """The network was founded, or began a new epoch: its revision is one to go back to."""
    _add(session, [], [], by, now)


def keep(
    session: Session,
    before: NetworkState,
    changes: Sequence[Difference],
    by: str,
    now: datetime,
) -> None:
    """Note the way from the network's revision back to BEFORE; nothing if no document changed."""
    written = [change for change in changes if change.kind != "node"]
    if written:
        _add(session, written, [*_undo(before, written)], by, now)


def prune(session: Session, kept: int) -> int:
    """Forget all but the newest KEPT revisions; how many that were."""
    newest = session.scalar(select(func.max(RevisionRow.id))) or 0
    gone = session.execute(delete(RevisionRow).where(RevisionRow.id <= newest - kept))
    return int(gone.rowcount)  # type: ignore[attr-defined]


def describe(row: RevisionRow) -> dict[str, Any]:
    """As docs/PROTOCOL.md shows it."""
    return {
        "epoch": row.epoch,
        "number": row.number,
        "at": clock.rfc3339(row.at),
        "actor": row.actor,
        "changes": row.changes,
        "summary": list(row.summary),
    }


def find(session: Session, epoch: str, number: int) -> RevisionRow:
    """The row that says since when the document was as it was at that revision. NotFound."""
    at = session.execute(select(NetworkRow.epoch, NetworkRow.number)).one()
    wanted = select(RevisionRow).where(RevisionRow.epoch == epoch, RevisionRow.number <= number)
    row = session.scalars(wanted.order_by(RevisionRow.number.desc()).limit(1)).one_or_none()
    # Of an epoch that is over, nobody knows how far it went beyond its last row.
    last = at.number if epoch == at.epoch else row.number if row is not None else -1
    if row is None or number > last:
        raise NotFound(f"there is no revision {epoch}/{number}, or it is not kept any more")
    return row


def document_at(session: Session, epoch: str, number: int) -> Document:
    """The document as it was at a revision; NotFound if that is not known (any more)."""
    target = find(session, epoch, number)
    past = _Past(document.of(state.load(session)))
    later = select(RevisionRow.undo).where(RevisionRow.id > target.id)
    for undo in session.scalars(later.order_by(RevisionRow.id.desc())):
        past.undo(json.loads(zlib.decompress(undo)))
        time.sleep(0)  # the others' turn: all requests are of one thread
    return past.document()


def parse(text: str) -> Revision:
    """EPOCH/NUMBER; ValueError otherwise."""
    epoch, slash, number = text.partition("/")
    if not (slash and epoch and number.isascii() and number.isdigit() and len(number) <= 18):
        raise ValueError(f"want EPOCH/NUMBER, got {text!r}")
    return Revision(epoch=epoch, number=int(number))


def _add(
    session: Session, written: Sequence[Difference], undo: list[Any], by: str, now: datetime
) -> None:
    at = session.scalars(select(NetworkRow)).one()
    session.add(
        RevisionRow(
            epoch=at.epoch,
            number=at.number,
            at=now,
            actor=by[:80],
            changes=len(written),
            summary=[f"{one.action} {one.kind} {one.name}" for one in written[:NAMED]],
            # The fastest level: it is a tenth larger than the best, in a tenth of the time.
            undo=zlib.compress(codec.canonical(undo), level=1),
        )
    )


def _undo(before: NetworkState, written: Sequence[Difference]) -> Iterator[list[Any]]:
    """[kind, name, the object as it was or None, and of a rule that is gone its place]."""
    gone = {one.name for one in written if one.kind == "rule" and one.after is None}
    rules = before.policy.rules if gone else ()
    places = {rule.id: at for at, rule in enumerate(rules) if rule.id in gone}
    for one in written:
        was = None if one.before is None else dict(one.before)
        if one.kind == "policy" and was is not None and _ORDER in was:
            was[_ORDER] = [rule.id for rule in before.policy.rules]
        place = places[one.name] if one.kind == "rule" and one.after is None else None
        yield [one.kind, one.name, was, place]


class _Past:
    """A document on its way back; what an undo does not touch costs nothing."""

    def __init__(self, present: Document) -> None:
        policy = present["policy"]
        self._identities = set(present["identities"])
        self._groups = dict(present["groups"])
        self._resources = {resource["name"]: resource for resource in present["resources"]}
        self._parts = {part: policy[part] for part in _PARTS}
        self._rules = {rule["id"]: rule for rule in policy["rules"]}
        self._order = [*self._rules]

    def undo(self, steps: list[list[Any]]) -> None:
        """Go back to the document before."""
        order = None
        added: set[str] = set()
        deleted: list[tuple[int, str]] = []
        for kind, name, was, place in steps:
            if kind == "identity":
                (self._identities.discard if was is None else self._identities.add)(name)
            elif kind == "group":
                _put(self._groups, name, None if was is None else was["members"])
            elif kind == "resource":
                _put(self._resources, name, None if was is None else _resource(was))
            elif kind == "policy":
                self._parts.update({part: was[part] for part in _PARTS if part in was})
                order = was.get(_ORDER)
            else:
                _put(self._rules, name, was)
                if was is None:
                    added.add(name)
                elif place is not None:
                    deleted.append((place, name))
        if added:
            self._order = [name for name in self._order if name not in added]
        for place, name in sorted(deleted):
            self._order.insert(place, name)
        if order is not None:
            self._order = order

    def document(self) -> Document:
        """As far back as it is now."""
        return {
            "identities": sorted(self._identities),
            "groups": dict(sorted(self._groups.items())),
            "resources": [self._resources[name] for name in sorted(self._resources)],
            "policy": {**self._parts, "rules": [self._rules[name] for name in self._order]},
        }


def _resource(was: Mapping[str, Any]) -> dict[str, Any]:
    """As the document has it; before there were priorities, nothing was said of them."""
    found = {"priority": management.DEFAULT_PRIORITY, "alternatives": [], **was}
    return {key: value for key, value in found.items() if key != "tag"}


def _put(objects: dict[str, Any], name: str, was: Any) -> None:
    if was is None:
        objects.pop(name, None)
    else:
        objects[name] = was
