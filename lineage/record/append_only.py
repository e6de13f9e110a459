"""The triggers that keep the ledger and the journal append-only, for both databases; `store` installs them once."""

from __future__ import annotations

# Columns that are unique in each table: REPLACE removes a row that has any of them without firing a DELETE trigger.
# https://sqlite.org/lang_conflict.html, paragraph REPLACE.
UNIQUE = {"ledger": ("seq", "hash"), "journal": ("number", "id")}


def sqlite_guards() -> dict[str, str]:
    """Trigger name -> the statement that makes it, in SQLite."""
    found = {}
    for table, columns in UNIQUE.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, 'the {table} is append-only'); END"
        same = " OR ".join(f"{column} = NEW.{column}" for column in columns)
        exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"
        found[f"{table}_no_update"] = f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}"
        found[f"{table}_no_delete"] = f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}"
        found[f"{table}_no_replace"] = (
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {exists} {refuse}"
        )
    return found


POSTGRESQL_FUNCTION = """\
CREATE OR REPLACE FUNCTION oncoloop_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the % is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$"""


def postgresql_guards() -> dict[str, str]:
    """Trigger name -> the statement that makes it, in PostgreSQL (an upsert fires the UPDATE trigger there)."""
    found = {}
    for table in UNIQUE:
        call = "EXECUTE FUNCTION oncoloop_refuse()"
        found[f"{table}_no_change"] = (
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {call}"
        )
        found[f"{table}_no_truncate"] = (
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {call}"
        )
    return found


def statements(dialect: str) -> list[str]:
    """The statements that install the guards; in PostgreSQL they hold in replication mode too (ENABLE ALWAYS)."""
    if dialect == "sqlite":
        return list(sqlite_guards().values())
    always = [f"ALTER TABLE {name.rsplit('_no_', 1)[0]} ENABLE ALWAYS TRIGGER {name}" for name in postgresql_guards()]
    return [POSTGRESQL_FUNCTION, *postgresql_guards().values(), *always]
