"""The first store

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "admin_tokens",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("role", sa.String(length=6), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("hash"),
    )
    op.create_table(
        "challenges",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("purpose", sa.String(length=6), nullable=False),
        sa.Column("public_key", sa.String(length=44), nullable=False),
        sa.Column("ephemeral_key", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("setup_key_id", sa.String(length=36), nullable=True),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_challenges_expires_at"), "challenges", ["expires_at"], unique=False)
    op.create_table(
        "groups",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("members", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "network",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("network_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("pools", sa.JSON(), nullable=False),
        sa.Column("epoch", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=7), nullable=False),
        sa.Column("identity", sa.String(length=63), nullable=False),
        sa.Column("public_key", sa.String(length=44), nullable=False),
        sa.Column("client_id", sa.String(length=26), nullable=False),
        sa.Column("endpoint", sa.String(length=270), nullable=True),
        sa.Column("enrolled_at", sa.DateTime(), nullable=False),
        sa.Column("last_contact_at", sa.DateTime(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.Column("wanted_epoch", sa.String(length=32), nullable=False),
        sa.Column("wanted_number", sa.Integer(), nullable=False),
        sa.Column("wanted_digest", sa.String(length=64), nullable=False),
        sa.Column("applied_epoch", sa.String(length=32), nullable=True),
        sa.Column("applied_number", sa.Integer(), nullable=True),
        sa.Column("applied_digest", sa.String(length=64), nullable=True),
        sa.Column("applied_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("client_id"),
        sa.UniqueConstraint("public_key"),
    )
    op.create_index(
        "one_live_node_per_name",
        "nodes",
        ["name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "setup_keys",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=True),
        sa.Column("role", sa.String(length=7), nullable=False),
        sa.Column("identity", sa.String(length=63), nullable=True),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hash"),
    )
    op.create_table(
        "tags",
        sa.Column("tag", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("allocated_at", sa.DateTime(), nullable=False),
        sa.Column("retired_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("tag"),
    )
    op.create_table(
        "addresses",
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("pool", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=36), nullable=False),
        sa.Column("released_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["nodes.id"],
        ),
        sa.PrimaryKeyConstraint("address"),
    )
    op.create_index(op.f("ix_addresses_node_id"), "addresses", ["node_id"], unique=False)
    op.create_table(
        "identities",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("tag", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tag"],
            ["tags.tag"],
        ),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("tag"),
    )
    op.create_table(
        "log_batches",
        sa.Column("node_id", sa.String(length=36), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("stored", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["nodes.id"],
        ),
        sa.PrimaryKeyConstraint("node_id", "batch_id"),
    )
    op.create_table(
        "log_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=36), nullable=False),
        sa.Column("node", sa.String(length=63), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("source_identity", sa.String(length=63), nullable=True),
        sa.Column("destination_identity", sa.String(length=63), nullable=True),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["nodes.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_log_events_at"), "log_events", ["at"], unique=False)
    op.create_index(
        op.f("ix_log_events_destination_identity"),
        "log_events",
        ["destination_identity"],
        unique=False,
    )
    op.create_index(op.f("ix_log_events_node"), "log_events", ["node"], unique=False)
    op.create_index(
        op.f("ix_log_events_source_identity"), "log_events", ["source_identity"], unique=False
    )
    op.create_index(op.f("ix_log_events_verdict"), "log_events", ["verdict"], unique=False)
    op.create_table(
        "node_tokens",
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=36), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["nodes.id"],
        ),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index(op.f("ix_node_tokens_expires_at"), "node_tokens", ["expires_at"], unique=False)
    op.create_index(op.f("ix_node_tokens_node_id"), "node_tokens", ["node_id"], unique=False)
    op.create_table(
        "resources",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("tag", sa.Integer(), nullable=False),
        sa.Column("cidr", sa.String(length=49), nullable=False),
        sa.Column("gateway", sa.String(length=63), nullable=False),
        sa.Column("via", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tag"],
            ["tags.tag"],
        ),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("tag"),
    )


def downgrade() -> None:
    """Remove every table, and all that is in them."""
    op.drop_table("resources")
    op.drop_index(op.f("ix_node_tokens_node_id"), table_name="node_tokens")
    op.drop_index(op.f("ix_node_tokens_expires_at"), table_name="node_tokens")
    op.drop_table("node_tokens")
    op.drop_index(op.f("ix_log_events_verdict"), table_name="log_events")
    op.drop_index(op.f("ix_log_events_source_identity"), table_name="log_events")
    op.drop_index(op.f("ix_log_events_node"), table_name="log_events")
    op.drop_index(op.f("ix_log_events_destination_identity"), table_name="log_events")
    op.drop_index(op.f("ix_log_events_at"), table_name="log_events")
    op.drop_table("log_events")
    op.drop_table("log_batches")
    op.drop_table("identities")
    op.drop_index(op.f("ix_addresses_node_id"), table_name="addresses")
    op.drop_table("addresses")
    op.drop_table("tags")
    op.drop_table("setup_keys")
    op.drop_index(
        "one_live_node_per_name", table_name="nodes", sqlite_where=sa.text("revoked_at IS NULL")
    )
    op.drop_table("nodes")
    op.drop_table("network")
    op.drop_table("groups")
    op.drop_index(op.f("ix_challenges_expires_at"), table_name="challenges")
    op.drop_table("challenges")
    op.drop_table("admin_tokens")
