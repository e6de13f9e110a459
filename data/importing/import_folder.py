"""A public set, as it comes -> a batch folder with metadata.csv: the work of `oncoloop import`."""

from __future__ import annotations

import json
import logging
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import folder_files, lesion_grid, metadata_table
from data.batch.folder_files import FolderFiles
from data.csv_table import find_misnamed
from data.importing.class_folders import GROUPS, Files, by_class
from data.importing.mask_volumes import Row, patients_of, slice_rows, volumes
from data.record import OPTIONAL_METADATA, REQUIRED_METADATA, Task, Truth
from data.scan import zip_archive
from lineage.errors import Fault

log = logging.getLogger(__name__)
RECORD = metadata_table.RECORD
UNFINISHED = metadata_table.NAME + ".part"
UNPACKED = ".unpacked"

READY, VOLUMES, CLASSES = metadata_table.NAME, "volumes with masks", "a folder for each class"
TABLES = {READY: (metadata_table.NAME,), VOLUMES: (), CLASSES: (GROUPS, f"images/{GROUPS}")}
UNUSED = {
    READY: f"is named by no row of {metadata_table.NAME}",
    VOLUMES: "is no volume with a mask, or the mask of one that is left out",
    CLASSES: "lies in no folder of a class",
}

Facts = dict[str, Any]


def import_folder(
    source: Path,
    target: Path,
    task: Task,
    only: str | None = None,
    site: str = "",
    truth: str = Truth.READER.value,
    lesion_value: str = "",
    patient_level: int | None = None,
) -> Facts:
    """Find out how a set is labelled and write a batch into `target`; return the record of what was done.

    `source` is a folder, or a zip archive of one. Three layouts: a ready metadata.csv; one folder for each class (with
    groups.csv, or DICOM patient ids, or else pseudo-patients from near-duplicates; the files of one DICOM series are
    one scan); NIfTI volumes with masks in one folder for each patient. `only` is a pattern of file names (`Pre*`);
    `lesion_value` says which value of the masks is the lesion, where they have several ("2", or "1,2");
    `patient_level` says which folders are the patients, 1 for the first below `source`, where there is more than one
    reading, and 0 that none is; `site` and `truth` are written where the set does not tell. Files are hard-linked where
    possible, else copied; a link stands for what it leads to. The record also lies in `target`/import.json: every file
    of `source` is copied, a table that was read, passed over (what systems leave behind), or left out by name. Fault if
    `target` exists.
    """
    if not source.is_dir() and not (source.is_file() and source.suffix.lower() == ".zip"):
        raise Fault(f"{source} is not a folder and not a zip archive; name the folder that holds the scans")
    if target.exists() and not (target / UNFINISHED).exists():
        raise Fault(f"{target} exists already; choose another name for the batch")
    if truth not in metadata_table.TRUTHS:
        raise Fault(f"truth {truth!r} is none of {', '.join(metadata_table.TRUTHS)}")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        (target / UNFINISHED).touch()
        folder = source if source.is_dir() else _unpacked(source, target / UNPACKED)
        found = folder_files.survey_complete_folder(folder)
        layout, rows, files, notes = _layout(folder, found.names, task, only, lesion_value, patient_level)
        notes |= _account(folder, found, files, only, layout, notes.pop("left_out", {}))
        if not rows:
            raise Fault(_nothing(source, only, notes))
        table = (
            pd.DataFrame(_answered(rows, lesion_value))
            .reindex(columns=[*REQUIRED_METADATA, *OPTIONAL_METADATA])
            .fillna("")
        )
        table["task"] = task.name
        table["site"] = table["site"].replace("", site)
        table["truth"] = table["truth"].replace("", truth)
        record = {"layout": layout, "only": only or "", "truth": truth, **_counts(table), **notes}
        _write(files, target, table, record)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return record


def _unpacked(source: Path, target: Path) -> Path:
    """The folder inside an archive that holds the set: the archive's root, or the only folder in it."""
    target.mkdir()
    zip_archive.unpack(source, target)
    inside = list(target.iterdir())
    while len(inside) == 1 and inside[0].is_dir() and any(path.is_dir() for path in inside[0].iterdir()):
        target, inside = inside[0], list(inside[0].iterdir())
    alone = len(inside) == 1 and inside[0].is_dir() and (inside[0] / metadata_table.NAME).is_file()
    return inside[0] if alone else target


def _nothing(source: Path, only: str | None, notes: Facts) -> str:
    named = f" whose name matches {only!r}" if only else ""
    why = [f"{name} {reason}" for name, reason in list(notes.get("left_out", {}).items())[:1]]
    first = f" ({why[0]})" if why else ""
    return f"{source}: no scan{named} was found in it{first}; give one folder for each class, or volumes with masks"


def _layout(
    source: Path, names: list[str], task: Task, only: str | None, lesion_value: str, patient_level: int | None
) -> tuple[str, list[Row], Files, Facts]:
    """How the folder is labelled: the layout's name, rows, the files of each file name, notes."""
    if (source / metadata_table.NAME).exists():
        rows, notes = _ready(source, task, only)
        return READY, rows, _where(source, rows, set(names)), notes
    for table in (metadata_table.NAME, GROUPS):
        if not (source / table).exists() and (instead := find_misnamed(source, table)):
            raise Fault(f"{source}: {instead} is not read; save it as {table} (CSV UTF-8), or take it out")
    pairs = volumes(source, only, names)
    if pairs:
        rows, notes = _volumes(source, pairs, task, lesion_value, patient_level)
        return VOLUMES, rows, _where(source, rows, set(names)), notes
    return CLASSES, *by_class(source, names, task, only, patient_level)


def _answered(rows: list[Row], lesion_value: str) -> list[Row]:
    """The rows, those with a mask and no lesion value of their own with the one that was named."""
    if not lesion_grid.lesion_values(lesion_value):
        return rows
    if not any(row.get("mask") for row in rows):
        raise Fault(f"--lesion-value {lesion_value}: no scan of the folder has a mask; leave the option out")
    return [row | {"lesion_value": row.get("lesion_value") or lesion_value} if row.get("mask") else row for row in rows]


def _account(
    source: Path, found: FolderFiles, files: Files, only: str | None, layout: str, left_out: dict[str, str]
) -> Facts:
    """What became of every file of the folder: the counts add up, and what is left out has its reason."""
    copied = {member.relative_to(source).as_posix() for members in files.values() for member in members}
    tables = [name for name in found.names if name in TABLES[layout] and name not in copied]
    reasons = found.left_out | left_out
    for name in found.names:
        if name not in copied and name not in tables:
            matches = fnmatch(Path(name).name, only or "*")
            reasons.setdefault(name, UNUSED[layout] if matches else f"does not match {only!r}")
    reasons = {name: why for name, why in sorted(reasons.items()) if name not in copied}
    counts: Facts = {"files_found": found.count, "files_copied": len(copied), "tables_read": tables}
    counts |= {"passed_over": found.passed_over} if found.passed_over else {}
    return counts | ({"left_out": reasons} if reasons else {})


def _ready(source: Path, task: Task, only: str | None) -> tuple[list[Row], Facts]:
    table = metadata_table.metadata(source)
    chosen = table[[fnmatch(Path(name).name, only or "*") for name in table["file_name"]]]
    if metadata_table.corrects(table):
        raise Fault(
            f"{source / metadata_table.NAME} corrects admitted scans; unpack it, and import the folder that holds it"
        )
    if set(table["task"]) != {task.name}:
        raise Fault(
            f"{source / metadata_table.NAME}: its rows belong to the task {table['task'].iloc[0]}, not {task.name}"
        )
    rows = [dict(zip(chosen.columns, row, strict=True)) for row in chosen.to_numpy().tolist()]
    told = metadata_table.remarks(source, table)
    return rows, {"remarks": told} if told else {}


def _where(source: Path, rows: list[Row], readable: set[str]) -> Files:
    """The files that the rows name, those of a folder one by one, and the masks."""
    names = [*(row["file_name"] for row in rows), *(row["mask"] for row in rows if row.get("mask"))]
    named = {name: source / name for name in dict.fromkeys(names)}
    return {
        name: sorted(each for each in path.iterdir() if each.relative_to(source).as_posix() in readable)
        if path.is_dir()
        else [path]
        for name, path in named.items()
    }


def _volumes(
    source: Path, pairs: list[tuple[Path, Path]], task: Task, lesion_value: str, patient_level: int | None
) -> tuple[list[Row], Facts]:
    """A row for each slice that is not blank, with its patient."""
    rows: list[Row] = []
    blank, wanted = 0, lesion_grid.lesion_values(lesion_value)
    values: dict[str, frozenset[float]] = {}
    patients, notes = patients_of([scan for scan, _ in pairs], source, patient_level)
    for scan, mask in pairs:
        name, drawn = scan.relative_to(source).as_posix(), mask.relative_to(source).as_posix()
        facts = {"file_name": name, "patient_id": patients[name], "mask": drawn}
        labelled, empty, values[drawn] = slice_rows(scan, mask, task, wanted)
        rows += [row | facts for row in labelled]
        blank += empty
    lesion_grid.check_one_meaning(values)
    warnings = [notes.pop("warning", "")]
    if len(values) < len(pairs):
        warnings += [
            f"{len(pairs)} scans have {len(values)} masks; if those that share one are of several contrasts or "
            "channels, name one kind with --only"
        ]
    if wanted and not any(row["label"] in task.positive for row in rows):
        warnings += [f"no mask holds the value {lesion_value}: no slice is {task.positive[0]}"]
    notes["blank_slices_left_out"] = blank
    if any(warnings):
        notes["warning"] = "; ".join(filter(None, warnings))
    return rows, notes


def _counts(table: pd.DataFrame) -> Facts:
    """Scans (each a file, or a series of files), rows, labels, clusters; and how many clusters hold two labels."""
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


def _write(files: Files, target: Path, table: pd.DataFrame, record: Facts) -> None:
    """Build the batch; only when it is whole its table gets its name. What an interrupted import left is made anew."""
    filled = [name for name in table.columns if name in REQUIRED_METADATA or (table[name] != "").any()]
    table[filled].to_csv(target / UNFINISHED, index=False, lineterminator="\n")
    for name, members in files.items():
        place = target / name
        if len(members) == 1 and members[0].name == place.name:
            place.parent.mkdir(parents=True, exist_ok=True)
            _link(members[0], place)
            continue
        place.mkdir(parents=True)
        for member in members:
            _link(member, place / member.name)
    shutil.rmtree(target / UNPACKED, ignore_errors=True)
    (target / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (target / UNFINISHED).rename(target / metadata_table.NAME)
    log.info("%s: %d scans, %d rows, %d clusters", target.name, record["files"], record["rows"], record["clusters"])
    if "warning" in record:
        log.warning("%s: %s", target.name, record["warning"])


def _link(source: Path, target: Path) -> None:
    """The same bytes under another name; a copy where the file system or its owner does not allow a hard link."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
