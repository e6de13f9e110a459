"""Alembic's entry: it migrates on the connection that `lineage.store.migrate` hands over."""

from alembic import context

from lineage.store import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
