"""The journal stores, for a shadow's answer, the id of the live answer; empty for answers that a user received."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column with an empty default, so that earlier releases can still write."""
    op.add_column("journal", sa.Column("shadows", sa.String, nullable=False, server_default=""))
