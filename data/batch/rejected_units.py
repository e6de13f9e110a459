"""What stays out of a batch is kept apart with its reasons, for the quality page and for whoever mends it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.batch.manifest import Refused, read_manifest

NAME = "failing.json"


def note(staging: Path, failing: Mapping[str, Sequence[str]], refused: Sequence[Refused]) -> None:
    """Write beside a batch that is being judged why each unit (by `unit_id`) or file would stay out."""
    record = {
        "failing": {unit: list(reasons) for unit, reasons in sorted(failing.items())},
        "refused": [{"file": one.file, "reason": one.reason} for one in refused],
    }
    staging.mkdir(parents=True, exist_ok=True)
    (staging / NAME).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def noted(folder: Path) -> dict[str, list[str]]:
    """The reasons of each failing unit of a folder of the quarantine; none where nothing is written down."""
    path = folder / NAME
    if not path.is_file():
        return {}
    failing: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))["failing"]
    return failing


def set_aside(staging: Path, target: Path) -> None:
    """Copy the failing units of a batch that is about to be admitted into `target`: their scans, rows and reasons.

    What an earlier attempt left there goes; done twice it leaves the same bytes.
    """
    failing = noted(staging)
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
