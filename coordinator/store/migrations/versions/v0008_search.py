"""Log events and the audit log are searched by indexes, however long they are

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SPAN = 4096  # rows: as coordinator/spans.py had it when this was written
_LOG = ("node", "node_id", "verdict", "kind", "source_identity", "destination_identity")
_LOG_BEFORE = ("node", "at", "verdict", "source_identity", "destination_identity")
_AUDIT = ("at", "actor", "action", "kind", "name")
_KINDS = {"sqlite": "json_extract(event, '$.kind')", "postgresql": "event ->> 'kind'"}


def upgrade() -> None:
    """Give the kind a column, filled from what is there; make the indexes, and the spans."""
    kind = sa.Column("kind", sa.String(length=8), nullable=False, server_default="")
    op.add_column("log_events", kind)
    found = _KINDS[op.get_bind().dialect.name]
    op.execute(f"UPDATE log_events SET kind = coalesce({found}, '')")
    for column in _LOG_BEFORE:
        op.drop_index(op.f(f"ix_log_events_{column}"), table_name="log_events")
    op.drop_index(op.f("ix_audit_at"), table_name="audit")
    for table, columns in (("log_events", _LOG), ("audit", _AUDIT)):
        for column in columns:
            op.create_index(f"search_{table}_{column}", table, [column, "id"])
    op.create_table(
        "spans",
        sa.Column("of", sa.String(length=8), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("earliest", sa.DateTime(), nullable=False),
        sa.Column("latest", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("of", "number"),
    )
    for of, table in (("log", "log_events"), ("audit", "audit")):
        op.execute(
            'INSERT INTO spans ("of", number, earliest, latest) '
            f"SELECT '{of}', id / {SPAN}, min(at), max(at) FROM {table} GROUP BY id / {SPAN}"
        )


def downgrade() -> None:
    """Back again."""
    op.drop_table("spans")
    for table, columns in (("log_events", _LOG), ("audit", _AUDIT)):
        for column in columns:
            op.drop_index(f"search_{table}_{column}", table_name=table)
    op.create_index(op.f("ix_audit_at"), "audit", ["at"])
    for column in _LOG_BEFORE:
        op.create_index(op.f(f"ix_log_events_{column}"), "log_events", [column])
    op.drop_column("log_events", "kind")
