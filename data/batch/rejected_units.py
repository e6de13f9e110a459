"""Rejected units: the units and files that are not admitted with their batch, and the reasons."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.batch.manifest import RefusedFile, read_manifest

NAME = "failing.json"


def record_failing(staging: Path, failing: Mapping[str, Sequence[str]], refused: Sequence[RefusedFile]) -> None:
    """Write the reasons for every failing unit (by `unit_id`) and refused file beside the staged batch."""
    record = {
        "failing": {unit: list(reasons) for unit, reasons in sorted(failing.items())},
        "refused": [{"file": file.file, "reason": file.reason} for file in refused],
    }
    staging.mkdir(parents=True, exist_ok=True)
    (staging / NAME).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_failing(folder: Path) -> dict[str, list[str]]:
    """The reasons of every failing unit of a quarantine folder; empty if there is no record."""
    path = folder / NAME
    if not path.is_file():
        return {}
    failing: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))["failing"]
    return failing


def set_aside(staging: Path, target: Path) -> None:
    """Copy the failing units of a staged batch into `target`: their scans, rows and reasons.

    Replaces the result of an earlier attempt. Repeating it gives the same bytes.
    """
    failing = read_failing(staging)
    shutil.rmtree(target, ignore_errors=True)
    if failing:
        manifest = read_manifest(staging / "manifest.csv")
        rows = manifest[manifest["unit_id"].isin(list(failing))]
        (target / "scans").mkdir(parents=True)
        for file in sorted(set(rows["file"])):
            shutil.copyfile(staging / file, target / file)
        shutil.copyfile(staging / NAME, target / NAME)
        rows.to_csv(target / "manifest.csv", index=False, lineterminator="\n")
    (staging / NAME).unlink(missing_ok=True)
