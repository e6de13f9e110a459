"""A workspace made at commit 892c01b still works: it is entered, gets batches, is verified and rechecked."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
import yaml
from prefect.logging import disable_run_logger

from data.batch import manifest as batch_manifest
from data.core_types import SOURCE_COLUMNS
from data.patients import contradictions
from data.phantom import batch as phantom_batch
from data.phantom import scanner as phantom_scanner
from lineage import current_state, mlflow_registry, model_files
from lineage.errors import Fault
from lineage.record import database, ledger
from lineage.record.verdict import Outcome, Verdict
from pipelines import params
from pipelines.commands import ingest as commands_ingest
from pipelines.flows import ingest, retrain_plan
from pipelines.models import promote
from pipelines.recovery import interrupted_runs, verify_workspace
from pipelines.workspace import dvc, git, relocation
from pipelines.workspace import workspace as workspaces
from tests.pipelines.admissions import run_admission

TASK = "brain-mr"
NEW_COLUMNS = ("outlined", *contradictions.SIGNS, "image_type", "field_of_view", "corner_mean", *SOURCE_COLUMNS)
NEW_KEYS = ("field_of_view", "mask", "lesion_free")  # of a task in params.yaml


def admit_with_old_columns(name: str) -> None:
    """Admit a batch with the manifest columns of that version."""
    interrupted_runs.recover_workspace()
    batch = ingest.unjudged_batches(Path("inbox", name))[0]
    arrived = ingest.record_arrival(batch)
    manifest = batch_manifest.index_incoming(batch, ingest.staging_folder(batch.name)).manifest
    ingest.admit_batch.fn(batch, manifest.drop(columns=list(NEW_COLUMNS)), arrived)


@pytest.fixture
def old_workspace(workspace: Path) -> Path:
    """The files of that version: settings without newer keys, full paths in DVC's settings, no record of the folder."""
    record = params.raw()
    for task in record["tasks"].values():
        for key in NEW_KEYS:
            task.pop(key, None)
    record["prepare"] = {}
    (workspace / params.NAME).write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    stages = (workspace / "dvc.yaml").read_text(encoding="utf-8")
    own_settings = "    params:\n      - tasks.${item.task}\n"  # of the stage prepare, which comes first
    (workspace / "dvc.yaml").write_text(stages.replace(own_settings, f"{own_settings}      - prepare\n", 1))
    git.commit([params.NAME, "dvc.yaml"], "Settings as they were")
    task, scanner = params.load().tasks[TASK], phantom_scanner.SCANNERS["alder-mr"]
    phantom_batch.write_batch(Path("inbox/first"), task, 3, scanner, 40, 1, masks=True)
    phantom_batch.write_batch(Path("inbox/second"), task, 6, scanner, 41, 1)
    admit_with_old_columns("first")
    (workspace / "var" / relocation.PATH_RECORD).unlink()
    (workspace / ".dvc/config.local").write_text(
        f'[cache]\n    dir = {workspace}/var/cache\n    type = "reflink,hardlink,copy"\n'
        f"['remote \"local\"']\n    url = {workspace}/var/remote\n",
        encoding="utf-8",
    )
    database.engine().dispose()
    return workspace


def test_an_old_workspace_works_in_its_folder(old_workspace: Path) -> None:
    workspaces.enter(old_workspace)
    run_admission("second")
    verdict = verify_workspace.verify(full=True)
    assert verdict.outcome.value == "pass", verdict.reasons
    assert git.batches_of("HEAD") == {f"{TASK}/first", f"{TASK}/second"}
    assert (old_workspace / "var" / relocation.PATH_RECORD).read_text().strip() == str(old_workspace)
    assert str(old_workspace) not in (old_workspace / ".dvc/config.local").read_text()


def test_old_batches_are_compared_with_a_new_one(old_workspace: Path) -> None:
    """The gate finds a copy of an old scan. Then both batches pass today's checks."""
    workspaces.enter(old_workspace)
    rows = [line.split(",") for line in Path("inbox/first/metadata.csv").read_text().splitlines()]
    shutil.copyfile(Path("inbox/first", rows[1][0]), Path("inbox/second", rows[1][0]))
    interrupted_runs.recover_workspace()
    batch = ingest.unjudged_batches(Path("inbox/second"))[0]
    arrived = ingest.record_arrival(batch)
    with disable_run_logger():
        verdict, manifest, _ = ingest.examine_batch.fn(batch)
    assert verdict.outcome.value == "pass" and verdict.figures["leakage"]["exact_copies"] == 1, verdict
    ingest.admit_batch.fn(batch, manifest, arrived)
    assert verify_workspace.verify().outcome.value == "pass"
    result = commands_ingest.data(argparse.Namespace(action="recheck", versions=[TASK]))
    assert result.result["batches"] == [f"{TASK}/first", f"{TASK}/second"]
    assert (result.code, result.result["harmed"]) == (0, []), result.text


def test_the_obsolete_section_of_its_stage_prepare_stays_an_input(old_workspace: Path) -> None:
    workspaces.enter(old_workspace)
    tree = retrain_plan.pin_worktree()
    assert dvc.reproduce(tree, "prepare", TASK) and not dvc.reproduce(tree, "prepare", TASK)
    assert dvc.locked_stages(tree)[f"prepare@{TASK}"]["params"]["params.yaml"]["prepare"] == {}


def test_the_file_hashes_of_an_old_version_are_recorded_at_its_approval(old_workspace: Path) -> None:
    """The ledger has no hashes of an old version: they are recorded at the approval and checked afterwards."""
    from mlflow import MlflowClient

    workspaces.enter(old_workspace)
    client = MlflowClient()
    run_id = client.create_run(client.create_experiment(TASK)).info.run_id
    client.log_text(run_id, "a graph", "model/graph.onnx")
    mlflow_registry.register(TASK, run_id, "model", {"data_version": git.head()})
    ledger.record_verdict(Verdict("training", f"{TASK}/1", Outcome.INCONCLUSIVE, ("few patients",)))
    promote.carry_out_decision(promote.approve(TASK, "1", "system", "read"))
    assert current_state.roles(TASK)["champion"] == "1" and set(model_files.recorded_hashes(TASK, "1") or {}) == {
        "graph.onnx"
    }
    client.log_text(run_id, "another graph", "model/graph.onnx")
    with pytest.raises(Fault, match=f"{TASK}/1: graph.onnx in MLflow is not the file"):
        mlflow_registry.download(TASK, "1")
