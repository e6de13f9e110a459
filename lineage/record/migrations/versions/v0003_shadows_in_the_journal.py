"""The journal says which answer a shadow's answer stands behind; empty for every answer that somebody was given."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column. Releases of before, which do not know it, go on writing: it is empty by itself."""
    op.add_column("journal", sa.Column("shadows", sa.String, nullable=False, server_default=""))
