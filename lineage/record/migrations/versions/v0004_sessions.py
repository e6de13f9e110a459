"""Sign-in sessions are stored, so that they can be ended; tokens can be revoked."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table and the column. Earlier sign-ins end, since their cookies name no row."""
    op.add_column("tokens", sa.Column("revoked_at", sa.String))
    op.create_table(
        "sessions",
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, index=True),
        sa.Column("place", sa.String, nullable=False),
        sa.Column("opened_at", sa.String, nullable=False),
        sa.Column("expires_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
    )
