"""Warm fits in the loop: the champion is pinned automatically, its weights are copied, the record names it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.phantom import batch, scanner
from lineage import mlflow_registry
from lineage.fingerprint import file_sha256
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params, warm_start_pins
from pipelines.flows import retrain, retrain_plan
from pipelines.models import promote, reproduce
from pipelines.workspace import dvc, git
from tests.pipelines.admissions import new_workspace_in, run_admission

TASK = "brain-mr"
QUICK = (("epochs: 30", "epochs: 1"), ("bootstrap: 2000", "bootstrap: 200"), ("size: 128", "size: 32"))


@pytest.fixture(scope="module")
def warm_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with quick settings, a champion fitted in full, and a version fitted warm on new data."""
    with new_workspace_in(tmp_path_factory.mktemp("warm") / "ward") as folder:
        change_settings(*QUICK)
        admit("first", 60)
        assert fit_and_log() == "1"
        promote.promote_version(TASK, "1", "system", "the first model")
        change_settings(("strategy: full", "strategy: warm"), ("learning_rate: 0.0005", "learning_rate: 0.0001"))
        admit("second", 61)
        assert f"fit@{TASK}" in retrain_plan.pending_work(TASK) and fit_and_log() == "2"
        yield folder


def change_settings(*changes: tuple[str, str]) -> None:
    """Change the workspace's params.yaml."""
    path = Path(params.NAME)
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def admit(name: str, seed: int) -> None:
    task = params.load().tasks[TASK]
    batch.write_batch(Path("inbox", name), task, 24, scanner.SCANNERS["alder-mr"], seed, 2)
    run_admission(name)


def fit_and_log() -> str:
    """Run a retraining up to the gate; return the version."""
    tree = retrain_plan.pin_worktree()
    for stage in dvc.STAGES:
        dvc.reproduce(tree, stage, TASK)
    version = dvc.commit_products(tree, Path.cwd(), "Retrain")
    model_version, _ = retrain.register_challenger(tree, TASK, version, "a test")
    ledger.append(
        EventKind.VERDICT,
        f"{TASK}/{model_version}",
        {"gate": "training", "outcome": "inconclusive", "reasons": ["a test"], "figures": {}, "thresholds": {}},
    )
    return model_version


def pin_of(version: str) -> dict[str, str]:
    return {"version": version, "sha256": file_sha256(mlflow_registry.download(TASK, version) / "weights.weights.h5")}


def test_the_record_names_the_parent_that_the_loop_pinned(warm_workspace: Path) -> None:
    first, second = (event.payload for event in ledger.events(EventKind.MODEL_LOGGED, TASK))
    parent = pin_of("1")
    assert "parent" not in first, "a first model has no parent"
    assert (second["version"], second["parent"], second["parent_sha256"]) == ("2", f"{TASK}/1", parent["sha256"])
    assert mlflow_registry.tags(TASK, "2")["parent"] == f"{TASK}/1"
    reports = [json.loads((mlflow_registry.download(TASK, version) / "fit.json").read_text()) for version in "12"]
    assert [report["strategy"] for report in reports] == ["full", "warm"]
    assert [report["parent_sha256"] for report in reports] == [None, parent["sha256"]]
    committed_pins = json.loads(git.committed_text(warm_start_pins.PINS))
    assert committed_pins == dict.fromkeys(params.load().tasks) | {TASK: parent}
    assert dvc.locked_stages(warm_workspace)[f"fit@{TASK}"]["params"][warm_start_pins.PINS] == {TASK: parent}, (
        "the pin is an input of the stage"
    )


@pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="runs all three stages again, for a minute")
def test_a_warm_version_is_reproduced_from_its_parent(warm_workspace: Path) -> None:
    assert warm_workspace.is_dir()
    result = reproduce.reproduce(TASK, "2")
    assert result["same"] and (Path(result["folder"]) / "parents" / TASK / "fit.json").is_file()


def test_the_pin_moves_with_new_data_and_not_with_a_promotion(warm_workspace: Path) -> None:
    assert warm_workspace.is_dir()
    promote.promote_version(TASK, "2", "system", "better")
    assert not [stage for stage in retrain_plan.pending_work(TASK) if stage != "release"], (
        "a promotion alone asks for no further fit"
    )
    assert warm_start_pins.pin_of_task(retrain_plan.pin_worktree(), TASK) == pin_of("1")
    admit("third", 62)
    retrain_plan.pin_worktree()
    tree = retrain_plan.pin_worktree()
    assert warm_start_pins.pin_of_task(tree, TASK) == pin_of("2"), (
        "with new data, the pin moves to the current champion"
    )
    assert file_sha256(tree / "parents" / TASK / "weights.weights.h5") == pin_of("2")["sha256"]
    ledger.append(
        EventKind.PATIENT_WITHDRAWN, "ab" * 32, {"models": [f"{TASK}/2"], "begun": 0, "tasks": [], "ancestors": []}
    )
    assert warm_start_pins.pin_of_task(retrain_plan.pin_worktree(), TASK) is None, (
        "a version trained on a withdrawn patient is no parent"
    )
    change_settings(("strategy: warm", "strategy: full"))
    assert warm_start_pins.pin_of_task(retrain_plan.pin_worktree(), TASK) is None
    assert dvc.recover(warm_workspace) == []
