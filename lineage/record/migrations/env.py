"""Alembic's entry: it migrates on the connection that `lineage.record.database.migrate` hands over."""

from alembic import context

from lineage.record.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
