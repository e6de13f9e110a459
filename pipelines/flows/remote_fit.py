"""Flow: one fit on the machine of a worker, from a workspace's git and DVC remote, its result back into that remote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from lineage import json_files, paths
from lineage.errors import Fault
from pipelines.flows import remote_transfer
from pipelines.workspace import stage_log
from pipelines.workspace.workspace import alone

SOURCE, REMOTE = "ONCOLOOP_SOURCE", "ONCOLOOP_REMOTE"


@flow(name="fit")
def fit(task: str, commit: str, source: str, remote: str) -> dict[str, Any]:
    """Fit a task as a workspace's commit says. `source` (git) and `remote` (DVC) are addresses as the workspace's
    machine knows them; the worker's environment may name others: ONCOLOOP_SOURCE, ONCOLOOP_REMOTE."""
    if not os.environ.get("ONCOLOOP_HOME"):
        raise Fault("this worker does not know where to keep its state: start it with ONCOLOOP_HOME=FOLDER")
    paths.set_environment()
    logger = get_run_logger()
    with alone(f"received-{task}"):
        tree = remote_transfer.receive(task, commit, os.environ.get(SOURCE) or source, os.environ.get(REMOTE) or remote)
        try:
            with stage_log.lines(stage_log.path("fit", task), logger.info):
                remote_transfer.take(tree, task)
            remote_transfer.give_back(tree, task)
        finally:
            remote_transfer.forget(tree)
        told = json_files.read_json(tree / "models" / task / "fit.json")
    facts = {name: told[name] for name in ("device", "backend", "seconds", "epochs", "strategy")}
    logger.info("%s fitted on %s: %s", task, os.uname().nodename, facts)
    return facts


def parameters(tree: Path, task: str) -> dict[str, str]:
    """Send a fit from the workspace's side: what the flow must be told."""
    return {
        "task": task,
        "commit": remote_transfer.send(tree, task),
        "source": str(Path.cwd()),
        "remote": str(paths.home() / "remote"),
    }
