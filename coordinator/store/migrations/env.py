"""Alembic's entry: it runs on the connection that coordinator/store/migrate.py hands over."""

from __future__ import annotations

from alembic import context

from coordinator.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    compare_type=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
