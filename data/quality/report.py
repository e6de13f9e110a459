"""`oncoloop data quality`: all that the data room knows of its batches on one page, with the pictures side by side."""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.batch import label_corrections, rejected_units
from data.batch.manifest import read_manifest
from data.dataset import cohorts as dataset_cohorts
from data.record import Side, Task, Units
from data.scan import preprocess, read, thumbnail
from lineage.errors import Fault

TEMPLATE = Path(__file__).with_name("report.html")
SHOWN = 24  # pictures or pairs of one kind
NEEDED = ("unit_id", "file", "slice", "pixels_blake3", "label", "cluster", "patient", "lesion_mm", "thumbnail", "units")
KINDS = {
    "Exact copies": ("exact copy", "copy of an admitted scan"),
    "Near-duplicates": ("near-duplicate",),
    "Conflicting labels": ("the same picture has two labels", "nearly the same picture has another label"),
    "Patients in two groups": ("patient in two groups",),
    "Patients that contradict the DICOM headers": ("one person of", "two persons of", "the id of one patient"),
    "Labels that contradict their mask": ("label contradicts its mask",),
}
OTHERS = "Other failing scans"
UNIT = re.compile(r"[0-9a-f]{16}-\d{3}(?:-copy\d+)?")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """One scan as the page shows it: `image` is a PNG as a data address, "" where nothing can be shown."""

    unit: str
    batch: str
    label: str
    cluster: str
    image: str


@dataclass(frozen=True)
class Case:
    """One failing scan with its reasons, and the scan that it is like, if it is like one."""

    scan: Picture
    reasons: list[str]
    like: Picture | None


def write(data: Path, tasks: Sequence[Task], verdicts: Sequence[Row], target: Path) -> Path:
    """The page of some tasks at `target`; `data` holds batches, quarantine and cohorts, `verdicts` are the ledger's.

    A verdict is a payload of the data gate with the `task` and the time `at`; the newest one of a batch counts.
    """
    from jinja2 import Environment

    text = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text("utf-8"))
    shown = [_task(data, task, [one for one in verdicts if one["task"] == task.name]) for task in tasks]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text.render(tasks=shown, shown=SHOWN, few=dataset_cohorts.FEW), encoding="utf-8")
    return target


def _task(data: Path, task: Task, verdicts: Sequence[Row]) -> dict[str, Any]:
    newest = {str(one["subject"]): one for one in verdicts}
    units = _units(data, task, list(newest))
    cohorts = dataset_cohorts.read_cohorts(data / "cohorts" / f"{task.name}.csv")
    changes = label_corrections.given(data / "batches" / task.name)
    return {
        "name": task.name,
        "title": task.title,
        "note": task.note,
        "batches": [_batch(one) for one in newest.values()],
        "kinds": _kinds(data, task, units, list(newest)),
        "balance": _balance(units[~units["aside"]], task),
        "cohorts": _cohorts(cohorts),
        "sides": [side.value for side in Side],
        "clusters": len(cohorts),
        "corrections": changes.to_dict("records"),
    }


def _units(data: Path, task: Task, batches: list[str]) -> pd.DataFrame:
    """The units of a task, admitted and kept aside, with the `folder` they lie in; labels as they read today."""
    folders = sorted((data / "batches" / task.name).glob("*/manifest.csv"))
    kept = [data / "quarantine" / name / "manifest.csv" for name in batches]
    tables = []
    for path in [*folders, *(path for path in kept if path.is_file())]:
        manifest = read_manifest(path).reindex(columns=list(NEEDED))
        if len(manifest):
            tables.append(manifest.assign(folder=str(path.parent), aside=path in kept))
    if not tables:
        return pd.DataFrame(columns=[*NEEDED, "folder", "aside"]).astype({"aside": bool})
    units = pd.concat(tables, ignore_index=True)
    units["thumbnail"] = units["thumbnail"].fillna("")
    return label_corrections.apply(units, label_corrections.given(data / "batches" / task.name))


def _batch(verdict: Row) -> dict[str, Any]:
    figures = verdict["figures"]
    validation, leakage = figures.get("validation", {}), figures.get("leakage", {})
    reasons = [str(reason) for reason in verdict["reasons"]]
    return {
        "name": verdict["subject"],
        "outcome": {"pass": "admitted", "fail": "quarantined"}.get(str(verdict["outcome"]), "left open"),
        "at": verdict["at"],
        "reasons": [reason for reason in reasons if not reason.startswith("warning: ")],
        "warnings": [reason.removeprefix("warning: ") for reason in reasons if reason.startswith("warning: ")],
        "units": figures.get("units", 0),
        "out": figures.get("failing", 0) + figures.get("refused", 0),
        "agreement": validation.get("agreement"),
        "population": validation.get("population"),
        "shortcut": leakage.get("shortcut_accuracy"),
    }


def _kinds(data: Path, task: Task, units: pd.DataFrame, batches: list[str]) -> list[dict[str, Any]]:
    """The failing scans of every kind, each with its like; as many pictures as a page can bear."""
    found: defaultdict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    for name in batches:
        for unit, reasons in rejected_units.read_failing(data / "quarantine" / name).items():
            for kind in dict.fromkeys(_kind(reason) for reason in reasons):
                found[kind].append((unit, reasons))
    table = units.drop_duplicates("unit_id", keep="last").set_index("unit_id", drop=False)
    twins = {str(same): [str(unit) for unit in rows["unit_id"]] for same, rows in units.groupby("pixels_blake3")}
    return [
        {
            "name": kind,
            "count": len(found[kind]),
            "cases": [
                _case(unit, reasons, table, twins, task) for unit, reasons in found[kind][:SHOWN] if unit in table.index
            ],
        }
        for kind in (*KINDS, OTHERS)
    ]


def _kind(reason: str) -> str:
    return next((kind for kind, starts in KINDS.items() if reason.startswith(starts)), OTHERS)


def _case(unit: str, reasons: list[str], table: pd.DataFrame, twins: Mapping[str, list[str]], task: Task) -> Case:
    row: pd.Series[Any] = table.loc[unit]  # type: ignore[assignment]  # names are unique
    named = [other for reason in reasons for other in UNIT.findall(reason)]
    likes = [other for other in (*named, *twins[str(row["pixels_blake3"])]) if other != unit and other in table.index]
    other: pd.Series[Any] | None = table.loc[likes[0]] if likes and _likened(reasons) else None
    return Case(_picture(row, task), reasons, None if other is None else _picture(other, task))


def _likened(reasons: list[str]) -> bool:
    """Is it kept out for being like another scan?"""
    return any(_kind(reason) in tuple(KINDS)[:3] for reason in reasons)


def _picture(row: pd.Series[Any], task: Task) -> Picture:
    folder = Path(row["folder"])
    return Picture(row["unit_id"], folder.name, row["label"] or "none", row["cluster"], _image(folder, row, task))


def _image(folder: Path, row: pd.Series[Any], task: Task) -> str:
    """The slice as the network sees it, out of the de-identified copy, or else the small picture of the manifest."""
    path = folder / str(row["file"])
    try:
        plane = read.read(path.name, path.read_bytes())
        picture, unit = plane.pixels[int(row["slice"])], Units(row["units"] or plane.units)
        grey = preprocess.unit_pixels(picture, unit, task.pixels)[..., 0] * 255
    except (Fault, OSError):
        if not row["thumbnail"]:
            return ""
        grey = thumbnail.greys(pd.Series([row["thumbnail"]]))[0] * (255 / (thumbnail.GREYS - 1))
    return _png(np.rint(grey).astype(np.uint8))


def _png(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _balance(units: pd.DataFrame, task: Task) -> list[dict[str, Any]]:
    """Units and clusters of each class, with the width of their bar in hundredths of the largest."""
    rows = [
        {
            "label": name,
            "units": int((units["label"] == name).sum()),
            "clusters": int(units.loc[units["label"] == name, "cluster"].nunique()),
        }
        for name in task.classes
    ]
    for what in ("units", "clusters"):
        largest = max([int(str(row[what])) for row in rows] + [1])
        for row in rows:
            row[f"{what}_bar"] = round(100 * int(str(row[what])) / largest)
    return rows


def _cohorts(cohorts: pd.DataFrame) -> list[dict[str, Any]]:
    """Clusters of each side in each epoch, the classes of their strata told apart."""
    rows = []
    for epoch, part in cohorts.groupby("epoch"):
        label = part["stratum"].str.partition("|")[0]
        sides = {side.value: label[part["side"] == side.value].value_counts().sort_index().to_dict() for side in Side}
        rows.append({"epoch": epoch, "sides": sides, "clusters": len(part)})
    return rows
