"""The journal keeps marks: the pseudonyms of before become their hashes, and nothing else of a row changes."""

import sqlalchemy as sa
from alembic import op

from lineage.patient_hash import mark
from lineage.record import append_only

revision = "0002"
down_revision = "0001"

MARKED = 64  # characters of a mark
TRIGGERS = {"sqlite": "journal_no_update", "postgresql": "journal_no_change"}


def upgrade() -> None:
    """Put the mark of each cluster in its place, under guards that stand aside for this one change."""
    connection = op.get_bind()
    told = connection.execute(sa.text("SELECT DISTINCT cluster FROM journal WHERE cluster <> ''")).scalars()
    names = [{"name": name, "mark": mark(name)} for name in told if len(name) != MARKED]
    if not names:
        return
    _aside(connection)
    op.create_index("journal_cluster", "journal", ["cluster"])
    connection.execute(sa.text("UPDATE journal SET cluster = :mark WHERE cluster = :name"), names)
    op.drop_index("journal_cluster", "journal")
    _back(connection)


def _aside(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text(f"DROP TRIGGER {TRIGGERS['sqlite']}"))
    else:
        connection.execute(sa.text(f"ALTER TABLE journal DISABLE TRIGGER {TRIGGERS['postgresql']}"))


def _back(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text(append_only.sqlite_guards()[TRIGGERS["sqlite"]].replace(":", "\\:")))
    else:
        connection.execute(sa.text(f"ALTER TABLE journal ENABLE ALWAYS TRIGGER {TRIGGERS['postgresql']}"))
