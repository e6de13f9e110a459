"""Data versions for people: which there are, what one holds that another does not, and a folder with one's bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import manifest
from lineage.record import ledger
from pipelines.withdrawal import erase, withdraw
from pipelines.workspace import dvc, git

LOST = "not reproducible since {}: a patient was withdrawn"


@dataclass(frozen=True)
class Contents:
    """What a version holds of one task: batches, and counts of units, patients and labels where the tables are kept."""

    batches: frozenset[str]
    units: int
    patients: int
    labels: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def listed() -> list[dict[str, Any]]:
    """One row for each admission, oldest first; `lost` says since when the version can't be made again."""
    facts = ("task", "batch", "units", "clusters")
    return [
        {
            "version": event.payload["data_version"],
            "at": event.at,
            **{name: event.payload[name] for name in facts},
            "lost": withdraw.lost(event.payload["data_version"]),
        }
        for event in ledger.events(kind="batch.admitted")
    ]


def diff(older: str, newer: str) -> dict[str, Any]:
    """What changed between two versions: batches by name, and for each task units, patients and labels before and now.

    Tables are read from DVC's cache; a batch whose table was withdrawn is named in `unknown` and not counted.
    """
    before, after = git.batches_of(older), git.batches_of(newer)
    tasks = sorted({name.split("/")[0] for name in before | after})
    changed = {task: (contents(older, task), contents(newer, task)) for task in tasks}
    counts = {
        task: {name: [getattr(was, name), getattr(now, name)] for name in ("units", "patients", "labels")}
        for task, (was, now) in changed.items()
        if was != now
    }
    unknown = sorted({name for pair in changed.values() for each in pair for name in each.unknown})
    return {"added": sorted(after - before), "removed": sorted(before - after), "tasks": counts, "unknown": unknown}


def contents(version: str, task: str) -> Contents:
    """The counts of one task in a version, from the manifests that its batches point to."""
    names = sorted(name for name in git.batches_of(version) if name.split("/")[0] == task)
    tables, unknown = [], []
    for name in names:
        path = erase.inside(git.committed(f"data/batches/{name}.dvc", version), "manifest.csv")
        if path is None:
            unknown.append(name)
        else:
            tables.append(manifest.read_manifest(path))
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["patient", "label"])
    labels = dict(sorted(Counter(map(str, rows["label"])).items()))
    return Contents(frozenset(names), len(rows), int(rows["patient"].nunique()), labels, tuple(unknown))


def told(change: dict[str, Any]) -> str:
    """A difference in lines for people."""
    lines = [*(f"+ {name}" for name in change["added"]), *(f"- {name}" for name in change["removed"])]
    for task, counts in change["tasks"].items():
        (units, units_now), (patients, patients_now) = counts["units"], counts["patients"]
        lines.append(f"{task}: units {units} -> {units_now}, patients {patients} -> {patients_now}")
        was, now = counts["labels"]
        lines += [f"  {label}: {was.get(label, 0)} -> {now.get(label, 0)}" for label in sorted({*was, *now})]
    lines += [f"{name}: its table is no longer kept, its scans are not counted" for name in change["unknown"]]
    return "\n".join(lines) or "the same batches"


def checkout(version: str) -> tuple[Path, str]:
    """A folder with a version's bytes, and a sentence where some of them are gone for ever (else empty)."""
    folder = dvc.checkout(version)
    lost = withdraw.lost(version)
    return folder, LOST.format(lost) if lost else ""
