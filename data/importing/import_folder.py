"""Import a data set as a batch folder with metadata.csv, for `oncoloop import`."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch import folder_files, lesion_grid, metadata_table
from data.batch.folder_files import FolderFiles
from data.core_types import OPTIONAL_METADATA, REQUIRED_METADATA, Task, Truth
from data.csv_table import find_misnamed
from data.importing.class_folders import GROUPS, Files, read_class_folders
from data.importing.mask_volumes import Row, pair_volumes, slice_rows, volume_patients
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
    CLASSES: "is in no folder of a class",
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
    class_names: Mapping[str, str] | None = None,
) -> Facts:
    """Detect how a data set is labelled, write a batch into `target`, and return the record of the import.

    `source` is a folder, or a zip archive of one, in one of three layouts:

    - a ready metadata.csv;
    - one folder per class, with groups.csv, DICOM patient ids, or else pseudo-patients from near-duplicates; the files
      of one DICOM series are one scan;
    - NIfTI volumes with masks in one folder per patient.

    `only` is a pattern of file names (`Pre*`). `lesion_value` gives the lesion values of masks with several values
    ("2", or "1,2"). `patient_level` gives the level of the patients' folders if it is ambiguous: 1 is the first below
    `source`, 0 means none. `class_names` maps names of class folders to classes of the task. `site` and `truth` are
    used where the data set does not state them. Files are hard-linked where possible, else copied; a link counts as its
    target. The record is also written to `target`/import.json. Every file of `source` is copied, a table that was read,
    passed over (system files), or left out with a reason. Fault if `target` exists.
    """
    if not source.is_dir() and not (source.is_file() and source.suffix.lower() == ".zip"):
        raise Fault(f"{source} is not a folder and not a zip archive; give the folder that contains the scans")
    if target.exists() and not (target / UNFINISHED).exists():
        raise Fault(f"{target} exists already; choose another name for the batch")
    if truth not in metadata_table.TRUTHS:
        raise Fault(f"truth {truth!r} is none of {', '.join(metadata_table.TRUTHS)}")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        (target / UNFINISHED).touch()
        folder = source if source.is_dir() else _unpack(source, target / UNPACKED)
        survey = folder_files.survey_complete_folder(folder)
        layout, rows, files, notes = _read_layout(
            folder, survey.names, task, only, lesion_value, patient_level, _check_class_names(class_names or {}, task)
        )
        notes |= _account_files(folder, survey, files, only, layout, notes.pop("left_out", {}))
        if not rows:
            raise Fault(_no_scan_message(source, only, notes))
        table = (
            pd.DataFrame(_with_lesion_value(rows, lesion_value))
            .reindex(columns=[*REQUIRED_METADATA, *OPTIONAL_METADATA])
            .fillna("")
        )
        table["task"] = task.name
        table["site"] = table["site"].replace("", site)
        table["truth"] = table["truth"].replace("", truth)
        record = {"layout": layout, "only": only or "", "truth": truth, **_counts(table), **notes}
        _write_batch(files, target, table, record)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return record


def _unpack(source: Path, target: Path) -> Path:
    """Unpack an archive; return the folder of the data set: the root of the archive, or the only folder in it."""
    target.mkdir()
    zip_archive.unpack(source, target)
    entries = list(target.iterdir())
    while len(entries) == 1 and entries[0].is_dir() and any(path.is_dir() for path in entries[0].iterdir()):
        target, entries = entries[0], list(entries[0].iterdir())
    has_one_table = len(entries) == 1 and entries[0].is_dir() and (entries[0] / metadata_table.NAME).is_file()
    return entries[0] if has_one_table else target


def _no_scan_message(source: Path, only: str | None, notes: Facts) -> str:
    matching = f" whose name matches {only!r}" if only else ""
    listed = [f"{name} {reason}" for name, reason in list(notes.get("left_out", {}).items())[:1]]
    example = f" ({listed[0]})" if listed else ""
    return (
        f"{source}: no scan{matching} was found in it{example}; give one folder for each class, or volumes with masks"
    )


def _read_layout(
    source: Path,
    names: list[str],
    task: Task,
    only: str | None,
    lesion_value: str,
    patient_level: int | None,
    class_names: Mapping[str, str],
) -> tuple[str, list[Row], Files, Facts]:
    """Detect the layout of a folder: its name, the rows, the files of each row, and notes for the record."""
    if class_names and ((source / metadata_table.NAME).exists() or pair_volumes(source, only, names)):
        raise Fault(f"{source}: --label is for folders named by class, and this one has a table or masks; leave it out")
    if (source / metadata_table.NAME).exists():
        rows, notes = _read_table(source, task, only)
        return READY, rows, _files_of_rows(source, rows, set(names)), notes
    for table in (metadata_table.NAME, GROUPS):
        if not (source / table).exists() and (misnamed_table := find_misnamed(source, table)):
            raise Fault(f"{source}: {misnamed_table} is not read; save it as {table} (CSV UTF-8), or remove it")
    pairs = pair_volumes(source, only, names)
    if pairs:
        rows, notes = _rows_of_volumes(source, pairs, task, lesion_value, patient_level)
        return VOLUMES, rows, _files_of_rows(source, rows, set(names)), notes
    rows, files, notes = read_class_folders(source, names, task, only, patient_level, class_names)
    return CLASSES, rows, files, notes | ({"class_names": dict(class_names)} if class_names else {})


def _check_class_names(class_names: Mapping[str, str], task: Task) -> Mapping[str, str]:
    """The mapping, with every target a class of the task. Fault for another target, or for a class that is renamed."""
    for name, label in class_names.items():
        if label not in task.classes:
            raise Fault(
                f"--label {name}={label}: {label!r} is none of the classes of {task.name}: {', '.join(task.classes)}"
            )
        if name in task.classes and name != label:
            raise Fault(f"--label {name}={label}: {name!r} is a class of {task.name} itself and keeps its meaning")
    return class_names


def _with_lesion_value(rows: list[Row], lesion_value: str) -> list[Row]:
    """The rows, with the given lesion value in those that have a mask and no lesion value."""
    if not lesion_grid.lesion_values(lesion_value):
        return rows
    if not any(row.get("mask") for row in rows):
        raise Fault(f"--lesion-value {lesion_value}: no scan of the folder has a mask; leave the option out")
    return [row | {"lesion_value": row.get("lesion_value") or lesion_value} if row.get("mask") else row for row in rows]


def _account_files(
    source: Path, survey: FolderFiles, files: Files, only: str | None, layout: str, left_out: dict[str, str]
) -> Facts:
    """Account for every file of the folder: the counts add up, and every file left out has a reason."""
    copied = {member.relative_to(source).as_posix() for members in files.values() for member in members}
    tables = [name for name in survey.names if name in TABLES[layout] and name not in copied]
    reasons = survey.left_out | left_out
    for name in survey.names:
        if name not in copied and name not in tables:
            matches = fnmatch(Path(name).name, only or "*")
            reasons.setdefault(name, UNUSED[layout] if matches else f"does not match {only!r}")
    reasons = {name: reason for name, reason in sorted(reasons.items()) if name not in copied}
    counts: Facts = {"files_found": survey.count, "files_copied": len(copied), "tables_read": tables}
    counts |= {"passed_over": survey.passed_over} if survey.passed_over else {}
    return counts | ({"left_out": reasons} if reasons else {})


def _read_table(source: Path, task: Task, only: str | None) -> tuple[list[Row], Facts]:
    table, remarks = metadata_table.read_with_remarks(source)
    selected = table[[fnmatch(Path(name).name, only or "*") for name in table["file_name"]]]
    if metadata_table.is_correction_batch(table):
        raise Fault(
            f"{source / metadata_table.NAME} corrects admitted scans; unpack it, and import the folder that contains it"
        )
    if set(table["task"]) != {task.name}:
        raise Fault(
            f"{source / metadata_table.NAME}: its rows belong to the task {table['task'].iloc[0]}, not {task.name}"
        )
    rows = [dict(zip(selected.columns, row, strict=True)) for row in selected.to_numpy().tolist()]
    return rows, {"remarks": remarks} if remarks else {}


def _files_of_rows(source: Path, rows: list[Row], readable: set[str]) -> Files:
    """The files of each row, those of a series folder singly, and the masks."""
    names = [*(row["file_name"] for row in rows), *(row["mask"] for row in rows if row.get("mask"))]
    path_by_name = {name: source / name for name in dict.fromkeys(names)}
    return {
        name: sorted(file for file in path.iterdir() if file.relative_to(source).as_posix() in readable)
        if path.is_dir()
        else [path]
        for name, path in path_by_name.items()
    }


def _rows_of_volumes(
    source: Path, pairs: list[tuple[Path, Path]], task: Task, lesion_value: str, patient_level: int | None
) -> tuple[list[Row], Facts]:
    """One row per slice that is not blank, with its patient; and notes for the record."""
    rows: list[Row] = []
    blank_count, wanted_values = 0, lesion_grid.lesion_values(lesion_value)
    values: dict[str, frozenset[float]] = {}
    patients, notes = volume_patients([scan for scan, _ in pairs], source, patient_level)
    for scan, mask in pairs:
        name, mask_name = scan.relative_to(source).as_posix(), mask.relative_to(source).as_posix()
        facts = {"file_name": name, "patient_id": patients[name], "mask": mask_name}
        scan_rows, blank_slices, values[mask_name] = slice_rows(scan, mask, task, wanted_values)
        rows += [row | facts for row in scan_rows]
        blank_count += blank_slices
    lesion_grid.check_one_meaning(values)
    warnings = [notes.pop("warning", "")]
    if len(values) < len(pairs):
        warnings += [
            f"{len(pairs)} scans have {len(values)} masks; if scans that share one are several contrasts or "
            "channels, choose one with --only"
        ]
    if wanted_values and not any(row["label"] in task.positive for row in rows):
        warnings += [f"no mask holds the value {lesion_value}: no slice is {task.positive[0]}"]
    notes["blank_slices_left_out"] = blank_count
    if any(warnings):
        notes["warning"] = "; ".join(filter(None, warnings))
    return rows, notes


def _counts(table: pd.DataFrame) -> Facts:
    """The numbers of scans (files or series), rows, labels, clusters, and clusters with two labels."""
    cluster = table["group"].where(table["group"] != "", table["patient_id"])
    scan_rows = table[table["slice"] == ""]
    label_counts = scan_rows.groupby(cluster)["label"].nunique()
    return {
        "files": int(table["file_name"].nunique()),
        "rows": len(table),
        "labels": {str(name): int(count) for name, count in table["label"].value_counts().sort_index().items()},
        "clusters": int(cluster.nunique()),
        "clusters_with_two_labels": int((label_counts > 1).sum()),
    }


def _write_batch(files: Files, target: Path, table: pd.DataFrame, record: Facts) -> None:
    """Write the batch. The table gets its final name last, so that an interrupted import is recognised and repeated."""
    nonempty = [name for name in table.columns if name in REQUIRED_METADATA or (table[name] != "").any()]
    table[nonempty].to_csv(target / UNFINISHED, index=False, lineterminator="\n")
    for name, members in files.items():
        path = target / name
        if len(members) == 1 and members[0].name == path.name:
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(members[0], path)
            continue
        path.mkdir(parents=True)
        for member in members:
            _link(member, path / member.name)
    shutil.rmtree(target / UNPACKED, ignore_errors=True)
    (target / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (target / UNFINISHED).rename(target / metadata_table.NAME)
    log.info("%s: %d scans, %d rows, %d clusters", target.name, record["files"], record["rows"], record["clusters"])
    if "warning" in record:
        log.warning("%s: %s", target.name, record["warning"])


def _link(source: Path, target: Path) -> None:
    """Hard-link a file; copy it if the file system or its owner does not allow links."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
