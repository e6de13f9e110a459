"""The ledger is append-only, and every change to it is found."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lineage.errors import Fault
from lineage.record import database, ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict, from_dict

ROOT = Path(__file__).resolve().parents[3]
READ_ROWS = ledger.rows


@pytest.fixture
def three_events(home: Path) -> sqlite3.Connection:
    """A ledger of three events, opened with plain SQLite."""
    for number in (1, 2, 3):
        ledger.append(EventKind.BATCH_ADMITTED, f"b-{number}", {"units": number}, actor="erik")
    return sqlite3.connect(home / "oncoloop.db", isolation_level=None)


def _without_guards(connection: sqlite3.Connection, sql: str) -> None:
    """Execute a statement without the triggers, and create them again."""
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(sql)
    for _, text in triggers:
        connection.execute(text)


def test_an_event_follows_the_one_before(home: Path) -> None:
    first = ledger.append(EventKind.WORKSPACE_CREATED, "here", {})
    second = ledger.append(EventKind.BATCH_RECEIVED, "b-1", {"files": 3}, actor="erik")
    assert (first.seq, second.seq) == (1, 2)
    assert second.previous == first.hash and first.previous == "0" * 64
    assert ledger.events() == [first, second]


def test_the_stored_text_is_what_is_hashed(three_events: sqlite3.Connection) -> None:
    seq, at, kind, subject, actor, payload, previous, value = three_events.execute(
        "SELECT * FROM ledger LIMIT 1"
    ).fetchone()
    assert payload == '{"units":1}'
    text = "\n".join([str(seq), at, kind, subject, actor, previous, payload])
    assert hashlib.sha256(text.encode()).hexdigest() == value


def test_events_are_found_by_kind_and_subject_newest_last(three_events: sqlite3.Connection) -> None:
    ledger.append(EventKind.DRIFT_ASKED, "b-2", {})
    assert [event.seq for event in ledger.events(subject="b-2")] == [2, 4]
    assert [event.seq for event in ledger.events(kind=EventKind.BATCH_ADMITTED, limit=2)] == [2, 3]
    assert ledger.events(kind=EventKind.BATCH_ADMITTED, subject="b-9") == []


def test_a_verdict_is_read_as_it_was_recorded(home: Path) -> None:
    verdict = Verdict("data", "b-1", Outcome.FAIL, ("a scan is blank",), {"units": 3}, {"max_failing": 0.2})
    event = ledger.record_verdict(verdict, actor="erik", task="lung-ct")
    assert (event.kind, event.subject, event.actor, event.payload["task"]) == ("verdict", "b-1", "erik", "lung-ct")
    assert from_dict(ledger.events(kind=EventKind.VERDICT)[0].payload) == verdict


@pytest.mark.parametrize("part", ["kind", "subject", "actor"])
@pytest.mark.parametrize("value", ["b-1\nactor", "", "b\x00", "b\u2028c"])
def test_a_name_that_could_forge_a_line_is_refused(home: Path, part: str, value: str) -> None:
    names = {"kind": "batch.received", "subject": "b-1", "actor": "erik"} | {part: value}
    with pytest.raises(Fault, match=f"the {part} of an event must be one printable line"):
        ledger.append(payload={}, **names)
    assert ledger.events() == []


def test_an_event_is_returned_as_stored_with_its_time(home: Path) -> None:
    before = database.now()
    event = ledger.append(
        EventKind.BATCH_RECEIVED, "b-1", {"path": Path("scans/b-1"), "share": float("nan"), "sites": ("A",)}
    )
    assert event.payload == {"path": "scans/b-1", "share": None, "sites": ["A"]} and event.actor == "system"
    assert before <= event.at <= database.now() and ledger.events() == [event]


def test_an_event_that_cannot_be_written_leaves_no_gap(home: Path) -> None:
    with pytest.raises(Fault, match="can't be written to the record"):
        ledger.append(EventKind.BATCH_RECEIVED, "b-1", {"scan": object()})
    assert ledger.append(EventKind.BATCH_RECEIVED, "b-1", {}).seq == 1 and ledger.verify().outcome is Outcome.PASS


def test_the_default_actor_is_the_system(home: Path) -> None:
    assert ledger.record_verdict(Verdict("data", "b-1", Outcome.PASS, ())).actor == "system"


def test_the_newest_events_are_limited_within_their_kind_and_subject(three_events: sqlite3.Connection) -> None:
    ledger.append(EventKind.DRIFT_ASKED, "b-3", {})
    assert [event.seq for event in ledger.events(limit=2)] == [3, 4]
    assert [event.seq for event in ledger.events(subject="b-3", limit=1)] == [4]
    assert [event.seq for event in ledger.events(kind=EventKind.BATCH_ADMITTED, subject="b-3", limit=5)] == [3]
    assert ledger.events(limit=0) == []


def test_stored_rows_are_read_in_pages_without_a_gap(
    three_events: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of one to three rows: the last page is full, half full, or empty."""
    assert [row["seq"] for row in ledger.rows(after=1, limit=1)] == [2]
    assert [row["payload"] for row in ledger.rows(after=2)] == ['{"units":3}']
    all_rows = ledger.rows()
    for limit in (1, 2, 3):
        monkeypatch.setattr(ledger, "rows", partial(READ_ROWS, limit=limit))
        assert list(ledger.stored_rows()) == all_rows
        assert ledger.verify().figures["events"] == 3


def test_an_intact_ledger_passes(three_events: sqlite3.Connection) -> None:
    verdict = ledger.verify()
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("ledger", "ledger", Outcome.PASS)
    assert verdict.figures == {"events": 3, "head": ledger.events()[-1].hash, "noted": 3}
    assert "3 events form one chain" in verdict.reasons[0] and len(verdict.reasons) == 1


def test_the_head_is_noted_outside_after_every_event(home: Path) -> None:
    assert ledger.head() is None
    for number in (1, 2):
        event = ledger.append(EventKind.BATCH_RECEIVED, f"b-{number}", {})
        assert ledger.head() == (number, event.hash)
        assert (home / "ledger.head").read_text() == f"{number} {event.hash}\n"
    assert sorted(path.name for path in home.glob("ledger.head*")) == ["ledger.head"]


def test_a_later_head_of_another_process_is_kept(home: Path) -> None:
    (home / "ledger.head").write_text(f"9 {'ab' * 32}\n")
    ledger.append(EventKind.BATCH_RECEIVED, "b-1", {})
    assert ledger.head() == (9, "ab" * 32)
    assert "event 9 was noted elsewhere" in ledger.verify().reasons[0]


def test_an_empty_ledger_without_a_head_is_inconclusive(home: Path) -> None:
    assert ledger.verify().outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger SET actor = 'nobody' WHERE seq = 2",
        "DELETE FROM ledger WHERE seq = 3",
        "INSERT OR REPLACE INTO ledger SELECT seq, at, kind, subject, 'x', payload, previous, 'y' FROM ledger",
        "REPLACE INTO ledger SELECT seq + 9, at, kind, subject, 'x', payload, previous, hash FROM ledger",
        "INSERT INTO ledger SELECT * FROM ledger WHERE true ON CONFLICT (seq) DO UPDATE SET actor = 'x'",
    ],
)
def test_the_database_refuses_to_change_the_past(three_events: sqlite3.Connection, sql: str) -> None:
    before = three_events.execute("SELECT * FROM ledger").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        three_events.execute(sql)
    assert three_events.execute("SELECT * FROM ledger").fetchall() == before
    assert ledger.verify().outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("UPDATE ledger SET actor = 'nobody' WHERE seq = 2", "event 2 was changed"),
        ("UPDATE ledger SET payload = '{\"units\":9}' WHERE seq = 3", "event 3 was changed"),
        ("UPDATE ledger SET at = '2020-01-01T00:00:00Z' WHERE seq = 1", "event 1 was changed"),
        ("DELETE FROM ledger WHERE seq = 2", "event 2 is missing"),
        ("DELETE FROM ledger WHERE seq = 3", "event 3 was noted elsewhere"),
        ("DELETE FROM ledger", "event 3 was noted elsewhere"),
    ],
)
def test_a_change_without_the_triggers_is_found(three_events: sqlite3.Connection, sql: str, reason: str) -> None:
    _without_guards(three_events, sql)
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.FAIL
    assert any(reason in text for text in verdict.reasons), verdict.reasons


def test_a_middle_event_rewritten_with_its_own_new_hash_is_found(three_events: sqlite3.Connection) -> None:
    row = ledger.rows()[1] | {"payload": '{"units":9}'}
    value = hashlib.sha256(ledger.hashed_text(row).encode()).hexdigest()
    _without_guards(three_events, f"UPDATE ledger SET payload = '{row['payload']}', hash = '{value}' WHERE seq = 2")
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons == ("event 3 does not follow the event before it",)


def test_a_chain_forged_from_the_start_is_found_by_its_head(three_events: sqlite3.Connection) -> None:
    rows = ledger.rows()
    _without_guards(three_events, "DELETE FROM ledger")
    previous = ledger.GENESIS
    for row in rows:
        row |= {"actor": "forger", "previous": previous}
        row["hash"] = previous = hashlib.sha256(ledger.hashed_text(row).encode()).hexdigest()
        three_events.execute(
            f"INSERT INTO ledger ({','.join(row)}) VALUES ({','.join('?' * len(row))})", list(row.values())
        )
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.FAIL
    assert len(verdict.reasons) == 1 and "noted elsewhere" in verdict.reasons[0]


def test_a_restored_older_database_is_found(three_events: sqlite3.Connection, home: Path) -> None:
    yesterday = sqlite3.connect(":memory:")
    three_events.backup(yesterday)
    ledger.append(EventKind.PATIENT_WITHDRAWN, "P1", {})
    database.engine().dispose()
    yesterday.backup(three_events)
    assert "event 4" in ledger.verify().reasons[0]


def test_a_head_that_lags_after_a_crash_passes(three_events: sqlite3.Connection, home: Path) -> None:
    earlier_head = (home / "ledger.head").read_text()
    ledger.append(EventKind.BATCH_RECEIVED, "b-4", {})
    (home / "ledger.head").write_text(earlier_head)
    assert ledger.verify().outcome is Outcome.PASS


def test_a_removed_head_is_inconclusive_and_a_damaged_one_is_a_fault(
    three_events: sqlite3.Connection, home: Path
) -> None:
    (home / "ledger.head").write_text("damaged")
    with pytest.raises(Fault, match=r"ledger\.head is damaged"):
        ledger.verify()
    (home / "ledger.head").unlink()
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.INCONCLUSIVE and "no head is noted outside" in verdict.reasons[0]
    assert verdict.figures["noted"] is None
    three_events.execute("DROP TRIGGER ledger_no_delete")
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.FAIL and len(verdict.reasons) == 1, (
        "a certain failure comes before an open question"
    )


def test_a_missing_or_empty_trigger_is_found(three_events: sqlite3.Connection) -> None:
    three_events.execute("DROP TRIGGER ledger_no_delete")
    three_events.execute("DROP TRIGGER journal_no_update")
    three_events.execute("CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal BEGIN SELECT 1; END")
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.FAIL
    assert sorted(text.split()[2] for text in verdict.reasons) == ["journal_no_update", "ledger_no_delete"]


def test_several_processes_write_one_chain(home: Path) -> None:
    text = "from lineage.record import ledger; [ledger.append('batch.received', 'b', {'n': n}) for n in range(10)]"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", text], cwd=home.parent, env=environment) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    verdict = ledger.verify()
    assert verdict.outcome is Outcome.PASS
    assert verdict.figures["events"] == verdict.figures["noted"] == 30


def test_a_kind_is_stored_and_hashed_as_its_text(home: Path) -> None:
    event = ledger.append(EventKind.KEYS_LOST, "workspace", {})
    assert type(event.kind) is str and event.kind == "keys.lost" == ledger.rows()[0]["kind"]
    assert ledger.events(EventKind.KEYS_LOST) == [event] and ledger.verify().outcome is Outcome.PASS


def test_every_kind_has_a_description_and_a_value_of_its_own() -> None:
    assert all(kind.subject and kind.payload and "\n" not in kind.subject + kind.payload for kind in EventKind)
    assert len({str(kind) for kind in EventKind}) == len(EventKind.__members__)
