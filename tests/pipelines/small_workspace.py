"""A small workspace whose first model waits for approval: made in a minute, complete enough to be served."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from sqlalchemy import Engine

from data.phantom import batch, scanner
from lineage import paths
from lineage.record import database
from pipelines import params
from pipelines.flows import artifacts, retrain, retrain_plan
from pipelines.workspace import dvc
from pipelines.workspace import workspace as workspaces
from tests.pipelines.admissions import new_workspace_in, run_admission

TASK = "brain-mr"
QUICK = (("epochs: 30", "epochs: 2"), ("bootstrap: 2000", "bootstrap: 200"), ("size: 128", "size: 32"))
# so short a fit learns nothing: the gate must not fail, because a failed version cannot be approved
LENIENT = (
    ("floor_auroc: 0.60", "floor_auroc: 0.0"),
    ("floor_sensitivity: 0.50", "floor_sensitivity: 0.0"),
    ("floor_coverage: 0.50", "floor_coverage: 0.0"),
    ("room_baseline: 0.03", "room_baseline: 1.0"),
    ("margin_baseline: 0.05", "margin_baseline: 1.0"),
    ("min_clusters: 10", "min_clusters: 90"),
)


def make(folder: Path) -> Path:
    """Make a workspace with one batch and one short fit, judged by the real gate."""
    with new_workspace_in(folder):
        path = Path(params.NAME)
        text = path.read_text(encoding="utf-8")
        for old, new in (*QUICK, *LENIENT):
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        batch.write_batch(Path("inbox/first"), params.load().tasks[TASK], 24, scanner.SCANNERS["alder-mr"], 60, 2)
        run_admission("first")
        tree = retrain_plan.pin_worktree()
        for stage in dvc.STAGES:
            dvc.reproduce(tree, stage, TASK)
        version = dvc.commit_products(tree, Path.cwd(), "Retrain")
        with pytest.MonkeyPatch.context() as patch, disable_run_logger():
            patch.setattr(artifacts, "publish_verdict", lambda *_: None)  # Prefect's page would start a server
            entry = retrain.judge_challenger.fn(str(tree), TASK, version, "a test")
        assert entry["decision"] == "waiting for approval", entry
        database.engine().dispose()
    return folder


def enter(folder: Path) -> None:
    """Enter a workspace like a command in a new process, without a workspace in the environment."""
    for name in (*paths.FOLDERS, "MLFLOW_TRACKING_URI", "ONCOLOOP_HOME"):
        os.environ.pop(name, None)
    for engine in [candidate for candidate in gc.get_objects() if isinstance(candidate, Engine)]:
        engine.dispose()  # ours and MLflow's, whose files may have been replaced
    workspaces.enter(folder)


def move(source: Path, folder: Path) -> Path:
    """Copy a workspace to a folder."""
    shutil.copytree(source, folder, symlinks=True)
    return folder
