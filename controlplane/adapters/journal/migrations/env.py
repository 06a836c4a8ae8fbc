"""Alembic's entry point. The connection, inside a transaction, comes from `controlplane.adapters.journal.migrate`."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
