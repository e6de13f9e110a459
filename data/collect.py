"""A public set, as it comes -> a batch folder with metadata.csv: the work of `oncoloop import`."""

from __future__ import annotations

import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

from data import describe, labels, pixels, read
from data.index import embedded
from data.likeness import groups
from data.masks import Row, slice_rows, volumes
from data.record import OPTIONAL_METADATA, REQUIRED_METADATA, Task, Truth
from lineage.fault import Fault

log = logging.getLogger(__name__)
RECORD = "import.json"
UNFINISHED = labels.NAME + ".part"
GROUPS = "groups.csv"
GROUP_BITS, GROUP_SHAPE = 12, 0.1  # chosen on 857 lung CT slices of known groups: pair precision 0.95, recall 0.81

Facts = dict[str, Any]


def import_folder(
    source: Path, target: Path, task: Task, only: str | None = None, site: str = "", truth: str = Truth.READER.value
) -> Facts:
    """Find out how a folder is labelled and write a batch into `target`; return the record of what was done.

    Three layouts: a ready metadata.csv; one folder for each class (with groups.csv, or DICOM patient ids, or else
    pseudo-patients from near-duplicates); NIfTI volumes with masks in one folder for each patient. `only` is a
    pattern of file names (`Pre*`); `site` and `truth` are written where the set does not tell. Files are hard-linked
    where possible, else copied. The record also lies in `target`/import.json. Fault if `target` exists.
    """
    if not source.is_dir():
        raise Fault(f"{source} is not a folder; name the folder that holds the scans")
    if target.exists() and not (target / UNFINISHED).exists():
        raise Fault(f"{target} exists already; choose another name for the batch")
    if truth not in labels.TRUTHS:
        raise Fault(f"truth {truth!r} is none of {', '.join(labels.TRUTHS)}")
    layout, folder, rows, notes = _layout(source, task, only)
    if not rows:
        named = f" whose name matches {only!r}" if only else ""
        raise Fault(f"{source}: no scan{named} was found in it; give one folder for each class, or volumes with masks")
    table = pd.DataFrame(rows).reindex(columns=[*REQUIRED_METADATA, *OPTIONAL_METADATA]).fillna("")
    table["task"] = task.name
    table["site"] = table["site"].replace("", site)
    table["truth"] = table["truth"].replace("", truth)
    record = {"layout": layout, "only": only or "", "truth": truth, **_counts(table), **notes}
    _write(folder, target, table, record)
    return record


def _layout(source: Path, task: Task, only: str | None) -> tuple[str, Path, list[Row], Facts]:
    """How the folder is labelled: the layout's name, the folder that file names start from, rows, notes."""
    if (source / labels.NAME).exists():
        table = labels.metadata(source)
        chosen = table[[fnmatch(Path(name).name, only or "*") for name in table["file_name"]]]
        if set(table["task"]) != {task.name}:
            raise Fault(f"{source / labels.NAME}: its rows belong to the task {table['task'].iloc[0]}, not {task.name}")
        return (
            "metadata.csv",
            source,
            [dict(zip(chosen.columns, row, strict=True)) for row in chosen.to_numpy().tolist()],
            {},
        )
    pairs = volumes(source, only)
    if pairs:
        return "volumes with masks", source, *_volumes(source, pairs, task)
    return "a folder for each class", *_folders(source, task, only)


def _volumes(source: Path, pairs: list[tuple[Path, Path]], task: Task) -> tuple[list[Row], Facts]:
    """A row for each slice that is not blank; the folder under `source` names the patient."""
    rows: list[Row] = []
    blank = 0
    for scan, mask in pairs:
        name = scan.relative_to(source)
        if len(name.parts) < 2:
            raise Fault(f"{name}: nobody knows whose volume it is; put it into a folder named after its patient")
        found, empty = slice_rows(scan, mask, task)
        rows += [row | {"file_name": name.as_posix(), "patient_id": name.parts[0]} for row in found]
        blank += empty
    return rows, {"patients_from": "folder names", "blank_slices_left_out": blank}


def _folders(source: Path, task: Task, only: str | None) -> tuple[Path, list[Row], Facts]:
    """A row for each file under a folder named like a class, with the group or the patient that it belongs to."""
    base = source / "images" if (source / "images").is_dir() else source
    known = {_plain(name): name for name in task.classes}
    rows: list[Row] = []
    for folder in sorted(path for path in base.iterdir() if path.is_dir()):
        if _plain(folder.name) not in known:
            raise Fault(f"{folder}: {folder.name!r} is none of the classes of {task.name} ({', '.join(task.classes)})")
        label = known[_plain(folder.name)]
        files = sorted(path for path in folder.rglob("*") if path.is_file() and fnmatch(path.name, only or "*"))
        rows += [{"file_name": path.relative_to(base).as_posix(), "label": label} for path in files]
    listed = next((path for path in (source / GROUPS, base / GROUPS) if path.exists()), None)
    return base, rows, _from_table(rows, listed, known) if listed else _from_scans(rows, base, task)


def _from_table(rows: list[Row], path: Path, known: dict[str, str]) -> Facts:
    """Groups out of groups.csv (columns file, label, group), matched by file name and never by position."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if not {"file", "group"} <= set(table.columns):
        raise Fault(f"{path}: it needs the columns file and group, it has {', '.join(table.columns)}")
    told = table.set_index("file")
    for row in rows:
        if row["file_name"] not in told.index or told.index.duplicated().any():
            raise Fault(f"{path}: {row['file_name']} is not in it exactly once; mend the table")
        said = told.at[row["file_name"], "label"] if "label" in told else row["label"]
        if known.get(_plain(str(said))) != row["label"]:
            raise Fault(f"{path}: {row['file_name']} is {said!r} there and lies in the folder {row['label']!r}")
        row["group"] = str(told.at[row["file_name"], "group"])
    return {"patients_from": GROUPS}


def _from_scans(rows: list[Row], base: Path, task: Task) -> Facts:
    """Patients out of the DICOM headers where every file names one; else pseudo-patients from near-duplicates."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = list(pool.map(lambda row: _likeness(base / row["file_name"], task), rows))
    named = all(patient for patient, *_ in seen)
    table = pd.DataFrame(seen, columns=["patient", "dhash", "embedding"])
    numbers = [] if named or table.empty else [str(number) for number in groups(table, GROUP_BITS, GROUP_SHAPE)]
    for row, identity in zip(rows, table["patient"] if named else numbers, strict=True):
        row["patient_id" if named else "group"] = identity if named else f"pseudo-patient-{identity}"
    return {
        "patients_from": "DICOM headers" if named else "near-duplicates (pseudo-patients; a real patient may be in two)"
    }


def _likeness(path: Path, task: Task) -> tuple[str, str, str]:
    scan = read.read(path.name, path.read_bytes())
    small = pixels.unit_pixels(scan.pixels[len(scan.pixels) // 2], scan.units, task.pixels)
    return scan.patient_id, describe.dhash(small), embedded(small)


def _counts(table: pd.DataFrame) -> Facts:
    """Files, rows, labels and clusters; and how many clusters hold files of different labels."""
    cluster = table["group"].where(table["group"] != "", table["patient_id"])
    whole = table[table["slice"] == ""]
    mixed = whole.groupby(cluster)["label"].nunique()
    return {
        "files": int(table["file_name"].nunique()),
        "rows": len(table),
        "labels": {str(name): int(count) for name, count in table["label"].value_counts().sort_index().items()},
        "clusters": int(cluster.nunique()),
        "clusters_with_two_labels": int((mixed > 1).sum()),
    }


def _write(folder: Path, target: Path, table: pd.DataFrame, record: Facts) -> None:
    """Build the batch; only when it is whole its table gets its name. What an interrupted import left is made anew."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    filled = [name for name in table.columns if name in REQUIRED_METADATA or (table[name] != "").any()]
    table[filled].to_csv(target / UNFINISHED, index=False, lineterminator="\n")
    for name in dict.fromkeys(table["file_name"]):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _link(folder / name, target / name)
    (target / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (target / UNFINISHED).rename(target / labels.NAME)
    log.info("%s: %d files, %d rows, %d clusters", target.name, record["files"], record["rows"], record["clusters"])


def _link(source: Path, target: Path) -> None:
    """The same bytes under another name; a copy where the file system or its owner does not allow a hard link."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
