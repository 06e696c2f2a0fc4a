"""Several gateways may offer one resource, each with a priority; a gateway can be drained

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is there has one gateway, in use."""
    priority = sa.Column("priority", sa.Integer(), nullable=False, server_default="100")
    alternatives = sa.Column("alternatives", sa.JSON(), nullable=False, server_default="[]")
    drained = sa.Column[bool]("is_drained", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("resources", priority)
    op.add_column("resources", alternatives)
    op.add_column("nodes", drained)


def downgrade() -> None:
    """Back again: of several gateways the one in `gateway` stays."""
    op.drop_column("nodes", "is_drained")
    op.drop_column("resources", "alternatives")
    op.drop_column("resources", "priority")
