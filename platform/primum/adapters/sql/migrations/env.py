"""Runs migrations on the connection that ``primum.adapters.sql.migrate`` holds open and locked."""

from __future__ import annotations

from alembic import context

from primum.adapters.sql import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it.
)
with context.begin_transaction():
    context.run_migrations()
