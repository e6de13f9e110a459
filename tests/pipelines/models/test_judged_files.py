"""Only judged files are released: a file that was replaced after the verdict is refused by name at every step."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from prefect.logging import disable_run_logger

from lineage import current_state, mlflow_registry, model_files
from lineage.errors import Fault
from lineage.fingerprint import file_sha256, hash_folder
from lineage.record import database, ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.commands import predictions
from pipelines.flows import retrain, watch
from pipelines.models import promote, release, shadow
from pipelines.recovery import verify_workspace
from serving.bundle import bento_server
from serving.inference import release_integrity
from serving.inference.release import load_release
from tests.pipelines import small_workspace
from tests.pipelines.small_workspace import TASK
from training import mlflow_runs


@pytest.fixture(scope="module")
def workspace_folder(small_ward: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the workspace that each test replaces. Working folder and environment are restored at the end."""
    folder, previous_folder = tmp_path_factory.mktemp("judged") / "ward", Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ONCOLOOP_HOME", "ONCOLOOP_DATABASE_URL"):
            patch.delenv(name, raising=False)
        environment = dict(os.environ)
        small_workspace.enter(small_workspace.move(small_ward, folder))
        yield folder
        os.chdir(previous_folder)
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture
def workspace(workspace_folder: Path, small_ward: Path) -> Path:
    """The workspace whose model waits for approval."""
    return enter_fresh_copy(workspace_folder, small_ward)


def enter_fresh_copy(folder: Path, source: Path) -> Path:
    os.chdir(folder.parent)
    database.engine().dispose()
    shutil.rmtree(folder)
    small_workspace.enter(small_workspace.move(source, folder))
    return folder


def artifact(workspace: Path, name: str) -> Path:
    """A file of the judged run, at the place where MLflow's server would store an upload of that name."""
    return next((workspace / "var/mlflow/artifacts").rglob(f"model/{name}"))


def replace_graph(workspace: Path) -> None:
    """Another graph of the same shape: it answers, and would pass the check of a release."""
    path = artifact(workspace, "graph.onnx")
    model = onnx.load(path)
    model.doc_string = "another one"
    onnx.save(model, path)


def lower_threshold(workspace: Path) -> None:
    path = artifact(workspace, "calibration.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 0.01}))


def shift_reference(workspace: Path) -> None:
    path = artifact(workspace, "reference.npz")
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    np.savez(path, **arrays | {"scale": arrays["scale"] * 100})


def rewrite_metrics(workspace: Path) -> None:
    path = artifact(workspace, "metrics.json")
    path.write_text(path.read_text() + "\n")


def lose_head(workspace: Path) -> None:
    artifact(workspace, "head.npz").unlink()


CHANGES = {
    "graph.onnx": replace_graph,
    "calibration.json": lower_threshold,
    "reference.npz": shift_reference,
    "metrics.json": rewrite_metrics,
    "head.npz": lose_head,
}


def test_the_ledger_holds_the_hash_of_every_judged_file(workspace: Path) -> None:
    recorded = ledger.events(EventKind.MODEL_FILES, f"{TASK}/1")[-1]
    assert set(recorded.payload["files"]) == set(mlflow_runs.MODEL_FILES)
    assert recorded.seq < ledger.events(EventKind.VERDICT, f"{TASK}/1")[0].seq, "hashed first, then judged"
    for name, value in recorded.payload["files"].items():
        assert file_sha256(artifact(workspace, name)) == value == file_sha256(next(Path("var/worktree").rglob(name)))


@pytest.mark.parametrize("name", CHANGES)
def test_an_exchanged_file_is_not_approved(workspace: Path, name: str) -> None:
    CHANGES[name](workspace)
    with pytest.raises(Fault, match=rf"{TASK}/1: {name} in MLflow is not the file that the training gate judged"):
        promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
    assert not ledger.events(EventKind.APPROVAL) and not ledger.events(EventKind.MODEL_PROMOTED)
    verdict = verify_workspace.verify()
    assert verdict.outcome.value == "fail" and f"{TASK}/1: {name} in MLflow" in "\n".join(verdict.reasons)


def test_a_version_without_its_files_does_not_become_champion(workspace: Path) -> None:
    folder = artifact(workspace, "graph.onnx").parent
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(Fault, match=rf"the artefacts of {TASK}/1 are not at {folder}"):
        promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
    assert not ledger.events(EventKind.APPROVAL) and not ledger.events(EventKind.MODEL_PROMOTED)


def test_an_approval_that_was_interrupted_before_its_release_can_be_repeated(workspace: Path) -> None:
    promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
    promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
    assert len(ledger.events(EventKind.APPROVAL)) == 2 and len(ledger.events(EventKind.MODEL_PROMOTED)) == 1
    assert promote.is_release_pending()


def log_second_run(workspace: Path) -> str:
    """Log a run with the same files as the first one, with replaced ones among them. Returns its id."""
    from mlflow import MlflowClient

    client = MlflowClient()
    run_id = client.create_run(client.get_experiment_by_name(TASK).experiment_id).info.run_id
    client.log_artifacts(run_id, str(artifact(workspace, "metrics.json").parent), "model")
    return str(run_id)


@pytest.mark.parametrize("name", ["graph.onnx", "calibration.json", "reference.npz"])
def test_an_exchanged_file_of_a_champion_is_not_used(workspace: Path, name: str) -> None:
    """Replaced after the approval: no release or shadow is built with it, no challenger or window compared with it."""
    promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
    CHANGES[name](workspace)
    second = mlflow_registry.register(TASK, log_second_run(workspace), "model", {})
    model_files.record_hashes(TASK, second, model_files.recorded_hashes(TASK, "1") or {}, "a test")
    ledger.append(EventKind.VERDICT, f"{TASK}/{second}", ledger.events(EventKind.VERDICT, f"{TASK}/1")[0].payload)
    uses: list[Callable[[], object]] = [
        promote.release_champions,
        lambda: retrain.judge_version(Path("var/worktree"), TASK, second),
        lambda: watch.examine_window.fn(TASK),
        lambda: shadow.start(TASK, second, "system"),
    ]
    for use in uses:
        with pytest.raises(Fault, match=rf"{TASK}/[12]: {name} in MLflow is not"), disable_run_logger():
            use()
    assert not ledger.events(EventKind.RELEASE_BUILT) and not ledger.events(EventKind.SHADOW_STARTED)


@pytest.fixture(scope="module")
def released_copy(workspace_folder: Path, small_ward: Path) -> Path:
    """A copy of the workspace with its model released and checked by the real server."""
    enter_fresh_copy(workspace_folder, small_ward)
    promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
    assert promote.release_champions()
    database.engine().dispose()
    copy = workspace_folder.with_name("released")
    shutil.copytree(workspace_folder, copy, symlinks=True)
    return copy


@pytest.fixture
def released_workspace(workspace_folder: Path, released_copy: Path) -> Path:
    return enter_fresh_copy(workspace_folder, released_copy)


def release_folders(workspace: Path) -> tuple[str, Path, Path]:
    """The name of the release, its folder, and its copy in the Bento."""
    name = str(ledger.events(EventKind.RELEASE_BUILT)[-1].subject)
    return name, workspace / "var/releases" / name, workspace / "var/bentoml/bentos/oncoloop" / name / "src/release"


def test_an_unchanged_release_passes_the_verification(released_workspace: Path) -> None:
    name, folder, packed = release_folders(released_workspace)
    assert (
        current_state.release_to_serve() is not None and load_release(folder).name == load_release(packed).name == name
    )
    verdict = verify_workspace.verify()
    assert verdict.outcome.value == "pass", verdict.reasons
    with np.load(folder / TASK / "reference.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"centre", "scale", "distances"}, "a release names no patient"


@pytest.mark.parametrize("file", [f"{TASK}/graph.onnx", f"{TASK}/head.npz", f"{TASK}/reference.npz", "manifest.json"])
def test_a_changed_release_gives_no_answer(released_workspace: Path, file: str) -> None:
    _, folder, packed = release_folders(released_workspace)
    for place in (folder, packed):
        content = (place / file).read_bytes()
        (place / file).write_bytes(
            content.replace(b'"threshold"', b'"threshold" ') + (b"\n" if "npz" not in file else b"0")
        )
    for place in (folder, packed):
        with pytest.raises(Fault, match=file):
            load_release(place)
    sample = next((released_workspace / "inbox/first").glob("*.dcm"), None) or next(
        (released_workspace / "inbox/first").glob("scan*")
    )
    with pytest.raises(Fault, match=file):
        predictions.predict(argparse.Namespace(files=[sample], task=TASK))
    verdict = verify_workspace.verify()
    assert verdict.outcome.value == "fail" and file in "\n".join(verdict.reasons)


@pytest.mark.parametrize(
    "file", ["release/{task}/graph.onnx", "serving/inference/gate.py", "../bento.yaml", "serving/added.py"]
)
def test_a_bento_that_was_changed_in_the_store_does_not_start(released_workspace: Path, file: str) -> None:
    name, _, packed = release_folders(released_workspace)
    path = packed.parent / file.format(task=TASK)
    path.write_bytes((path.read_bytes() if path.is_file() else b"") + b"\n")
    server = bento_server.start(f"oncoloop:{name}", workers=1)
    try:
        with pytest.raises(Fault, match=rf"oncoloop:{name}: .*{path.name} "):
            bento_server.wait_ready(server.url, 60, server)
    finally:
        server.stop()
    verdict = verify_workspace.verify()
    assert verdict.outcome.value == "fail" and path.name in "\n".join(verdict.reasons)


def test_compiled_files_in_a_bento_are_deleted_and_not_run(released_workspace: Path) -> None:
    name, _, packed = release_folders(released_workspace)
    cache = packed.parent / "serving/__pycache__"
    cache.mkdir()
    (cache / "gate.cpython-311.pyc").write_bytes(b"something else")
    before = hash_folder(release_integrity.bento_folder(f"oncoloop:{name}"))
    server = bento_server.start(f"oncoloop:{name}", workers=1)
    try:
        bento_server.wait_ready(server.url, 120, server)
    finally:
        server.stop()
    assert not cache.exists() and hash_folder(release_integrity.bento_folder(f"oncoloop:{name}")) == before


def test_building_a_release_again_over_changed_files_is_refused(released_workspace: Path) -> None:
    """The state after a kill between folder and ledger entry: the folder exists, and somebody has changed it."""
    _, folder, packed = release_folders(released_workspace)
    shutil.rmtree(packed.parents[1])
    path = folder / TASK / "head.npz"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(Fault, match=r"head\.npz differs"):
        release.build(params.load(), promote.champions())
    assert current_state.roles(TASK)["champion"] == "1"
