"""Alembic's environment: it uses the connection and transaction of `Database.migrate`."""

from __future__ import annotations

from alembic import context

from jobs.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
