"""How Alembic reaches the database: through the connection that `Database.migrate` gives it, in its transaction."""

from __future__ import annotations

from alembic import context

from jobs.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
