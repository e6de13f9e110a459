"""A bearer token stores the hash of its program's site; empty for a token without a site."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column with an empty default, so that earlier releases can still read and write tokens."""
    op.add_column("tokens", sa.Column("site", sa.String, nullable=False, server_default=""))
