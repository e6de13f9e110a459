"""Reproduce: a version's data, params and code checked out again, trained again, compared."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from lineage import json_files, registry
from lineage.errors import Fault
from lineage.record import state
from pipelines import params, warm_start_pins
from pipelines.models import promote
from pipelines.workspace import code_snapshot, dvc

log = logging.getLogger(__name__)


def reproduce(task: str, version: str) -> dict[str, Any]:
    """Train `task/version` again in a folder of its own; nothing is registered and no stage result is reused.

    Fault if a patient of its data was withdrawn.
    """
    if lost := state.withdrawn_since(f"{task}/{version}"):
        raise Fault(f"{task}/{version} is not reproducible since {lost}: a patient it has learned from was withdrawn")
    tags, folder = registry.tags(task, version), registry.download(task, version)
    tree = dvc.checkout(tags["data_version"])
    record = code_snapshot.write_code(tree)
    notes = []
    if promote.digest(record) != tags["code_digest"]:
        notes.append(
            f"the code differs from that version's (then {tags['code_digest'][:12]}, now {promote.digest(record)[:12]})"
        )
    if params.load(tree).digest != tags["params_digest"]:
        shutil.copyfile("params.yaml", tree / "params.yaml")
        notes.append("params.yaml of the data version differs from that of the training; today's was used")
    if pinned := warm_start_pins.of(tree, task):
        warm_start_pins.bring(tree, task, pinned)
    for stage in dvc.STAGES:
        log.info("%s@%s again", stage, task)
        dvc.reproduce(tree, stage, task, force=True)
    then, now = (
        json_files.read_json(folder / "metrics.json"),
        json_files.read_json(tree / "evaluation" / task / "metrics.json"),
    )
    figures = {
        name: (_value(then, name), _value(now, name)) for name in ("auroc", "sensitivity", "specificity", "accuracy")
    }
    same_graph = _hash(folder / "graph.onnx") == _hash(tree / "models" / task / "graph.onnx")
    same = same_graph and all(old == new for old, new in figures.values())
    return {"same": same, "same_graph": same_graph, "figures": figures, "notes": notes, "folder": str(tree)}


def _value(metrics: dict[str, Any], name: str) -> float:
    value = metrics["test"][name]
    return float(value["value"] if isinstance(value, dict) else value)


def _hash(path: Path) -> str:
    from lineage.fingerprint import file_sha256

    return file_sha256(path)
