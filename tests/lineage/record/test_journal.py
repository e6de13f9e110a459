"""The journal stores each prediction once and unchanged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from lineage import accounts
from lineage.errors import Fault
from lineage.fingerprint import hash_pseudonym
from lineage.record import journal
from tests.lineage.conftest import TASK

Prediction = Callable[..., journal.JournalRow]


def test_a_prediction_is_read_as_it_was_written(home: Path, prediction: Prediction) -> None:
    row = prediction()
    journal.append(row)
    assert journal.get("p-1") == replace(row, cluster=hash_pseudonym(row.cluster))
    assert journal.count() == 1


def test_only_the_hash_of_the_pseudonym_is_stored(home: Path, prediction: Prediction) -> None:
    for name, cluster in (("p-1", "P0123456789ab"), ("p-2", "P0123456789ab"), ("p-3", "P00000000000f"), ("p-4", "")):
        journal.append(prediction(name, cluster=cluster))
    hashes = journal.rows()["cluster"].tolist()
    assert hashes[0] == hashes[1] != hashes[2] and hashes[3] == "" and all(len(value) == 64 for value in hashes[:3])
    assert journal.predictions("P0123456789ab") == [{"id": "p-1", "task": TASK}, {"id": "p-2", "task": TASK}]
    assert journal.predictions("P999999999999") == []
    assert b"P0123456789ab" not in b"".join(path.read_bytes() for path in home.glob("oncoloop.db*"))


def test_a_withheld_answer_is_a_row_too(home: Path, prediction: Prediction) -> None:
    journal.append(prediction(answer=None, score=None, outcome="inconclusive", reasons=["wrong body part"]))
    row = journal.get("p-1")
    assert row.answer is None and row.score is None and row.reasons == ["wrong body part"]


def test_numpy_numbers_are_stored_as_numbers(home: Path, prediction: Prediction) -> None:
    journal.append(prediction(embedding=np.ones(2, np.float32), score=np.float32(0.5), description={"mean": np.nan}))
    assert journal.get("p-1").embedding == [1.0, 1.0]
    assert journal.get("p-1").description == {"mean": None}


def test_an_unknown_prediction_is_a_fault(home: Path) -> None:
    with pytest.raises(Fault, match="'p-9'"):
        journal.get("p-9")


def test_a_window_is_a_table_with_the_description_in_columns(home: Path, prediction: Prediction) -> None:
    for hour in range(4):
        journal.append(
            prediction(
                f"p-{hour}",
                at=f"2026-01-31T0{hour}:00:00Z",
                task="lung-ct" if hour else "brain-mr",
                release=f"r-{hour % 2}",
            )
        )
    table = journal.rows(task="lung-ct", since="2026-01-31T02:00:00Z", until="2026-01-31T03:00:00Z")
    assert list(table["id"]) == ["p-2"]
    assert table["d_mean"][0] == -412.5 and table["d_kernel"][0] == "B30f"
    assert table["embedding"][0].dtype == np.float32 and table["embedding"][0].shape == (2,)
    assert table["probabilities"][0].tolist() == [0.1, 0.2, 0.7]
    assert "description" not in table and "number" not in table
    assert list(journal.rows(release="r-1")["id"]) == ["p-1", "p-3"]
    assert list(journal.rows(limit=2)["id"]) == ["p-2", "p-3"], "the newest, oldest first"


def test_an_empty_window_has_its_columns(home: Path) -> None:
    table = journal.rows(task="lung-ct")
    assert len(table) == 0 and {"id", "at", "score", "embedding"} <= set(table.columns)


def test_one_prediction_is_written_once(home: Path, prediction: Prediction) -> None:
    journal.append(prediction())
    with pytest.raises(Fault, match="append-only"):
        journal.append(prediction(answer="benign"))
    assert journal.count() == 1 and journal.get("p-1").answer == "malignant"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE journal SET answer = 'benign'",
        "DELETE FROM journal",
        "INSERT OR REPLACE INTO journal SELECT * FROM journal",
        "REPLACE INTO journal SELECT number + 1, id, at, actor, release, task, version, cluster, inputs, description,"
        " embedding, probabilities, 'benign', score, outcome, reasons, slices, map, engine, duration_ms, shadows"
        " FROM journal",
    ],
)
def test_the_database_refuses_to_change_an_answer(home: Path, sql: str, prediction: Prediction) -> None:
    journal.append(prediction())
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        sqlite3.connect(home / "oncoloop.db").execute(sql)
    assert journal.get("p-1").answer == "malignant"


def test_a_missing_journal_table_is_a_fault(home: Path, prediction: Prediction) -> None:
    connection = sqlite3.connect(home / "oncoloop.db")
    connection.execute("DROP TABLE journal")
    connection.commit()
    with pytest.raises(Fault, match="journal"):
        journal.append(prediction())


def test_a_retry_keeps_the_first_row(home: Path, prediction: Prediction) -> None:
    assert journal.append(prediction(answer="malignant"), again=True)
    assert not journal.append(prediction(answer="benign"), again=True)
    assert journal.get("p-1").answer == "malignant" and journal.count() == 1


def test_retries_do_not_affect_other_rows_of_the_same_transaction(home: Path, prediction: Prediction) -> None:
    for name in ("p-0", "p-1", "p-2"):
        journal.append(prediction(name))
    names = [f"p-{number % 12}" for number in range(48)]  # each four times; the first three exist already
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda name: (name, journal.append(prediction(name), again=True)), names))
    assert sorted(name for name, written in results if written) == sorted(f"p-{number}" for number in range(3, 12))
    assert journal.count() == 12


def test_answers_of_shadows_are_read_separately(home: Path, prediction: Prediction) -> None:
    journal.append(prediction("p-1"))
    journal.append(prediction("p-2", actor=accounts.SHADOW_ACCOUNT, shadows="p-1"))
    assert journal.count() == 1 and list(journal.rows()["id"]) == ["p-1"]
    assert list(journal.rows(shadows=True)["shadows"]) == ["p-1"]
    assert [row["id"] for row in journal.predictions("P0123456789ab")] == ["p-1", "p-2"], "a withdrawal needs both"


def test_a_row_without_the_shadows_column_can_be_inserted(home: Path, prediction: Prediction) -> None:
    row = {name: value for name, value in asdict(prediction()).items() if name != "shadows"}
    row = {name: json.dumps(value) if name in journal.JSON_COLUMNS else value for name, value in row.items()}
    columns = ", ".join(f'"{name}"' for name in row)
    connection = sqlite3.connect(home / "oncoloop.db")
    connection.execute(f"INSERT INTO journal ({columns}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
    connection.commit()
    assert journal.get("p-1").shadows == ""
