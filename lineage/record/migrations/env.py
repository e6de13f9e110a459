"""Alembic's entry point: migrates on the connection that `lineage.record.database.migrate` passes."""

from alembic import context

from lineage.record.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
