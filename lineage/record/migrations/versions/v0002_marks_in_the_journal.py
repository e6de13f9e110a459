"""The journal stores patient hashes: existing pseudonyms are replaced by their hashes, nothing else changes."""

import sqlalchemy as sa
from alembic import op

from lineage.fingerprint import hash_pseudonym
from lineage.record import append_only

revision = "0002"
down_revision = "0001"

HASH_LENGTH = 64  # characters of a patient hash
TRIGGERS = {"sqlite": "journal_no_update", "postgresql": "journal_no_change"}


def upgrade() -> None:
    """Replace each pseudonym by its hash; the trigger against updates is disabled for this change."""
    connection = op.get_bind()
    clusters = connection.execute(sa.text("SELECT DISTINCT cluster FROM journal WHERE cluster <> ''")).scalars()
    pseudonyms = [
        {"name": cluster, "mark": hash_pseudonym(cluster)} for cluster in clusters if len(cluster) != HASH_LENGTH
    ]
    if not pseudonyms:
        return
    _disable_trigger(connection)
    op.create_index("journal_cluster", "journal", ["cluster"])
    connection.execute(sa.text("UPDATE journal SET cluster = :mark WHERE cluster = :name"), pseudonyms)
    op.drop_index("journal_cluster", "journal")
    _enable_trigger(connection)


def _disable_trigger(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text(f"DROP TRIGGER {TRIGGERS['sqlite']}"))
    else:
        connection.execute(sa.text(f"ALTER TABLE journal DISABLE TRIGGER {TRIGGERS['postgresql']}"))


def _enable_trigger(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text(append_only.sqlite_guards()[TRIGGERS["sqlite"]].replace(":", "\\:")))
    else:
        connection.execute(sa.text(f"ALTER TABLE journal ENABLE ALWAYS TRIGGER {TRIGGERS['postgresql']}"))
