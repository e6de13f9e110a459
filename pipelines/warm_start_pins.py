"""The versions that warm fits go on from, pinned by the loop in `parents.json`: one for each task, by version and hash.

A pin moves to the champion of the day only together with something else that makes a fit due. If it followed every
promotion, a promotion alone would ask for the next fit, and so on for ever.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from data.record import Task
from lineage import fingerprint, json_files, registry
from lineage.record import state
from pipelines import params
from pipelines.params import Params
from pipelines.workspace import dvc, git
from training.fitting.warm_start import REPORT, WEIGHTS
from training.settings import FitSettings

log = logging.getLogger(__name__)

PINS, FOLDER = "parents.json", "parents"
Pin = dict[str, str]


def pin(tree: Path) -> None:
    """Write `parents.json` of the pinned worktree, and put the weights that it names beside it.

    A task without a parent has the pin null: under `fit.strategy: full`, a first model, one that a person pinned in
    `fit.warm.parents`, and a champion that can't be gone on from (it learned from a withdrawn patient, or its network
    was another one).
    """
    settings = params.load(tree)
    kept = json.loads(git.committed(PINS) or "{}")
    warm = settings.fit.strategy == "warm"
    pins: dict[str, Pin | None] = {name: kept.get(name) if warm else None for name in settings.tasks}
    _write(tree, pins)
    if not warm:
        return
    due = {name.split("@")[1] for name in dvc.changed(tree, list(pins)) if not name.startswith("evaluate@")}
    for name in due:
        pins[name] = None if name in settings.fit.warm.parents else champion(settings, settings.task(name))
    _write(tree, pins)
    for name, pinned in pins.items():
        if pinned is not None:
            bring(tree, name, pinned)


def champion(settings: Params, task: Task) -> Pin | None:
    """The pin of a task's champion; None, with a word in the log, where no warm fit can go on from it."""
    version = registry.roles(task.name).get("champion")
    if version is None:
        return None
    if lost := state.withdrawn_since(f"{task.name}/{version}"):
        log.warning(
            "%s is fitted in full: %s/%s has learned from a patient who was withdrawn on %s",
            task.name,
            task.name,
            version,
            lost,
        )
        return None
    folder = registry.download(task.name, version)
    report = json_files.read_json(folder / REPORT)
    fit, fitted = settings.fit_of(task.name), report["settings"]
    was = (tuple(report["classes"]), report["size"], fitted["backbone"], fitted.get("local_contrast", 0))
    if was != (task.classes, task.pixels.size, fit.backbone, fit.local_contrast):
        log.warning(
            "%s is fitted in full: %s/%s is another network, or tells other classes", task.name, task.name, version
        )
        return None
    return {"version": version, "sha256": fingerprint.file_sha256(folder / WEIGHTS)}


def bring(tree: Path, task: str, pinned: Pin) -> None:
    """Put the parent's weights and report into the worktree, unless they lie there; the fit checks their hash."""
    target = tree / FOLDER / task
    if (target / WEIGHTS).is_file() and fingerprint.file_sha256(target / WEIGHTS) == pinned["sha256"]:
        return
    source = registry.download(task, pinned["version"])
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, REPORT):
        shutil.copyfile(source / name, target / name)


def of(tree: Path, task: str) -> Pin | None:
    """The pin of a task in a worktree; None where it has none."""
    pinned: Pin | None = json_files.read_json(tree / PINS).get(task) if (tree / PINS).is_file() else None
    return pinned


def settings(fit: FitSettings, task: str) -> FitSettings:
    """The settings of a fit in the current worktree, with the loop's pin in them; a pin made by a person goes first."""
    pinned = of(Path(), task)
    if pinned is None or task in fit.warm.parents:
        return fit
    known = {task: {"folder": str(Path(FOLDER, task)), "sha256": pinned["sha256"]}}
    return dataclasses.replace(fit, warm=dataclasses.replace(fit.warm, parents=known))


def facts(tree: Path, task: str) -> dict[str, Any]:
    """What the ledger and MLflow keep of a fit's parent; empty where it had none."""
    sha256 = json_files.read_json(tree / "models" / task / REPORT).get("parent_sha256")
    if sha256 is None:
        return {}
    pinned = of(tree, task)
    name = f"{task}/{pinned['version']}" if pinned else f"weights {sha256[:12]}, pinned by a person"
    return {"parent": name, "parent_sha256": sha256}


def _write(tree: Path, pins: dict[str, Pin | None]) -> None:
    (tree / PINS).write_text(json.dumps(pins, indent=1, sort_keys=True) + "\n", encoding="utf-8")
