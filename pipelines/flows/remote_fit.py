"""Flow: one fit on a worker's machine: inputs from a workspace's git and DVC remote, result into that remote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from lineage import json_files, paths
from lineage.errors import Fault
from pipelines.flows import remote_transfer
from pipelines.workspace import stage_log
from pipelines.workspace.workspace import hold_lock

SOURCE_VARIABLE, REMOTE_VARIABLE = "ONCOLOOP_SOURCE", "ONCOLOOP_REMOTE"


@flow(name="fit")
def fit(task: str, commit: str, source: str, remote: str) -> dict[str, Any]:
    """Fit a task at a commit of a workspace. Returns device, backend, seconds, epochs and strategy of the fit.

    `source` (git) and `remote` (DVC) are addresses as seen from the workspace's machine. ONCOLOOP_SOURCE and
    ONCOLOOP_REMOTE in the worker's environment replace them.
    """
    if not os.environ.get("ONCOLOOP_HOME"):
        raise Fault("this worker does not know where to keep its state: start it with ONCOLOOP_HOME=FOLDER")
    paths.set_environment()
    logger = get_run_logger()
    source, remote = os.environ.get(SOURCE_VARIABLE) or source, os.environ.get(REMOTE_VARIABLE) or remote
    with hold_lock(f"received-{task}"):
        tree = remote_transfer.receive_fit_inputs(task, commit, source, remote)
        try:
            with stage_log.follow_log(stage_log.stage_log_path("fit", task), logger.info):
                remote_transfer.pull_or_run_fit(tree, task)
            remote_transfer.push_fit_result(tree, task)
        finally:
            remote_transfer.delete_patient_data(tree)
        report = json_files.read_json(tree / "models" / task / "fit.json")
    facts = {name: report[name] for name in ("device", "backend", "seconds", "epochs", "strategy")}
    logger.info("%s fitted on %s: %s", task, os.uname().nodename, facts)
    return facts


def send_fit(tree: Path, task: str) -> dict[str, str]:
    """Send the inputs of a fit from the workspace's side. Returns the parameters of the flow `fit`."""
    return {
        "task": task,
        "commit": remote_transfer.send_fit_inputs(tree, task),
        "source": str(Path.cwd()),
        "remote": str(paths.home() / "remote"),
    }
