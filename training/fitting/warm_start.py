"""The model that a warm fit starts from: pinned by folder and hash, never by an alias, which would move."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.dataset.shards import Units
from data.record import Task
from lineage import fingerprint
from lineage.errors import Fault
from training.settings import FitSettings

WEIGHTS, REPORT = "weights.weights.h5", "fit.json"
STRATEGIES = ("full", "warm")


@dataclass(frozen=True)
class Parent:
    """The weights that a fit goes on from, their SHA-256, and the batches that they have learned from."""

    weights: Path
    sha256: str
    batches: tuple[str, ...]


def pinned(task: Task, settings: FitSettings) -> Parent | None:
    """The parent that `fit.warm.parents` names for a task; None under `full`, and where a task has none yet.

    Its folder holds the weights and the fit.json of a registered version. Raises Fault where the strategy is unknown,
    a file is missing, the weights are not those of the hash, or the parent told other classes.
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
    found = fingerprint.file_sha256(folder / WEIGHTS)
    if found != pin["sha256"]:
        raise Fault(
            f"fit.warm.parents.{task.name}: {folder / WEIGHTS} has the hash {found[:12]}, pinned is "
            f"{pin['sha256'][:12]}; restore that file, or pin this one"
        )
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    if tuple(report["classes"]) != task.classes:
        raise Fault(
            f"fit.warm.parents.{task.name} tells {', '.join(report['classes'])}: a task with other classes "
            "begins anew, with fit.strategy full"
        )
    return Parent(folder / WEIGHTS, found, tuple(report["batches"]))


def replayed(training: Units, parent: Parent, share: float, seed: int) -> Units:
    """The training units of batches that the parent has not seen, and of a share of the clusters that it has.

    Old clusters are drawn within each label (of a cluster's first unit), at least one of each, so that no class is
    forgotten by accident (replay: Rolnick et al., NeurIPS 2019).
    """
    old = training.table["batch"].isin(parent.batches)
    clusters = training.table[old].drop_duplicates("cluster")[["cluster", "label"]]
    random = np.random.default_rng(seed)
    kept: set[str] = set()
    for _, group in clusters.groupby("label", sort=True):
        count = min(len(group), max(1, round(share * len(group))))
        kept |= set(random.choice(group["cluster"].to_numpy(str), count, replace=False))
    return training.where(~old | training.table["cluster"].isin(kept))
