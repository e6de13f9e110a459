"""Flow: one fit on the machine of a worker, from a workspace's git and DVC remote, its result back into that remote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from lineage import places
from lineage.fault import Fault
from pipelines import carry, follow, page
from pipelines.workspace import alone

SOURCE, REMOTE = "ONCOLOOP_SOURCE", "ONCOLOOP_REMOTE"


@flow(name="fit")
def fit(task: str, commit: str, source: str, remote: str) -> dict[str, Any]:
    """Fit a task as a workspace's commit says. `source` (git) and `remote` (DVC) are addresses as the workspace's
    machine knows them; the worker's environment may name others: ONCOLOOP_SOURCE, ONCOLOOP_REMOTE."""
    if not os.environ.get("ONCOLOOP_HOME"):
        raise Fault("this worker does not know where to keep its state: start it with ONCOLOOP_HOME=FOLDER")
    places.set_environment()
    logger = get_run_logger()
    with alone(f"received-{task}"):
        tree = carry.receive(task, commit, os.environ.get(SOURCE) or source, os.environ.get(REMOTE) or remote)
        try:
            with follow.lines(follow.path("fit", task), logger.info):
                carry.take(tree, task)
            carry.give_back(tree, task)
        finally:
            carry.forget(tree)
        told = page.read_json(tree / "models" / task / "fit.json")
    facts = {name: told[name] for name in ("device", "backend", "seconds", "epochs", "strategy")}
    logger.info("%s fitted on %s: %s", task, os.uname().nodename, facts)
    return facts


def parameters(tree: Path, task: str) -> dict[str, str]:
    """Send a fit from the workspace's side: what the flow must be told."""
    return {"task": task, "commit": carry.send(tree, task), "source": str(Path.cwd()),
            "remote": str(places.home() / "remote")}  # fmt: skip
