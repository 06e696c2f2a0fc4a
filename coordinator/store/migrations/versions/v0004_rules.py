"""Rules have a table of their own

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NETWORK = sa.table("network", sa.column("id", sa.Integer()), sa.column("policy", sa.JSON()))
_RULES = sa.table(
    "rules",
    sa.column("id", sa.String(63)),
    sa.column("position", sa.Integer()),
    sa.column("source", sa.Text()),
    sa.column("destination", sa.Text()),
    sa.column("body", sa.Text()),
)


def upgrade() -> None:
    """Make the table, and move the rules into it out of the network's row."""
    op.create_table(
        "rules",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("position", "source", "destination"):
        op.create_index(op.f(f"ix_rules_{column}"), "rules", [column])
    policy = _policy()
    if policy is not None:
        rows = [_row(at, rule) for at, rule in enumerate(policy.pop("rules", ()))]
        if rows:
            op.bulk_insert(_RULES, rows)
        op.get_bind().execute(sa.update(_NETWORK).values(policy=policy))


def downgrade() -> None:
    """Put the rules back where they were."""
    policy = _policy()
    if policy is not None:
        bodies = op.get_bind().scalars(sa.select(_RULES.c.body).order_by(_RULES.c.position))
        policy["rules"] = [json.loads(body) for body in bodies]
        op.get_bind().execute(sa.update(_NETWORK).values(policy=policy))
    op.drop_table("rules")


def _policy() -> dict[str, Any] | None:
    """What the network's row has; None in a store that is being made."""
    found: dict[str, Any] | None = op.get_bind().scalar(sa.select(_NETWORK.c.policy))
    return found


def _row(position: int, rule: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": rule["id"],
        "position": position,
        "source": rule["from"],
        "destination": rule["to"],
        # As codec.canonical has it: what the program writes next is compared with it.
        "body": json.dumps(rule, sort_keys=True, separators=(",", ":")),
    }
