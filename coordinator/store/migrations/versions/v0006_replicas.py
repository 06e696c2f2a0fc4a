"""Which of a node's streams is its newest, over all replicas; more than 2**31 log events

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; widen the other, and the sequence that it is counted by.

    SQLite's numbers have 64 bits as they are.
    """
    number = sa.Column("stream_number", sa.Integer(), nullable=False, server_default="0")
    op.add_column("nodes", number)
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("log_events", "id", type_=sa.BigInteger())
        op.execute("ALTER SEQUENCE log_events_id_seq AS bigint")


def downgrade() -> None:
    """Back again; refused by the server where a number does not fit."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER SEQUENCE log_events_id_seq AS integer")
        op.alter_column("log_events", "id", type_=sa.Integer())
    op.drop_column("nodes", "stream_number")
