"""Data versions: list, compare, check out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import manifest
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines.withdrawal import erase, withdraw
from pipelines.workspace import dvc, git

NOT_REPRODUCIBLE = "not reproducible since {}: a patient was withdrawn"


@dataclass(frozen=True)
class Contents:
    """Content of a version for one task: its batches, and counts of units, patients and labels.

    `unknown`: batches whose table was withdrawn; the counts do not include them.
    """

    batches: frozenset[str]
    units: int
    patients: int
    labels: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def list_versions() -> list[dict[str, Any]]:
    """One row for each admission, oldest first; `lost` is the day of a withdrawal that affects it, or None."""
    columns = ("task", "batch", "units", "clusters")
    return [
        {
            "version": event.payload["data_version"],
            "at": event.at,
            **{name: event.payload[name] for name in columns},
            "lost": withdraw.incomplete_since(event.payload["data_version"]),
        }
        for event in ledger.events(kind=EventKind.BATCH_ADMITTED)
    ]


def diff(older: str, newer: str) -> dict[str, Any]:
    """The differences of two versions: batches, and for each changed task units, patients and labels before and now.

    Tables are read from DVC's cache; a batch whose table was withdrawn is listed in `unknown` and not counted.
    """
    older_batches, newer_batches = git.batches_of(older), git.batches_of(newer)
    tasks = sorted({name.split("/")[0] for name in older_batches | newer_batches})
    contents_by_task = {task: (contents(older, task), contents(newer, task)) for task in tasks}
    counts = {
        task: {name: [getattr(earlier, name), getattr(later, name)] for name in ("units", "patients", "labels")}
        for task, (earlier, later) in contents_by_task.items()
        if earlier != later
    }
    unknown = sorted({name for pair in contents_by_task.values() for side in pair for name in side.unknown})
    return {
        "added": sorted(newer_batches - older_batches),
        "removed": sorted(older_batches - newer_batches),
        "tasks": counts,
        "unknown": unknown,
    }


def contents(version: str, task: str) -> Contents:
    """The content of one task in a version, counted from the manifests of its batches."""
    names = sorted(name for name in git.batches_of(version) if name.split("/")[0] == task)
    tables, unknown = [], []
    for name in names:
        path = erase.cached_file(git.committed_text(f"data/batches/{name}.dvc", version), "manifest.csv")
        if path is None:
            unknown.append(name)
        else:
            tables.append(manifest.read_manifest(path))
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["patient", "label"])
    labels = dict(sorted(Counter(map(str, rows["label"])).items()))
    return Contents(frozenset(names), len(rows), int(rows["patient"].nunique()), labels, tuple(unknown))


def describe(change: dict[str, Any]) -> str:
    """The result of `diff` as text."""
    lines = [*(f"+ {name}" for name in change["added"]), *(f"- {name}" for name in change["removed"])]
    for task, counts in change["tasks"].items():
        (units, units_now), (patients, patients_now) = counts["units"], counts["patients"]
        lines.append(f"{task}: units {units} -> {units_now}, patients {patients} -> {patients_now}")
        labels_before, labels_now = counts["labels"]
        lines += [
            f"  {label}: {labels_before.get(label, 0)} -> {labels_now.get(label, 0)}"
            for label in sorted({*labels_before, *labels_now})
        ]
    lines += [f"{name}: its table was withdrawn, so its scans are not counted" for name in change["unknown"]]
    return "\n".join(lines) or "the same batches"


def checkout(version: str) -> tuple[Path, str]:
    """Check out a version; return its folder and, if scans were withdrawn, a sentence about it (else empty)."""
    folder = dvc.checkout(version)
    lost = withdraw.incomplete_since(version)
    return folder, NOT_REPRODUCIBLE.format(lost) if lost else ""
