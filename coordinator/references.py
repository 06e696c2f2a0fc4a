"""Who refers to whom: what keeps an object from being deleted."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from coordinator.store.models import GroupRow, NetworkRow, NodeRow, RuleRow, SetupKeyRow


def to_identity(session: Session, name: str, now: datetime) -> list[str]:
    """Every place that names the identity NAME, as "path: what it does"."""
    held = select(NodeRow.name).where(NodeRow.identity == name, NodeRow.revoked_at.is_(None))
    given = _usable_keys(now).where(SetupKeyRow.identity == name)
    return [
        *(f"nodes.{node}.identity: is {name!r}" for node in session.scalars(held)),
        *(f"setup-keys.{key}.identity: gives {name!r}" for key in session.scalars(given)),
        *in_groups(session, name),
        *in_policy(session, name),
    ]


def to_group(session: Session, name: str, now: datetime) -> list[str]:
    """Every place that names the group NAME, likewise."""
    return [*keys_of_group(session, name, now), *in_policy(session, name)]


def keys_of_group(session: Session, name: str, now: datetime) -> list[str]:
    """Every setup key that a node can still join the group NAME with."""
    given = _usable_keys(now).where(SetupKeyRow.group == name)
    return [f"setup-keys.{key}.group: joins {name!r}" for key in session.scalars(given)]


def given_identities(session: Session, now: datetime) -> frozenset[str]:
    """The identities that a node can still be given by a setup key."""
    given = select(SetupKeyRow.identity).where(*_is_usable(now))
    return frozenset(name for name in session.scalars(given) if name)


def _usable_keys(now: datetime) -> Select[str]:
    return select(SetupKeyRow.id).where(*_is_usable(now)).order_by(SetupKeyRow.id)


def _is_usable(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        SetupKeyRow.uses_left > 0,
        SetupKeyRow.expires_at > now,
        SetupKeyRow.revoked_at.is_(None),
    )


def in_groups(session: Session, name: str) -> list[str]:
    """Every group that has NAME as a member."""
    groups = session.scalars(select(GroupRow).order_by(GroupRow.name))
    return [f"groups.{row.name}: has {name!r}" for row in groups if name in row.members]


def in_policy(session: Session, name: str) -> list[str]:
    """Every rule, test and quota that names NAME."""
    policy = session.scalars(select(NetworkRow)).one().policy
    parts = (("tests", "from"), ("tests", "to"), ("quotas", "identity"))
    return [
        *_in_rules(session, name),
        *(
            f"policy.{part}[{i}].{end}: names {name!r}"
            for part, end in parts
            for i, entry in enumerate(policy.get(part, ()))
            if entry[end] == name
        ),
    ]


def _in_rules(session: Session, name: str) -> list[str]:
    found = []
    for end, column in (("from", RuleRow.source), ("to", RuleRow.destination)):
        named = select(RuleRow.position).where(column == name).order_by(RuleRow.position)
        for position in session.scalars(named).all():
            before = select(func.count()).where(RuleRow.position < position)
            found.append(f"policy.rules[{session.scalar(before)}].{end}: names {name!r}")
    return found


def gateways(session: Session, now: datetime) -> frozenset[str]:
    """Names that a resource may lie behind: gateways, and those that setup keys wait for."""
    nodes = select(NodeRow.name).where(NodeRow.role == "gateway", NodeRow.revoked_at.is_(None))
    keys = select(SetupKeyRow.name).where(SetupKeyRow.role == "gateway", *_is_usable(now))
    return frozenset(session.scalars(nodes)) | {name for name in session.scalars(keys) if name}
