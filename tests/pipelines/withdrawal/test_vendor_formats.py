"""Contracts with the files of Prefect and MLflow that a withdrawal edits, for the installed versions.

The contract with Evidently's files is in tests/monitoring/test_evidently_erasure.py.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from data.batch import withdrawn_rows
from pipelines.withdrawal import erase

PATIENT, OTHER = "P123456789abc", "Pabcdef012345"
TABLES = {"artifact": "data", "artifact_collection": "data", "log": "message"}


def sentence(vendor: str, change: str) -> str:
    """What a person reads if a contract is broken."""
    return f"{vendor} {version(vendor.lower())} {change}: change pipelines/withdrawal/erase.py and this test together"


@pytest.fixture
def targets() -> erase.ErasureTargets:
    """The erasure of one patient."""
    nothing: frozenset[str] = frozenset()
    marks = frozenset({withdrawn_rows.hash_pseudonym(PATIENT)})
    return erase.ErasureTargets(marks, nothing, nothing, nothing, frozenset({"brain-mr"}))


def test_prefect_stores_pages_and_log_lines_where_the_erasure_deletes_them(
    home: Path, targets: erase.ErasureTargets
) -> None:
    from prefect.server.database import orm_models
    from sqlalchemy import create_engine
    from sqlalchemy.schema import CreateTable

    tables = orm_models.Base.metadata.tables
    path = home / "prefect" / "prefect.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    dialect = create_engine("sqlite://").dialect
    with closing(sqlite3.connect(path)) as file:
        for table, column in TABLES.items():
            assert table in tables and {"id", column} <= set(tables[table].columns.keys()), sentence(
                "Prefect", f"has no column {column} in its table {table}"
            )
            file.execute(str(CreateTable(tables[table]).compile(dialect=dialect)))
            names = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            for number, name in enumerate((PATIENT, OTHER)):
                values = [f"row {number}" if key == "id" else f"patient {name}" for key in names]
                file.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
        file.commit()
    erase._erase_database_rows(targets)
    with closing(sqlite3.connect(path)) as file:
        for table in TABLES:
            assert file.execute(f"SELECT id FROM {table}").fetchall() == [("row 1",)], sentence(
                "Prefect", f"stores rows of {table} in another form"
            )
    assert PATIENT.encode() not in path.read_bytes() and OTHER.encode() in path.read_bytes()


def test_prefect_has_no_other_table_of_pages_or_log_lines() -> None:
    from prefect.server.database import orm_models

    tables = {name for name in orm_models.Base.metadata.tables if "artifact" in name or name.split("_")[0] == "log"}
    assert tables == set(TABLES), sentence("Prefect", f"has the tables {sorted(tables)} for pages and log lines")


def test_mlflow_stores_artifacts_as_plain_files_where_the_erasure_deletes_them(
    home: Path, targets: erase.ErasureTargets, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    for name, text in (("metrics.json", '{"task": "brain-mr"}'), ("errors.png", "slices of patients")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    client = MlflowClient()
    run_id = client.create_run(client.create_experiment("brain-mr")).info.run_id
    client.log_artifact(run_id, str(tmp_path / "metrics.json"), "model")
    client.log_artifact(run_id, str(tmp_path / "errors.png"), "plots")
    files = {
        str(path.relative_to(path.parents[1])): path
        for path in (home / "mlflow" / "artifacts").rglob("*")
        if path.is_file()
    }
    assert set(files) == {"model/metrics.json", "plots/errors.png"}, sentence(
        "MLflow", "does not store the artifacts of a run as plain files in the folders of their names"
    )
    assert files["model/metrics.json"].parents[1] == files["plots/errors.png"].parents[1], sentence(
        "MLflow", "stores the artifacts of one run in several folders"
    )
    erase._erase_artefacts(targets)
    shown = {artifact.path for artifact in client.list_artifacts(run_id, "plots")}
    assert shown == {"plots/errors.txt"}, sentence("MLflow", "does not list an artifact that was replaced on disk")
