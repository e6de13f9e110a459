"""Reproduction of a version: check out its data, params and code, train again, compare."""

from __future__ import annotations

import logging
import shutil
from typing import Any

from lineage import current_state, fingerprint, json_files, mlflow_registry
from lineage.errors import Fault
from pipelines import params, warm_start_pins
from pipelines.workspace import code_snapshot, dvc

log = logging.getLogger(__name__)


def reproduce(task: str, version: str) -> dict[str, Any]:
    """Train `task/version` again in its own folder. Nothing is registered and no stage result is reused.

    Fault if a patient of its data was withdrawn.
    """
    if withdrawal_date := current_state.withdrawn_since(f"{task}/{version}"):
        raise Fault(
            f"{task}/{version} is not reproducible since {withdrawal_date}: a patient it has learned from was withdrawn"
        )
    tags, folder = mlflow_registry.tags(task, version), mlflow_registry.download(task, version)
    tree = dvc.checkout(tags["data_version"])
    code_digest = fingerprint.digest(code_snapshot.write_code_snapshot(tree))
    notes = []
    if code_digest != tags["code_digest"]:
        notes.append(f"the code differs from that version's (then {tags['code_digest'][:12]}, now {code_digest[:12]})")
    if params.load(tree).digest != tags["params_digest"]:
        shutil.copyfile("params.yaml", tree / "params.yaml")
        notes.append("params.yaml of the data version differs from that of the training; today's was used")
    if pinned := warm_start_pins.pin_of_task(tree, task):
        warm_start_pins.copy_parent_weights(tree, task, pinned)
    for stage in dvc.STAGES:
        log.info("%s@%s again", stage, task)
        dvc.reproduce(tree, stage, task, force=True)
    original = json_files.read_json(folder / "metrics.json")
    reproduced = json_files.read_json(tree / "evaluation" / task / "metrics.json")
    figures = {
        name: (_value(original, name), _value(reproduced, name))
        for name in ("auroc", "sensitivity", "specificity", "accuracy")
    }
    original_graph, new_graph = folder / "graph.onnx", tree / "models" / task / "graph.onnx"
    same_graph = fingerprint.file_sha256(original_graph) == fingerprint.file_sha256(new_graph)
    same = same_graph and all(old == new for old, new in figures.values())
    return {"same": same, "same_graph": same_graph, "figures": figures, "notes": notes, "folder": str(tree)}


def _value(metrics: dict[str, Any], name: str) -> float:
    value = metrics["test"][name]
    return float(value["value"] if isinstance(value, dict) else value)
