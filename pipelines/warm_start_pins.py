"""The parents of warm fits, pinned in `parents.json`: one version for each task, with the hash of its weights.

A pin moves to the current champion only together with another change that makes a fit due. If it followed every
promotion, a promotion alone would make the next fit due, and so on without end.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from data.core_types import Task
from lineage import current_state, fingerprint, json_files, mlflow_registry
from lineage import current_state as lineage_state
from pipelines import params
from pipelines.params import Params
from pipelines.workspace import dvc, git
from training.fitting.warm_start import REPORT, WEIGHTS
from training.settings import FitSettings

log = logging.getLogger(__name__)

PINS, FOLDER = "parents.json", "parents"
Pin = dict[str, str]


def write_pins(tree: Path) -> None:
    """Write `parents.json` of the pinned worktree, and copy the weights that it names next to it.

    The pin of a task without a parent is null: with `fit.strategy: full`, for a first model, for a parent that a person
    pinned in `fit.warm.parents`, and for an unsuitable champion (trained on a withdrawn patient, or a different
    network).
    """
    settings = params.load(tree)
    committed_pins = json.loads(git.committed_text(PINS) or "{}")
    is_warm = settings.fit.strategy == "warm"
    pins: dict[str, Pin | None] = {name: committed_pins.get(name) if is_warm else None for name in settings.tasks}
    _write(tree, pins)
    if not is_warm:
        return
    due_tasks = {
        name.split("@")[1] for name in dvc.changed_stages(tree, list(pins)) if not name.startswith("evaluate@")
    }
    for name in due_tasks:
        pins[name] = None if name in settings.fit.warm.parents else pin_of_champion(settings, settings.task(name))
    _write(tree, pins)
    for name, task_pin in pins.items():
        if task_pin is not None:
            copy_parent_weights(tree, name, task_pin)


def pin_of_champion(settings: Params, task: Task) -> Pin | None:
    """The pin of a task's champion; None if there is none, or with a warning if a warm fit cannot start from it."""
    version = lineage_state.roles(task.name).get("champion")
    if version is None:
        return None
    if withdrawn_on := current_state.withdrawn_since(f"{task.name}/{version}"):
        log.warning(
            "%s is fitted in full: %s/%s was trained on a patient who was withdrawn on %s",
            task.name,
            task.name,
            version,
            withdrawn_on,
        )
        return None
    folder = mlflow_registry.download(task.name, version)
    report = json_files.read_json(folder / REPORT)
    fit, champion_settings = settings.fit_of(task.name), report["settings"]
    champion_network = (
        tuple(report["classes"]),
        report["size"],
        champion_settings["backbone"],
        champion_settings.get("local_contrast", 0),
    )
    if champion_network != (task.classes, task.pixels.size, fit.backbone, fit.local_contrast):
        log.warning("%s is fitted in full: %s/%s has another network or other classes", task.name, task.name, version)
        return None
    return {"version": version, "sha256": fingerprint.file_sha256(folder / WEIGHTS)}


def copy_parent_weights(tree: Path, task: str, task_pin: Pin) -> None:
    """Copy the parent's weights and report into the worktree, unless they are there; the fit checks their hash."""
    target = tree / FOLDER / task
    if (target / WEIGHTS).is_file() and fingerprint.file_sha256(target / WEIGHTS) == task_pin["sha256"]:
        return
    source = mlflow_registry.download(task, task_pin["version"])
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, REPORT):
        shutil.copyfile(source / name, target / name)


def pin_of_task(tree: Path, task: str) -> Pin | None:
    """The pin of a task in a worktree, or None."""
    task_pin: Pin | None = json_files.read_json(tree / PINS).get(task) if (tree / PINS).is_file() else None
    return task_pin


def fit_settings_with_pin(fit: FitSettings, task: str) -> FitSettings:
    """The fit settings in the current worktree with the loop's pin; a pin by a person takes precedence."""
    task_pin = pin_of_task(Path(), task)
    if task_pin is None or task in fit.warm.parents:
        return fit
    parents = {task: {"folder": str(Path(FOLDER, task)), "sha256": task_pin["sha256"]}}
    return dataclasses.replace(fit, warm=dataclasses.replace(fit.warm, parents=parents))


def parent_record(tree: Path, task: str) -> dict[str, Any]:
    """The parent of a fit, for the ledger and MLflow; empty without a parent."""
    sha256 = json_files.read_json(tree / "models" / task / REPORT).get("parent_sha256")
    if sha256 is None:
        return {}
    task_pin = pin_of_task(tree, task)
    name = f"{task}/{task_pin['version']}" if task_pin else f"weights {sha256[:12]}, pinned by a person"
    return {"parent": name, "parent_sha256": sha256}


def _write(tree: Path, pins: dict[str, Pin | None]) -> None:
    (tree / PINS).write_text(json.dumps(pins, indent=1, sort_keys=True) + "\n", encoding="utf-8")
