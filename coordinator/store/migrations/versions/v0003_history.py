"""Who changed what, every revision as it was, and administrators at a browser

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Nobody changes or deletes a row, not even by a bug of this program. Whoever may also drop the
# trigger gets around it: that is what the chain of hashes is for.
_REFUSAL = "the audit log is append-only"
_GUARDS = {
    "sqlite": [
        f"CREATE TRIGGER audit_is_not_{what}d BEFORE {what.upper()} ON audit "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for what in ("update", "delete")
    ],
    "postgresql": [
        "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        "CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()",
    ],
}


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=270), nullable=False),
        sa.Column("epoch", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hash"),
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"])
    for statement in _GUARDS[op.get_bind().dialect.name]:
        op.execute(statement)
    op.create_table(
        "revisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("undo", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("epoch", "number"),
    )
    _begin_with_the_present()
    op.create_table(
        "sessions",
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("token_name", sa.String(length=63), nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["token_name"], ["admin_tokens.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])


def _begin_with_the_present() -> None:
    """The oldest revision that can be read is the one the store is at now, if it has any."""
    network = sa.table("network", sa.column("epoch"), sa.column("number"))
    columns = ("id", "epoch", "number", "at", "actor", "changes", "summary", "undo")
    types: dict[str, sa.types.TypeEngine[Any]] = {"at": sa.DateTime(), "summary": sa.JSON()}
    revisions = sa.table("revisions", *(sa.column(c, types.get(c)) for c in columns))
    at = op.get_bind().execute(sa.select(network)).one_or_none()
    if at is not None:
        values = {
            "id": 1,
            "epoch": at.epoch,
            "number": at.number,
            "at": datetime.now(UTC).replace(tzinfo=None),
            "actor": "operator",
            "changes": 0,
            "summary": [],
            "undo": zlib.compress(b"[]"),
        }
        op.execute(sa.insert(revisions).values(values))


def downgrade() -> None:
    """Remove them, and what they hold."""
    op.drop_index(op.f("ix_sessions_expires_at"), table_name="sessions")
    op.drop_table("sessions")
    op.drop_table("revisions")
    op.drop_index(op.f("ix_audit_at"), table_name="audit")
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_is_append_only()")
