"""Fixtures of lineage: a record with one release, MLflow on SQLite, and a PostgreSQL server if it is installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineage import accounts, fingerprint, mlflow_registry, paths
from lineage.record import database, journal, ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict

TASK = "lung-ct"


def journal_row(name: str = "p-1", **overrides: object) -> journal.JournalRow:
    """A row of the journal with plausible values."""
    values: dict[str, object] = {
        "id": name,
        "at": database.now(),
        "actor": "carla",
        "release": "r-1",
        "task": TASK,
        "version": "1",
        "cluster": "P0123456789ab",
        "inputs": ["ab" * 32],
        "description": {"mean": -412.5, "kernel": "B30f"},
        "embedding": [0.5, -0.25],
        "probabilities": [0.1, 0.2, 0.7],
        "answer": "malignant",
        "score": 0.7,
        "outcome": "pass",
        "reasons": ["the probability is high enough"],
        "slices": [{"index": 0}],
        "map": "",
        "engine": {"name": "openvino", "precision": "float32"},
        "duration_ms": 3.5,
    }
    return journal.JournalRow(**(values | overrides))  # type: ignore[arg-type]


@pytest.fixture
def prediction() -> Callable[..., journal.JournalRow]:
    """A function that creates rows of the journal."""
    return journal_row


def add_verdict(gate: str, subject: str, outcome: Outcome = Outcome.PASS) -> None:
    """Record a verdict."""
    ledger.record_verdict(Verdict(gate, subject, outcome, (f"the {gate} gate has looked",)), task=TASK)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: creating one takes many seconds, copying it takes none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOLOOP_HOME", str(path.parent / "home"))
        for name, value in paths.environment().items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        mlflow_registry.versions("none")
    return path


@pytest.fixture
def mlflow_home(home: Path, empty_mlflow: Path) -> Path:
    """A state folder with an MLflow database."""
    shutil.copyfile(empty_mlflow, home / "mlflow" / "mlflow.db")
    return home


@pytest.fixture
def released(mlflow_home: Path) -> Path:
    """A batch, a version trained on it, an approval, a release and one prediction; the release's folder."""
    run_id = _finished_run(mlflow_home)
    accounts.add("erik", "engineer")
    accounts.add("carla", "clinician", actor="erik")
    ledger.append(
        EventKind.BATCH_ADMITTED, "b-1", {"task": TASK, "batch": "b-1", "data_version": "c0ffee", "units": 40}
    )
    add_verdict("data", "b-1")
    version = mlflow_registry.register(TASK, run_id, "model", {"data_version": "c0ffee"})
    ledger.append(
        EventKind.MODEL_LOGGED,
        TASK,
        {"version": version, "run_id": run_id, "data_version": "c0ffee", "lock_hash": "1", "batches": ["b-1"]},
    )
    add_verdict("training", f"{TASK}/{version}", Outcome.INCONCLUSIVE)
    ledger.append(
        EventKind.APPROVAL, f"{TASK}/{version}", {"decision": "approve", "reason": "few patients"}, actor="erik"
    )
    mlflow_registry.promote(TASK, version, {"run_id": run_id, "reason": "approved"}, actor="erik")
    manifest = paths.state_path("releases", "r-1", "manifest.json")
    manifest.write_text('{"release": "r-1"}')
    value = fingerprint.file_sha256(manifest)
    ledger.append(
        EventKind.RELEASE_BUILT, "r-1", {"bento": "oncoloop:r-1", "tasks": {TASK: version}, "manifest_sha256": value}
    )
    add_verdict("release", "r-1")
    ledger.append(EventKind.RELEASE_ACTIVATED, "r-1", {"url": "http://127.0.0.1:3001", "port": 3001}, actor="erik")
    journal.append(journal_row())
    return manifest.parent


def _finished_run(home: Path) -> str:
    """A finished run in a real MLflow on SQLite, with a model folder of one file."""
    from mlflow import MlflowClient

    client = MlflowClient()
    existing = client.get_experiment_by_name(TASK)
    experiment = existing.experiment_id if existing else client.create_experiment(TASK)
    run_id = str(client.create_run(experiment).info.run_id)
    graph = home / "graph.onnx"
    graph.write_bytes(b"graph of " + run_id.encode())
    client.log_artifact(run_id, str(graph), "model")
    client.log_metric(run_id, "auroc", 0.91)
    client.set_terminated(run_id)
    return run_id


@pytest.fixture
def run_id(mlflow_home: Path) -> str:
    """A finished run with model artefacts."""
    return _finished_run(mlflow_home)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of an empty PostgreSQL database on a separate server."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if not initdb or not server:
        pytest.skip("PostgreSQL is not installed")
    user = "postgres" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory() as temporary_folder, socket.socket() as free_socket:
        folder = Path(temporary_folder)
        if user:
            shutil.chown(folder, user)
        free_socket.bind(("127.0.0.1", 0))
        port = str(free_socket.getsockname()[1])
        free_socket.close()
        data = str(folder / "data")
        subprocess.run([initdb, "-D", data, "-A", "trust", "-U", "oncoloop", "-N"], check=True, user=user, cwd=folder)
        options = ["-k", str(folder), "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        process = subprocess.Popen([server, "-D", data, *options], user=user, cwd=folder)
        try:
            _wait_until_ready(int(port))
            yield f"postgresql://oncoloop@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: it does not wait for clients
            process.wait()


def _wait_until_ready(port: int) -> None:
    import psycopg

    for _ in range(100):
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="oncoloop", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    pytest.fail("PostgreSQL did not start")
