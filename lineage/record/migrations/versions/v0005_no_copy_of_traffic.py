"""The table `traffic` is dropped: it was a copy of the ledger's events `release.activated`."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Drop the copy. Every activation is in the ledger, so nothing is lost."""
    op.execute("DROP TABLE IF EXISTS traffic")
