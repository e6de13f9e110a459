"""The page of `oncoloop data quality`: verdicts, failing scans with pictures, balance, cohorts and corrections."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.batch import label_corrections, rejected_units
from data.batch.manifest import read_manifest
from data.core_types import Side, Task, ValueUnit
from data.dataset import cohorts as dataset_cohorts
from data.quality.findings import (
    COPIES,
    IDENTITY_CONTRADICTIONS,
    LABEL_CONFLICTS,
    MASK_CONTRADICTIONS,
    NEAR_DUPLICATES,
    Finding,
    FindingKind,
    read_finding,
)
from data.scan import preprocess, read, thumbnail
from lineage.errors import Fault

TEMPLATE = Path(__file__).with_name("report.html")
MAX_SHOWN = 24  # pictures or pairs of one kind
COLUMNS = (
    "unit_id",
    "file",
    "slice",
    "pixels_blake3",
    "label",
    "cluster",
    "patient",
    "lesion_mm",
    "thumbnail",
    "units",
)
SECTIONS = {
    "Exact copies": COPIES,
    "Near-duplicates": NEAR_DUPLICATES,
    "Conflicting labels": LABEL_CONFLICTS,
    "Patients in two groups": frozenset((FindingKind.PATIENT_IN_TWO_GROUPS,)),
    "Patients that contradict the DICOM headers": IDENTITY_CONTRADICTIONS,
    "Labels that contradict their mask": MASK_CONTRADICTIONS,
}
OTHER_SECTION = "Other failing scans"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """One scan on the page. `image` is a PNG as a data URL, "" if there is no picture."""

    unit: str
    batch: str
    label: str
    cluster: str
    image: str


@dataclass(frozen=True)
class Case:
    """One failing scan with its reasons, and the scan that it duplicates, if there is one."""

    scan: Picture
    reasons: list[str]
    duplicate: Picture | None


def write_quality_page(data: Path, tasks: Sequence[Task], verdicts: Sequence[Row], target: Path) -> Path:
    """Write the page of these tasks to `target`. `data` is the folder with batches, quarantine and cohorts.

    `verdicts` are payloads of the data gate from the ledger, with `task` and time `at`. The newest one of a batch
    counts.
    """
    from jinja2 import Environment

    text = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text("utf-8"))
    task_sections = [
        _task_section(data, task, [verdict for verdict in verdicts if verdict["task"] == task.name]) for task in tasks
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text.render(tasks=task_sections, few=dataset_cohorts.FEW), encoding="utf-8")
    return target


def _task_section(data: Path, task: Task, verdicts: Sequence[Row]) -> dict[str, Any]:
    newest = {str(verdict["subject"]): verdict for verdict in verdicts}
    units = _task_units(data, task, list(newest))
    cohorts = dataset_cohorts.read_cohorts(data / "cohorts" / f"{task.name}.csv")
    corrections = label_corrections.read_corrections(data / "batches" / task.name)
    return {
        "name": task.name,
        "title": task.title,
        "note": task.note,
        "batches": [_batch_card(verdict) for verdict in newest.values()],
        "kinds": _kind_sections(data, task, units, list(newest)),
        "balance": _class_balance(units[~units["aside"]], task),
        "cohorts": _cohort_rows(cohorts),
        "sides": [side.value for side in Side],
        "clusters": len(cohorts),
        "corrections": corrections.to_dict("records"),
    }


def _task_units(data: Path, task: Task, batches: list[str]) -> pd.DataFrame:
    """The admitted and quarantined (`aside`) units of a task, with their `folder`. Corrections are applied."""
    folders = sorted((data / "batches" / task.name).glob("*/manifest.csv"))
    quarantined = [data / "quarantine" / name / "manifest.csv" for name in batches]
    tables = []
    for path in [*folders, *(path for path in quarantined if path.is_file())]:
        manifest = read_manifest(path).reindex(columns=list(COLUMNS))
        if len(manifest):
            tables.append(manifest.assign(folder=str(path.parent), aside=path in quarantined))
    if not tables:
        return pd.DataFrame(columns=[*COLUMNS, "folder", "aside"]).astype({"aside": bool})
    units = pd.concat(tables, ignore_index=True)
    units["thumbnail"] = units["thumbnail"].fillna("")
    return label_corrections.apply_corrections(units, label_corrections.read_corrections(data / "batches" / task.name))


def _batch_card(verdict: Row) -> dict[str, Any]:
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


def _kind_sections(data: Path, task: Task, units: pd.DataFrame, batches: list[str]) -> list[dict[str, Any]]:
    """The failing scans of every kind, with their duplicates; at most MAX_SHOWN cases of a kind."""
    cases: defaultdict[str, list[list[Finding]]] = defaultdict(list)
    for name in batches:
        for unit, reasons in rejected_units.read_failing(data / "quarantine" / name).items():
            findings = [read_finding(unit, reason) for reason in reasons]
            for section in dict.fromkeys(_section(finding) for finding in findings):
                cases[section].append(findings)
    table = units.drop_duplicates("unit_id", keep="last").set_index("unit_id", drop=False)
    units_by_pixels = {
        str(pixels): [str(unit) for unit in rows["unit_id"]] for pixels, rows in units.groupby("pixels_blake3")
    }
    return [
        {
            "name": section,
            "count": len(cases[section]),
            "cases": [
                _build_case(findings, table, units_by_pixels, task)
                for findings in cases[section][:MAX_SHOWN]
                if findings[0].unit in table.index
            ],
        }
        for section in (*SECTIONS, OTHER_SECTION)
    ]


def _section(finding: Finding) -> str:
    return next((section for section, kinds in SECTIONS.items() if finding.kind in kinds), OTHER_SECTION)


def _build_case(
    findings: list[Finding], table: pd.DataFrame, units_by_pixels: Mapping[str, list[str]], task: Task
) -> Case:
    unit, reasons = findings[0].unit, [finding.sentence for finding in findings]
    row: pd.Series[Any] = table.loc[unit]  # type: ignore[assignment]  # unit ids are unique
    duplicates = [
        other_unit
        for other_unit in (*(finding.other for finding in findings), *units_by_pixels[str(row["pixels_blake3"])])
        if other_unit != unit and other_unit in table.index
    ]
    if not duplicates or not _is_duplicate(findings):
        return Case(_build_picture(row, task), reasons, None)
    duplicate: pd.Series[Any] = table.loc[duplicates[0]]  # type: ignore[assignment]
    return Case(_build_picture(row, task), reasons, _build_picture(duplicate, task))


def _is_duplicate(findings: list[Finding]) -> bool:
    """Whether the findings include a duplicate of another scan."""
    return any(finding.kind in COPIES | NEAR_DUPLICATES | LABEL_CONFLICTS for finding in findings)


def _build_picture(row: pd.Series[Any], task: Task) -> Picture:
    folder = Path(row["folder"])
    return Picture(row["unit_id"], folder.name, row["label"] or "none", row["cluster"], _image(folder, row, task))


def _image(folder: Path, row: pd.Series[Any], task: Task) -> str:
    """The network input of the slice from the de-identified copy, or else the thumbnail of the manifest."""
    path = folder / str(row["file"])
    try:
        plane = read.read_scan(path.name, path.read_bytes())
        picture, unit = plane.pixels[int(row["slice"])], ValueUnit(row["units"] or plane.units)
        grey = preprocess.unit_pixels(picture, unit, task.pixels)[..., 0] * 255
    except (Fault, OSError):
        if not row["thumbnail"]:
            return ""
        grey = thumbnail.decode_thumbnails(pd.Series([row["thumbnail"]]))[0] * (255 / (thumbnail.GREYS - 1))
    return _png(np.rint(grey).astype(np.uint8))


def _png(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _class_balance(units: pd.DataFrame, task: Task) -> list[dict[str, Any]]:
    """Units and clusters of each class, with the width of their bar in percent of the largest."""
    rows = [
        {
            "label": name,
            "units": int((units["label"] == name).sum()),
            "clusters": int(units.loc[units["label"] == name, "cluster"].nunique()),
        }
        for name in task.classes
    ]
    for column in ("units", "clusters"):
        largest = max([int(str(row[column])) for row in rows] + [1])
        for row in rows:
            row[f"{column}_bar"] = round(100 * int(str(row[column])) / largest)
    return rows


def _cohort_rows(cohorts: pd.DataFrame) -> list[dict[str, Any]]:
    """The number of clusters of each class on each side, per epoch."""
    rows = []
    for epoch, rows_of_epoch in cohorts.groupby("epoch"):
        labels = rows_of_epoch["stratum"].str.partition("|")[0]
        sides = {
            side.value: labels[rows_of_epoch["side"] == side.value].value_counts().sort_index().to_dict()
            for side in Side
        }
        rows.append({"epoch": epoch, "sides": sides, "clusters": len(rows_of_epoch)})
    return rows
