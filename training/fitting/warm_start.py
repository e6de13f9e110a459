"""Warm start: the pinned parent model of a fit, and the replay of its old training data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from data.core_types import Task
from data.dataset.shards import Units
from lineage import fingerprint
from lineage.errors import Fault
from training.settings import FitSettings, Strategy

WEIGHTS, REPORT = "weights.weights.h5", "fit.json"
STRATEGIES: tuple[str, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Parent:
    """The weights that a fit starts from, their SHA-256, and the batches that they were trained on."""

    weights: Path
    sha256: str
    batches: tuple[str, ...]


def pinned_parent(task: Task, settings: FitSettings) -> Parent | None:
    """The parent of a task in `fit.warm.parents`; None with strategy full, or if the task has no parent yet.

    A parent is pinned by folder and hash, never by an alias, which could change. The folder holds the weights and the
    fit.json of a registered version. Raises Fault if the strategy is unknown, a file is missing, the hash does not
    match, or the parent has other classes.
    """
    if settings.strategy not in STRATEGIES:
        raise Fault(f"fit.strategy {settings.strategy!r} is unknown: use one of {', '.join(STRATEGIES)}")
    pin = settings.warm.parents.get(task.name)
    if settings.strategy == "full" or pin is None:
        return None
    if set(pin) != {"folder", "sha256"}:
        raise Fault(f"fit.warm.parents.{task.name} needs the two keys folder and sha256, not {', '.join(sorted(pin))}")
    folder = Path(pin["folder"])
    for name in (WEIGHTS, REPORT):
        if not (folder / name).is_file():
            raise Fault(f"fit.warm.parents.{task.name}: {folder / name} is missing; name the folder of a version")
    sha256 = fingerprint.file_sha256(folder / WEIGHTS)
    if sha256 != pin["sha256"]:
        raise Fault(
            f"fit.warm.parents.{task.name}: {folder / WEIGHTS} has the hash {sha256[:12]}, pinned is "
            f"{pin['sha256'][:12]}; restore that file, or pin this one"
        )
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    if tuple(report["classes"]) != task.classes:
        raise Fault(
            f"fit.warm.parents.{task.name} has the classes {', '.join(report['classes'])}: fit a task with other "
            "classes with fit.strategy full"
        )
    return Parent(folder / WEIGHTS, sha256, tuple(report["batches"]))


def replay_units(training: Units, parent: Parent, share: float, seed: int) -> Units:
    """The training units of batches new to the parent, and those of a `share` of the old clusters.

    Old clusters are drawn within each label (of a cluster's first unit), at least one for each label, so that no class
    is forgotten (replay: Rolnick et al., NeurIPS 2019).
    """
    is_old = training.table["batch"].isin(parent.batches)
    clusters = training.table[is_old].drop_duplicates("cluster")[["cluster", "label"]]
    random = np.random.default_rng(seed)
    replayed: set[str] = set()
    for _, group in clusters.groupby("label", sort=True):
        count = min(len(group), max(1, round(share * len(group))))
        replayed |= set(random.choice(group["cluster"].to_numpy(str), count, replace=False))
    return training.where(~is_old | training.table["cluster"].isin(replayed))
