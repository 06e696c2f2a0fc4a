"""Who refers to whom: what keeps an object from being deleted."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.store.models import GroupRow, NetworkRow, NodeRow, SetupKeyRow


def to_identity(session: Session, name: str) -> list[str]:
    """Every place that names the identity NAME, as "path: what it does"."""
    held = select(NodeRow.name).where(NodeRow.identity == name, NodeRow.revoked_at.is_(None))
    given = select(SetupKeyRow.id).where(SetupKeyRow.identity == name, SetupKeyRow.uses_left > 0)
    return [
        *(f"nodes.{node}.identity: is {name!r}" for node in session.scalars(held)),
        *(f"setup-keys.{key}.identity: gives {name!r}" for key in session.scalars(given)),
        *in_groups(session, name),
        *in_policy(session, name),
    ]


def in_groups(session: Session, name: str) -> list[str]:
    """Every group that has NAME as a member."""
    groups = session.scalars(select(GroupRow).order_by(GroupRow.name))
    return [f"groups.{row.name}: has {name!r}" for row in groups if name in row.members]


def in_policy(session: Session, name: str) -> list[str]:
    """Every rule, test and quota that names NAME."""
    policy = session.scalars(select(NetworkRow)).one().policy
    ends = (("rules", "from"), ("rules", "to"), ("tests", "from"), ("tests", "to"))
    return [
        f"policy.{part}[{i}].{end}: names {name!r}"
        for part, end in (*ends, ("quotas", "identity"))
        for i, entry in enumerate(policy.get(part, ()))
        if entry[end] == name
    ]


def gateways(session: Session, now: datetime) -> frozenset[str]:
    """Names that a resource may lie behind: gateways, and those that setup keys wait for."""
    nodes = select(NodeRow.name).where(NodeRow.role == "gateway", NodeRow.revoked_at.is_(None))
    keys = select(SetupKeyRow.name).where(
        SetupKeyRow.role == "gateway", SetupKeyRow.uses_left > 0, SetupKeyRow.expires_at > now
    )
    return frozenset(session.scalars(nodes)) | {name for name in session.scalars(keys) if name}
