"""Keys that change: the one to come, and those that were

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "rotations",
        sa.Column("node_id", sa.String(length=36), nullable=False),
        sa.Column("public_key", sa.String(length=44), nullable=False),
        sa.Column("epoch", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("deadline_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"]),
        sa.PrimaryKeyConstraint("node_id"),
        sa.UniqueConstraint("public_key"),
    )
    op.create_table(
        "former_keys",
        sa.Column("public_key", sa.String(length=44), nullable=False),
        sa.Column("client_id", sa.String(length=26), nullable=False),
        sa.Column("node_id", sa.String(length=36), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"]),
        sa.PrimaryKeyConstraint("public_key"),
        sa.UniqueConstraint("client_id"),
    )
    op.create_index(op.f("ix_former_keys_node_id"), "former_keys", ["node_id"], unique=False)


def downgrade() -> None:
    """Remove both, and what they hold."""
    op.drop_index(op.f("ix_former_keys_node_id"), table_name="former_keys")
    op.drop_table("former_keys")
    op.drop_table("rotations")
