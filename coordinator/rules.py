"""The rules of the policy, one by one and all at once.

They have a table of their own: one of ten thousand is written without the others. What must hold
of them together is validation.faults, run by network.change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from coordinator.store.models import NetworkRow, RuleRow
from ztlab.errors import NotFound
from ztlab.model import codec
from ztlab.model.codec import did_you_mean
from ztlab.model.policy import Rule

T = TypeVar("T")
_MOST_NAMES = 1000  # in one statement: databases bound how many values it may carry


def policy(session: Session) -> dict[str, Any]:
    """The policy as it is written: {"default", "rules", "tests", "quotas"}."""
    row = session.scalars(select(NetworkRow)).one()
    return {**row.policy, "rules": list_rules(session)}


def list_rules(session: Session) -> list[dict[str, Any]]:
    """Every rule as it is written, in the order of writing."""
    bodies = session.scalars(select(RuleRow.body).order_by(RuleRow.position))
    return [json.loads(body) for body in bodies]


def get_rule(session: Session, rule_id: str) -> dict[str, Any]:
    """One rule as it is written; NotFound if there is none."""
    written: dict[str, Any] = json.loads(_row(session, rule_id).body)
    return written


def put_rule(session: Session, rule: Rule) -> dict[str, Any]:
    """Create RULE, as the last, or replace the one of its id, where that is. As it is written."""
    row = session.get(RuleRow, rule.id)
    if row is None:
        last = session.scalar(select(func.max(RuleRow.position)))
        row = RuleRow(id=rule.id, position=0 if last is None else last + 1)
        session.add(row)
    row.source, row.destination, row.body = rule.source, rule.destination, _body(rule)
    written: dict[str, Any] = codec.encode(rule)
    return written


def delete_rule(session: Session, rule_id: str) -> None:
    """NotFound if there is none. Nothing refers to a rule."""
    session.delete(_row(session, rule_id))


def put_rules(session: Session, rules: Iterable[Rule]) -> None:
    """Replace all rules; what stays as it was is not written."""
    columns = (RuleRow.id, RuleRow.position, RuleRow.body)
    there = {rule_id: (at, body) for rule_id, at, body in session.execute(select(*columns))}
    wanted = {rule.id: (at, _body(rule), rule) for at, rule in enumerate(rules)}
    for names in _portions(there.keys() - wanted.keys(), _MOST_NAMES):
        session.execute(delete(RuleRow).where(RuleRow.id.in_(names)))
    values = {
        rule_id: {
            "id": rule_id,
            "position": at,
            "source": rule.source,
            "destination": rule.destination,
            "body": body,
        }
        for rule_id, (at, body, rule) in wanted.items()
        if there.get(rule_id) != (at, body)
    }
    for statement, ids in (
        (insert(RuleRow), values.keys() - there.keys()),
        (update(RuleRow), values.keys() & there.keys()),
    ):
        if ids:
            session.execute(statement, [values[rule_id] for rule_id in sorted(ids)])


def _row(session: Session, rule_id: str) -> RuleRow:
    row = session.get(RuleRow, rule_id)
    if row is None:
        known = session.scalars(select(RuleRow.id)).all()
        raise NotFound(f"no rule is called {rule_id!r}{did_you_mean(rule_id, known)}")
    return row


def _body(rule: Rule) -> str:
    return codec.canonical(rule).decode("ascii")


def _portions(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while portion := list(islice(rest, size)):
        yield portion
