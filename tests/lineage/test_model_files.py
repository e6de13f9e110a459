"""A version's files are compared with the hashes in the ledger; for old versions they are recorded once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from lineage import mlflow_registry, model_files, paths
from lineage.errors import Fault
from lineage.fingerprint import file_sha256, text_sha256
from lineage.record import ledger
from lineage.record.events import EventKind

TASK = "lung-ct"


@pytest.fixture
def version(run_id: str) -> str:
    """A registered version with a graph."""
    return mlflow_registry.register(TASK, run_id, "model", {})


def upload(run_id: str, name: str, text: str) -> None:
    """Upload a file as anybody with access to MLflow's server can."""
    from mlflow import MlflowClient

    MlflowClient().log_text(run_id, text, f"model/{name}")


def add_verdict(version: str) -> None:
    ledger.append(
        EventKind.VERDICT, f"{TASK}/{version}", {"gate": "training", "outcome": "pass", "reasons": ["a test"]}
    )


def test_a_replaced_or_missing_file_is_named(version: str, run_id: str, home: Path) -> None:
    graph = next((home / "mlflow/artifacts").rglob("graph.onnx"))
    model_files.record_hashes(TASK, version, {"graph.onnx": file_sha256(graph)}, "a test")
    assert (mlflow_registry.download(TASK, version) / "graph.onnx").is_file()
    assert mlflow_registry.changed_artifacts(TASK, version) == {}
    upload(run_id, "graph.onnx", "another graph")
    for use in (mlflow_registry.download, mlflow_registry.check_artifacts):
        with pytest.raises(Fault, match=r"lung-ct/1: graph\.onnx in MLflow is not the file .*its SHA-256 is"):
            use(TASK, version)
    assert mlflow_registry.changed_artifacts(TASK, version) == {"graph.onnx": text_sha256("another graph")}
    graph.unlink()
    with pytest.raises(Fault, match=r"graph\.onnx in MLflow is not the file .*it is missing"):
        mlflow_registry.check_artifacts(TASK, version)
    assert mlflow_registry.changed_artifacts(TASK, version) == {"graph.onnx": None}
    assert not list(home.glob("tmp*")), "the comparison leaves no temporary files"


def test_hashes_are_recorded_once_and_the_newest_count(home: Path) -> None:
    assert model_files.recorded_hashes(TASK, "1") is None
    for hashes in ({"a": "1"}, {"a": "1"}, {"a": "2"}):
        model_files.record_hashes(TASK, "1", hashes, "a test")
    assert model_files.recorded_hashes(TASK, "1") == {"a": "2"} and len(ledger.events(EventKind.MODEL_FILES)) == 2


def test_a_version_that_was_judged_before_gets_its_hashes_at_the_next_use(
    version: str, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow_registry.download(TASK, version)
    assert model_files.recorded_hashes(TASK, version) is None, "a version without a verdict has no hashes"
    add_verdict(version)
    with caplog.at_level(logging.WARNING):
        mlflow_registry.check_artifacts(TASK, version)
    assert "lung-ct/1 was judged before the hashes of its files were recorded" in caplog.text
    assert set(model_files.recorded_hashes(TASK, version) or {}) == {"graph.onnx"}
    upload(run_id, "graph.onnx", "another graph")
    with pytest.raises(Fault, match=r"graph\.onnx in MLflow is not the file"):
        mlflow_registry.download(TASK, version)


@pytest.mark.parametrize("exchanged", ["graph.onnx", "calibration.json"])
def test_an_old_version_is_compared_with_its_release(version: str, run_id: str, exchanged: str) -> None:
    upload(run_id, "graph.onnx", "the graph")
    upload(run_id, "calibration.json", json.dumps({"temperature": 1.5, "threshold": 0.4}))
    facts = {"hashes": {"graph": text_sha256("the graph")}, "temperature": 1.5, "threshold": 0.4, "version": version}
    manifest = paths.state_path("releases", "r-1", "manifest.json")
    manifest.write_text(json.dumps({"release": "r-1", "tasks": {TASK: facts}}))
    ledger.append(EventKind.RELEASE_BUILT, "r-1", {"tasks": {TASK: version}, "manifest_sha256": file_sha256(manifest)})
    add_verdict(version)
    upload(run_id, exchanged, json.dumps({"temperature": 1.5, "threshold": 0.01}))
    with pytest.raises(Fault, match=rf"lung-ct/1: {exchanged} in MLflow is not that of release r-1"):
        mlflow_registry.download(TASK, version)
    assert model_files.recorded_hashes(TASK, version) is None
