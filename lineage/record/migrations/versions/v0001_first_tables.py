"""The first tables, and the triggers that keep ledger and journal append-only."""

import sqlalchemy as sa
from alembic import op

from lineage.record import append_only

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table and trigger."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "ledger",
        sa.Column("seq", number, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("previous", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False, unique=True),
    )
    op.create_index("ix_ledger_kind", "ledger", ["kind"])
    op.create_index("ix_ledger_subject", "ledger", ["subject"])
    op.create_table(
        "journal",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("release", sa.String, nullable=False),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("cluster", sa.String, nullable=False),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("embedding", sa.Text, nullable=False),
        sa.Column("probabilities", sa.Text, nullable=False),
        sa.Column("answer", sa.String),
        sa.Column("score", sa.Float),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("slices", sa.Text, nullable=False),
        sa.Column("map", sa.Text, nullable=False),
        sa.Column("engine", sa.Text, nullable=False),
        sa.Column("duration_ms", sa.Float, nullable=False),
    )
    op.create_index("journal_task_at", "journal", ["task", "at"])
    op.create_table(
        "people",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("added_at", sa.String, nullable=False),
        sa.Column("added_by", sa.String, nullable=False),
        sa.Column("disabled_at", sa.String),
    )
    op.create_table(
        "tokens",
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("issued_at", sa.String, nullable=False),
        sa.Column("expires_at", sa.String, nullable=False),
        sa.Column("used_at", sa.String),
    )
    op.create_index("ix_tokens_name", "tokens", ["name"])
    op.create_table(
        "outbox",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("put_at", sa.String, nullable=False),
        sa.Column("done_at", sa.String),
        sa.UniqueConstraint("kind", "key", name="outbox_kind_key"),
    )
    op.create_table(
        "outcomes",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("prediction_id", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
    )
    op.create_index("ix_outcomes_prediction_id", "outcomes", ["prediction_id"])
    op.create_table(
        "traffic",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("release", sa.String, nullable=False),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
    )
    for statement in append_only.statements(op.get_bind().dialect.name):
        op.execute(sa.text(statement.replace(":", "\\:")))
