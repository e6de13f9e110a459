"""The database behaves alike in SQLite and PostgreSQL, and its errors say what to do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest

from lineage import accounts
from lineage.errors import Fault
from lineage.fingerprint import hash_pseudonym
from lineage.record import database, journal, ledger, outbox
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome

Prediction = Callable[..., journal.JournalRow]


def test_time_is_utc_in_whole_seconds() -> None:
    assert datetime.fromisoformat(database.now()).utcoffset() is not None
    assert len(database.now()) == len("2026-01-31T12:00:00Z") and database.now().endswith("Z")


def test_the_migration_makes_the_tables_that_the_code_uses(home: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), database.metadata) == []


def test_migrating_again_changes_nothing(home: Path) -> None:
    ledger.append(EventKind.WORKSPACE_CREATED, "here", {})
    database.migrate()
    assert len(ledger.events()) == 1 and database.missing_guards() == []


def test_a_database_without_tables_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOLOOP_HOME", str(tmp_path / "new"))
    monkeypatch.delenv("ONCOLOOP_DATABASE_URL", raising=False)
    with pytest.raises(Fault, match="oncoloop init"):
        ledger.events()


def test_a_file_that_is_no_database_is_a_fault(home: Path) -> None:
    database.engine().dispose()
    for path in home.glob("oncoloop.db*"):
        path.write_bytes(b"this is not a database, and long enough to be read as one" * 50)
    with pytest.raises(Fault, match=r"oncoloop\.db can't be used"):
        ledger.events()


@pytest.mark.parametrize("url", ["nonsense", "mysql://db/x"])
def test_an_address_that_is_no_database_is_a_fault(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOLOOP_DATABASE_URL", url)
    with pytest.raises(Fault, match="postgresql://"):
        ledger.events()


def test_a_password_is_never_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCOLOOP_DATABASE_URL", "postgresql://oncoloop:secret@127.0.0.1:1/none")
    with pytest.raises(Fault) as error:
        ledger.events()
    assert "127.0.0.1" in str(error.value) and "secret" not in str(error.value)


def test_a_failed_transaction_is_rolled_back(home: Path) -> None:
    row = {"prediction_id": "p-1", "label": "tumour", "source": "pathology", "actor": "erik", "at": database.now()}
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute(database.outcomes.insert().values(row))
        raise ZeroDivisionError
    assert database.fetch(database.outcomes.select()) == []
    assert database.execute(database.outcomes.insert().values(row)) == 1
    assert database.fetch(database.outcomes.select())[0]["prediction_id"] == "p-1"


def test_commits_are_synced_to_disk(home: Path) -> None:
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_readers_do_not_wait_for_a_writer(home: Path) -> None:
    ledger.append(EventKind.WORKSPACE_CREATED, "here", {})
    with database.writing() as connection:
        connection.execute(database.outbox.insert().values(kind="k", key="1", payload="{}", put_at=database.now()))
        assert len(ledger.events()) == 1


def test_concurrent_threads_can_write(home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: outbox.put("event", str(number % 10), {}), range(20)))
    assert len(outbox.pending()) == 10


def test_postgresql_stores_the_same_record(
    postgresql: str, home: Path, monkeypatch: pytest.MonkeyPatch, prediction: Prediction
) -> None:
    monkeypatch.setenv("ONCOLOOP_DATABASE_URL", postgresql)
    database.migrate()
    database.migrate()
    ledger.append(EventKind.BATCH_ADMITTED, "b-1", {"share": 0.5})
    accounts.add("erik", "engineer")
    journal.append(prediction())
    assert outbox.put("event", "1", {}) and not outbox.put("event", "1", {})
    assert journal.rows()["embedding"][0].tolist() == [0.5, -0.25]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ledger.append(EventKind.BATCH_RECEIVED, f"b-{number}", {}), range(12)))
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.PASS, verdict.reasons
    assert verdict.figures["events"] == 14
    _assert_refused(["UPDATE ledger SET actor = 'x'", "DELETE FROM journal", "TRUNCATE ledger", "TRUNCATE journal"])
    _assert_refused(["SET session_replication_role = replica; DELETE FROM ledger"])
    _migrate_pseudonyms(prediction)
    _assert_refused(["UPDATE journal SET cluster = 'x'"])
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE ledger DISABLE TRIGGER ledger_no_truncate")
    assert database.missing_guards() == ["ledger_no_truncate"]
    with database.writing() as connection:
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION oncoloop_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
        )
    assert len(database.missing_guards()) == 4


def test_the_migration_replaces_pseudonyms_in_every_byte_of_the_file(home: Path, prediction: Prediction) -> None:
    _migrate_pseudonyms(prediction)
    database.engine().dispose()
    stored_bytes = b"".join(path.read_bytes() for path in home.glob("oncoloop.db*"))
    assert b"P00000000000" not in stored_bytes and hash_pseudonym("P000000000000").encode() in stored_bytes


def _migrate_pseudonyms(prediction: Prediction) -> None:
    """Migrate a database of version 0001 with pseudonyms in its journal to the current version."""
    count_before = journal.count()
    for number in range(40):
        row = asdict(prediction(f"old-{number}", cluster=f"P{number // 4:012d}" if number % 5 else ""))
        row |= {name: json.dumps(row[name]) for name in journal.JSON_COLUMNS}
        database.execute(database.journal.insert().values(row))
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE journal DROP COLUMN shadows")
        connection.exec_driver_sql("ALTER TABLE tokens DROP COLUMN revoked_at")
        connection.exec_driver_sql("ALTER TABLE tokens DROP COLUMN site")
        connection.exec_driver_sql("DROP TABLE sessions")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    database.migrate()
    rows = [row for row in database.fetch(database.journal.select()) if row["id"].startswith("old-")]
    expected = [hash_pseudonym(f"P{number // 4:012d}") if number % 5 else "" for number in range(40)]
    assert [row["cluster"] for row in sorted(rows, key=lambda row: row["number"])] == expected
    assert journal.count() == count_before + 40 and database.missing_guards() == []
    assert [prediction_row["id"] for prediction_row in journal.predictions("P000000000001")] == [
        "old-4",
        "old-6",
        "old-7",
    ]
    assert {row["shadows"] for row in rows} == {""}, "earlier predictions were all received by users"


def _assert_refused(statements: list[str]) -> None:
    for sql in statements:
        with pytest.raises(Fault, match="append-only"), database.writing() as connection:
            connection.exec_driver_sql(sql)


def test_the_database_file_can_be_read_by_plain_sqlite(home: Path, prediction: Prediction) -> None:
    journal.append(prediction())
    connection = sqlite3.connect(home / "oncoloop.db")
    assert connection.execute("SELECT answer FROM journal").fetchall() == [("malignant",)]
