"""Setup keys for groups, who enrolled with which, and no private half in a challenge

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Challenges live for a minute: those that are there go."""
    op.execute("DELETE FROM challenges")
    with op.batch_alter_table("challenges") as table:
        table.drop_column("ephemeral_key")
        table.create_index(op.f("ix_challenges_public_key"), ["public_key"])
    with op.batch_alter_table("setup_keys") as table:
        table.add_column(sa.Column("group", sa.String(length=63), nullable=True))
        table.add_column(sa.Column("authority", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("revoked_at", sa.DateTime(), nullable=True))
    op.add_column("nodes", sa.Column("setup_key_id", sa.String(length=36), nullable=True))
    op.add_column("nodes", sa.Column("authority", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_nodes_setup_key_id"), "nodes", ["setup_key_id"])


def downgrade() -> None:
    """Remove them, and what they hold."""
    op.execute("DELETE FROM challenges")
    op.drop_index(op.f("ix_nodes_setup_key_id"), table_name="nodes")
    op.drop_column("nodes", "authority")
    op.drop_column("nodes", "setup_key_id")
    op.execute("DELETE FROM setup_keys WHERE revoked_at IS NOT NULL")
    for column in ("revoked_at", "authority", "group"):
        op.drop_column("setup_keys", column)
    with op.batch_alter_table("challenges") as table:
        table.drop_index(op.f("ix_challenges_public_key"))
        table.add_column(sa.Column("ephemeral_key", sa.LargeBinary(), nullable=False))
