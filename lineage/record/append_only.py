"""The triggers that keep ledger and journal append-only in SQLite and PostgreSQL; a migration installs them."""

from __future__ import annotations

# The unique columns of each table: REPLACE removes a row with an equal value without firing a DELETE trigger
# (https://sqlite.org/lang_conflict.html, paragraph REPLACE).
UNIQUE = {"ledger": ("seq", "hash"), "journal": ("number", "id")}


def sqlite_guards() -> dict[str, str]:
    """Trigger name -> the statement that creates it, in SQLite."""
    guards = {}
    for table, columns in UNIQUE.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, 'the {table} is append-only'); END"
        same_key = " OR ".join(f"{column} = NEW.{column}" for column in columns)
        exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same_key})"
        guards[f"{table}_no_update"] = f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}"
        guards[f"{table}_no_delete"] = f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}"
        guards[f"{table}_no_replace"] = (
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {exists} {refuse}"
        )
    return guards


POSTGRESQL_FUNCTION = """\
CREATE OR REPLACE FUNCTION oncoloop_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the % is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$"""


def postgresql_guards() -> dict[str, str]:
    """Trigger name -> the statement that creates it, in PostgreSQL (an upsert fires the UPDATE trigger there)."""
    guards = {}
    for table in UNIQUE:
        call = "EXECUTE FUNCTION oncoloop_refuse()"
        guards[f"{table}_no_change"] = (
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {call}"
        )
        guards[f"{table}_no_truncate"] = (
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {call}"
        )
    return guards


def statements(dialect: str) -> list[str]:
    """The statements that install the triggers; in PostgreSQL they also fire in replication mode (ENABLE ALWAYS)."""
    if dialect == "sqlite":
        return list(sqlite_guards().values())
    always = [f"ALTER TABLE {name.rsplit('_no_', 1)[0]} ENABLE ALWAYS TRIGGER {name}" for name in postgresql_guards()]
    return [POSTGRESQL_FUNCTION, *postgresql_guards().values(), *always]
