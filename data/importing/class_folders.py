"""Import of class folders: one metadata row per scan, with its label, its files and its patient."""

from __future__ import annotations

import hashlib
import os
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.batch.metadata_table import NAME
from data.core_types import HeaderIdentity, Scan, Task
from data.csv_table import read_table, spreadsheet_damage
from data.duplicates.near_duplicates import Positions, groups
from data.importing import class_folder_patients, picture_masks
from data.importing.mask_volumes import Row
from data.parallel import run_parallel
from data.scan import preprocess, read, zip_archive
from data.scan.dicom.header_identity import spelling_variants
from data.scan.dicom.image_type import non_slice_kinds
from data.scan.hounsfield import convert_to_task_units
from data.scan.series import order_slices, select_slices
from data.scan.thumbnail import thumbnail
from lineage.errors import Fault

GROUPS = "groups.csv"
MAX_FOLDERS_NAMED = 5  # in the message on folders that are no class
NO_MASK_HINT = ", and no NIfTI file is named as a mask, such as X_mask.nii.gz beside X.nii.gz"
SMALL_GROUP, DOUBTFUL_SHARE = 2, 0.2  # scans of a small group; share of scans in small groups that is a warning
HASH = 12  # digits of a scan's hash in the name of a pseudo-patient
PSEUDO = "near-duplicates (pseudo-patients; a real patient may be in two)"

Facts = dict[str, Any]
Files = dict[str, list[Path]]  # by file name of a row: the file, or the files of the series


@dataclass(frozen=True)
class FileSummary:
    """One file after a single pass: its hash, its scan without pixels and its thumbnail, or the reason of refusal.

    `image` is the hash of pixels and header facts; a copy that was saved again has the same one.
    """

    sha256: str
    scan: Scan | None
    thumbnail: str = ""
    refusal: str = ""
    image: str = ""


def read_class_folders(
    source: Path,
    names: Sequence[str],
    task: Task,
    only: str | None,
    patient_level: int | None = None,
    class_names: Mapping[str, str] | None = None,
) -> tuple[list[Row], Files, Facts]:
    """One row per scan in a folder named like a class, the files of each row, and notes for the record.

    `class_names` maps further names of folders, and of labels in groups.csv, to classes of the task.
    `names` are the files below `source`. The files of one DICOM series in one folder are one scan (`series-001`, ...).
    Files that are no scan, or no complete series, are left out with a reason in the notes. A picture named as the mask
    of another is its mask. With groups.csv every file is a scan. Patients come from that table, from the folders at
    `patient_level` (1: the first below `source`), from the DICOM headers, or else from near-duplicates. Fault if
    headers and folders contradict each other, or if the folders of the patients are ambiguous.
    """
    base = source / "images" if any(name.startswith("images/") for name in names) else source
    names_below = [name.removeprefix("images/") for name in names if base == source or name.startswith("images/")]
    prefix = "" if base == source else "images/"
    class_by_folder = {normalise_class(name): name for name in task.classes}
    class_by_folder |= {normalise_class(name): label for name, label in (class_names or {}).items()}
    labels = _label_files(base, [name for name in names_below if "/" in name], class_by_folder, task)
    masks, left_out = picture_masks.pair_masks(list(labels))
    labels = {name: label for name, label in labels.items() if name not in {*masks.values(), *left_out}}
    if only:
        labels = {name: label for name, label in labels.items() if fnmatch(Path(name).name, only)}
        masks = {name: mask for name, mask in masks.items() if name in labels}
    groups_table = next((path for path in (source / GROUPS, base / GROUPS) if path.exists()), None)
    if groups_table:
        rows = [{"file_name": name, "label": label} for name, label in labels.items()]
        files, notes = {name: [base / name] for name in labels}, _apply_groups(rows, groups_table, class_by_folder)
    else:
        rows, files, notes = _rows_of_scans(base, labels, task, patient_level, prefix)
    mask_by_scan = {name: mask for name, mask in masks.items() if name in files}
    rows = [row | {"mask": mask_by_scan[row["file_name"]]} if row["file_name"] in mask_by_scan else row for row in rows]
    files |= {mask: [base / mask] for mask in mask_by_scan.values()}
    left_out |= notes.pop("left_out", {})
    left_out |= {mask: f"is the mask of {name}, which is left out" for name, mask in masks.items() if name not in files}
    return rows, files, notes | {"left_out": {prefix + name: reason for name, reason in left_out.items()}}


def _label_files(base: Path, names: Sequence[str], class_by_folder: dict[str, str], task: Task) -> dict[str, str]:
    """The class of each file: the name of its one parent folder that is a class."""
    labels: dict[str, str] = {}
    levels: set[int] = set()
    for name in sorted(names):
        folders = Path(name).parts[:-1]
        classes = [level for level, folder in enumerate(folders) if normalise_class(folder) in class_by_folder]
        if not classes:
            hint = NO_MASK_HINT if any(name.lower().endswith(".nii.gz") for name in names) else ""
            raise Fault(_unknown_class(base, names, class_by_folder, task) + hint)
        if len({normalise_class(folders[level]) for level in classes}) > 1:
            raise Fault(f"{base / name}: is in folders of two classes, so its label is ambiguous; keep one")
        levels.add(classes[0])
        labels[name] = class_by_folder[normalise_class(folders[classes[0]])]
    for folder in sorted(
        path for path in base.iterdir() if path.is_dir() and not zip_archive.is_system_file(path.name)
    ):
        if levels <= {0} and normalise_class(folder.name) not in class_by_folder:
            raise Fault(_unknown_class(base, [f"{folder.name}/"], class_by_folder, task))
    if len(levels) > 1:
        raise Fault(f"{base}: the folders of the classes are at {len(levels)} levels; put them all at one level")
    return labels


def _unknown_class(base: Path, names: Sequence[str], class_by_folder: Mapping[str, str], task: Task) -> str:
    """The folders of which none is a class, and the option that says which class each is."""
    parents = [Path(name).parts[:-1] if not name.endswith("/") else Path(name).parts for name in names]
    unknown = sorted(
        {folders[0] for folders in parents if not any(normalise_class(part) in class_by_folder for part in folders)}
    )
    listed = ", ".join(map(repr, unknown[:MAX_FOLDERS_NAMED])) + (", ..." if len(unknown) > MAX_FOLDERS_NAMED else "")
    verb = "is" if len(unknown) == 1 else "are"
    return (
        f"{base / unknown[0]}: {listed} {verb} none of the classes of {task.name} ({', '.join(task.classes)}); "
        f"if a folder is a class of another name, add for example --label {shlex.quote(unknown[0])}={task.classes[-1]}"
    )


def normalise_class(name: str) -> str:
    """A class name or folder name in one spelling: lower case with `_` for spaces and hyphens."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _apply_groups(rows: list[Row], path: Path, class_by_folder: dict[str, str]) -> Facts:
    """Add the groups of groups.csv (columns file, label, group) to the rows, by file name.

    Returns notes for the record.
    """
    csv_table = read_table(path, ("file", "label", "group"))
    if not {"file", "group"} <= set(csv_table.columns) or len(set(csv_table.columns)) < len(csv_table.columns):
        raise Fault(f"{path}: it needs the columns file and group, each once; it has {', '.join(csv_table.columns)}")
    ragged_rows = [
        number
        for number, row in zip(csv_table.numbers, csv_table.rows, strict=True)
        if len(row) != len(csv_table.columns)
    ]
    if ragged_rows:
        raise Fault(f"{path}: row {ragged_rows[0]} has not as many cells as there are columns; correct the row")
    groups = pd.DataFrame(csv_table.rows, columns=csv_table.columns, index=csv_table.numbers, dtype=str)
    for positions in spelling_variants(groups["group"]):
        row_numbers = " and ".join(str(groups.index[position]) for position in positions)
        raise Fault(f"{path}: group differs only in its spelling in rows {row_numbers}; use one spelling")
    damaged = next(
        ((number, damage) for number, group in groups["group"].items() if (damage := spreadsheet_damage(group))), None
    )
    if damaged:
        raise Fault(f"{path}: the group of row {damaged[0]} is {damaged[1]}; correct the cell")
    table = groups.set_index(groups["file"].map(_normalise_unicode))
    for row in rows:
        name = _normalise_unicode(row["file_name"])
        if name not in table.index or table.index.duplicated().any():
            raise Fault(f"{path}: {row['file_name']} is not in it exactly once; correct the table")
        stated_label = table.at[name, "label"] if "label" in table else row["label"]
        if class_by_folder.get(normalise_class(str(stated_label))) != row["label"]:
            raise Fault(f"{path}: {row['file_name']} is {stated_label!r} there and in the folder {row['label']!r}")
        row["group"] = str(table.at[name, "group"])
    unused_count = len(set(table.index) - {_normalise_unicode(row["file_name"]) for row in rows})
    notes: Facts = {"patients_from": GROUPS, "remarks": list(csv_table.remarks)}
    notes["remarks"] += [f"{GROUPS}: {unused_count} rows name files that are not imported"] if unused_count else []
    return notes if notes["remarks"] else {"patients_from": GROUPS}


def _normalise_unicode(name: str) -> str:
    """A path in Unicode form NFC: some systems store an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)


def _rows_of_scans(
    base: Path, labels: dict[str, str], task: Task, patient_level: int | None, prefix: str
) -> tuple[list[Row], Files, Facts]:
    """Rows, files and notes if there is no groups.csv: assemble series by header, and find the patient of each scan."""
    summaries = dict(
        zip(
            labels,
            run_parallel(summarise_file, [(base / name, task) for name in labels], os.cpu_count() or 1),
            strict=True,
        )
    )
    left_out = {name: summary.refusal for name, summary in summaries.items() if summary.refusal}
    left_out |= _foreign_images({name: summary for name, summary in summaries.items() if not summary.refusal})
    scans, series = _assemble_series(
        {name: summary for name, summary in summaries.items() if name not in left_out}, left_out
    )
    rows: list[Row] = [{"file_name": name, "label": labels[members[0]]} for name, members in scans.items()]
    middle_slices = [summaries[members[len(members) // 2]] for members in scans.values()]
    notes: Facts = {"patients_from": PSEUDO, "series": series}
    notes |= {"left_out": left_out} if left_out else {}
    if rows:
        class_scans = [
            class_folder_patients.ClassScan(prefix + members[0], summary.sha256, _identity(summary))
            for members, summary in zip(scans.values(), middle_slices, strict=True)
        ]
        class_names = set(map(normalise_class, task.classes))
        classes = {
            level
            for level, folder in enumerate(Path(class_scans[0].name).parts, 1)
            if normalise_class(folder) in class_names
        }
        patients = class_folder_patients.assign_patients(class_scans, patient_level, classes)
        if patients is None:
            numbers = class_folder_patients.join_by_header(
                class_scans, groups(pd.Series([summary.thumbnail for summary in middle_slices]))
            )
            notes |= _small_groups_warning(numbers)
            rows = [
                row | {"group": group} for row, group in zip(rows, _pseudo_patients(class_scans, numbers), strict=True)
            ]
        else:
            notes |= patients.notes
            rows = [row | {"patient_id": patient} for row, patient in zip(rows, patients.patients, strict=True)]
    return rows, {name: [base / member for member in members] for name, members in scans.items()}, notes


def _pseudo_patients(scans: Sequence[class_folder_patients.ClassScan], numbers: Positions) -> list[str]:
    """A name per group that is unique across data sets: it has the hash of the first scan of the group."""
    hash_by_group: dict[int, str] = {}
    for scan, number in zip(scans, numbers.tolist(), strict=True):
        hash_by_group.setdefault(number, scan.sha256[:HASH])
    return [f"pseudo-patient-{number}-{hash_by_group[number]}" for number in numbers.tolist()]


def _identity(summary: FileSummary) -> HeaderIdentity:
    return summary.scan.identity if summary.scan else HeaderIdentity()


def _small_groups_warning(numbers: Positions) -> Facts:
    """A warning if many scans are in a group of one or two: then near-duplicates did not find the patients."""
    share = float((np.bincount(numbers)[numbers] <= SMALL_GROUP).mean())
    if share <= DOUBTFUL_SHARE:
        return {}
    return {
        "warning": f"the groups are unreliable: {share:.0%} of the scans are in a group of one or two, so that one "
        f"patient can be in two cohorts and the metrics too good; give patient ids in {NAME}, or a {GROUPS}"
    }


def summarise_file(job: tuple[Path, Task]) -> FileSummary:
    """Read one file once. Any defect becomes its refusal."""
    path, task = job
    try:
        content = path.read_bytes()
        scan = convert_to_task_units(read.read_scan(path.name, content), task.modality)
    except (Fault, OSError) as error:
        return FileSummary("", None, refusal=str(error).removeprefix(f"{path.name}: "))
    pixels = preprocess.unit_pixels(scan.pixels[len(scan.pixels) // 2], scan.units, task.pixels)
    without_pixels = replace(scan, pixels=np.empty((*scan.pixels.shape[:1], 0, 0), np.float32))
    without_pixels = replace(without_pixels, header=scan.header | {"shape": "\\".join(map(str, scan.pixels.shape))})
    image_hash = hashlib.sha256(repr((scan.identity, scan.header)).encode())
    image_hash.update(scan.pixels.data)
    return FileSummary(
        hashlib.sha256(content).hexdigest(), without_pixels, thumbnail(pixels), image=image_hash.hexdigest()
    )


def _foreign_images(summaries: dict[str, FileSummary]) -> dict[str, str]:
    """The images that are no scanner slices by their header, with the reason: folder labels do not apply to them."""
    kinds = {
        name: non_slice_kinds(summary.scan.header.get("image_type", ""))
        for name, summary in summaries.items()
        if summary.scan
    }
    return {name: f"is no slice of a scan, but {kind}" for name, kind in kinds.items() if kind}


def _assemble_series(summaries: dict[str, FileSummary], left_out: dict[str, str]) -> tuple[dict[str, list[str]], int]:
    """The members of every scan by its name, those of a series in slice order; and the number of series."""
    members_by_series: dict[tuple[str, str], list[str]] = {}
    for name, summary in summaries.items():
        header = summary.scan.header if summary.scan else {}
        is_single_slice = (
            header.get("format") == "dicom" and header.get("position") and header["shape"].startswith("1\\")
        )
        uid = header["series"] if is_single_slice else ""  # without a series UID the members of a series are unknown
        members_by_series.setdefault((str(Path(name).parent), uid or name), []).append(name)
    scans: dict[str, list[str]] = {}
    count = 0
    for (folder, _), members in members_by_series.items():
        members = _without_copies(members, summaries, left_out)
        if len(members) == 1:
            scans[members[0]] = members
            continue
        try:
            shaped = [replace(_restore_shape(summaries[name].scan), name=name) for name in members]
            slices, removed = select_slices(shaped)
            left_out |= {members[index]: f"is {reason}" for index, reason in removed.items()}
            members = [scan.name for scan in slices]
            order = order_slices(slices).order
        except Fault as fault:
            left_out |= dict.fromkeys(members, f"is of a series that is none: {fault}")
            continue
        count += 1
        scans[f"{folder}/series-{count:03d}"] = [members[index] for index in order]
    return scans, count


def _without_copies(members: Sequence[str], summaries: dict[str, FileSummary], left_out: dict[str, str]) -> list[str]:
    name_by_image: dict[str, str] = {}
    for name in members:
        key = summaries[name].image
        if name_by_image.setdefault(key, name) != name:
            left_out[name] = f"is a copy of {name_by_image[key]} in the same series"
    return list(name_by_image.values())


def _restore_shape(scan: Scan | None) -> Scan:
    """A scan with pixels of its original shape that need no memory."""
    assert scan is not None
    shape = tuple(int(part) for part in scan.header["shape"].split("\\"))
    anonymous = replace(scan.identity, instance="")  # exact copies were removed before
    return replace(scan, pixels=np.broadcast_to(np.float32(0), shape), identity=anonymous)
