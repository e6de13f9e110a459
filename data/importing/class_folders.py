"""A folder for each class -> rows of metadata: files, DICOM series put together, and whose they are."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.batch.metadata_table import NAME
from data.csv_table import read_table, spreadsheet_damage
from data.duplicates.near_duplicates import Positions, groups
from data.importing import class_folder_patients, picture_masks
from data.importing.mask_volumes import Row
from data.parallel import run_parallel
from data.record import HeaderIdentity, Scan, Task
from data.scan import preprocess, read, zip_archive
from data.scan.dicom.header_identity import spellings
from data.scan.dicom.image_type import foreign
from data.scan.hounsfield import in_units_of
from data.scan.series import arrange, sift
from data.scan.thumbnail import thumbnail
from lineage.errors import Fault

GROUPS = "groups.csv"
VOLUMES_TOO = ", and no NIfTI file is named as a mask, such as X_mask.nii.gz beside X.nii.gz"
SMALL, MANY = 2, 0.2  # pictures of a small group; share of the pictures in such groups that makes them doubtful
HASH = 12  # digits of a scan's hash in the name of a pseudo-patient
PSEUDO = "near-duplicates (pseudo-patients; a real patient may be in two)"

Facts = dict[str, Any]
Files = dict[str, list[Path]]  # of each row's file name: the file, or the files of the series


@dataclass(frozen=True)
class Seen:
    """What one pass over a file shows: its bytes' hash, its scan without pixels, its thumbnail, and the hash of what a
    copy of it shares, written anew or not; or why it is none."""

    sha256: str
    scan: Scan | None
    thumbnail: str = ""
    refusal: str = ""
    image: str = ""


def by_class(
    source: Path, names: Sequence[str], task: Task, only: str | None, patient_level: int | None = None
) -> tuple[list[Row], Files, Facts]:
    """A row for each scan under a folder named like a class, its files, and notes for the record.

    `names` are the files below `source`. The files of one DICOM series in one folder are one scan, named `series-001`
    and so on; what is no scan, or no whole series, is left out and named in the notes. A picture named as the mask of
    another is its mask. With groups.csv every file is a scan, as that table names it. Whose scans they are is told by
    that table, by the folders at `patient_level` (1: the first below `source`), by the DICOM headers, or else by
    near-duplicates. Fault where headers and folders contradict each other, or nobody knows which folders are patients.
    """
    base = source / "images" if any(name.startswith("images/") for name in names) else source
    inside = [name.removeprefix("images/") for name in names if base == source or name.startswith("images/")]
    prefix = "" if base == source else "images/"
    known = {plain(name): name for name in task.classes}
    labels = _labels(base, [name for name in inside if "/" in name], known, task)
    masks, left_out = picture_masks.pairs(list(labels))
    labels = {name: label for name, label in labels.items() if name not in {*masks.values(), *left_out}}
    if only:
        labels = {name: label for name, label in labels.items() if fnmatch(Path(name).name, only)}
        masks = {name: mask for name, mask in masks.items() if name in labels}
    listed = next((path for path in (source / GROUPS, base / GROUPS) if path.exists()), None)
    if listed:
        rows = [{"file_name": name, "label": label} for name, label in labels.items()]
        files, notes = {name: [base / name] for name in labels}, _from_table(rows, listed, known)
    else:
        rows, files, notes = _from_scans(base, labels, task, patient_level, prefix)
    joined = {name: mask for name, mask in masks.items() if name in files}
    rows = [row | {"mask": joined[row["file_name"]]} if row["file_name"] in joined else row for row in rows]
    files |= {mask: [base / mask] for mask in joined.values()}
    left_out |= notes.pop("left_out", {})
    left_out |= {mask: f"is the mask of {name}, which is left out" for name, mask in masks.items() if name not in files}
    return rows, files, notes | {"left_out": {prefix + name: why for name, why in left_out.items()}}


def _labels(base: Path, names: Sequence[str], known: dict[str, str], task: Task) -> dict[str, str]:
    """The class of each file: that of the one folder above it that is named like a class."""
    labels: dict[str, str] = {}
    levels: set[int] = set()
    for name in sorted(names):
        folders = Path(name).parts[:-1]
        classes = [level for level, folder in enumerate(folders) if plain(folder) in known]
        if not classes:
            raise Fault(
                f"{base / folders[0]}: {folders[0]!r} is none of the classes of {task.name} ({', '.join(task.classes)})"
                f"{VOLUMES_TOO if any(name.lower().endswith('.nii.gz') for name in names) else ''}"
            )
        if len({plain(folders[level]) for level in classes}) > 1:
            raise Fault(f"{base / name}: lies in folders of two classes; nobody knows which is its label")
        levels.add(classes[0])
        labels[name] = known[plain(folders[classes[0]])]
    for folder in sorted(path for path in base.iterdir() if path.is_dir() and not zip_archive.hidden(path.name)):
        if levels <= {0} and plain(folder.name) not in known:
            raise Fault(f"{folder}: {folder.name!r} is none of the classes of {task.name} ({', '.join(task.classes)})")
    if len(levels) > 1:
        raise Fault(f"{base}: the folders of the classes lie at {len(levels)} levels; put them all at one")
    return labels


def plain(name: str) -> str:
    """A class name as folders may spell it."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _from_table(rows: list[Row], path: Path, known: dict[str, str]) -> Facts:
    """Groups out of groups.csv (columns file, label, group), matched by file name and never by position."""
    read = read_table(path, ("file", "label", "group"))
    if not {"file", "group"} <= set(read.columns) or len(set(read.columns)) < len(read.columns):
        raise Fault(f"{path}: it needs the columns file and group, each once; it has {', '.join(read.columns)}")
    odd = [number for number, row in zip(read.numbers, read.rows, strict=True) if len(row) != len(read.columns)]
    if odd:
        raise Fault(f"{path}: row {odd[0]} has not as many cells as there are columns; mend the row")
    told = pd.DataFrame(read.rows, columns=read.columns, index=read.numbers, dtype=str)
    for places in spellings(told["group"]):
        rows_alike = " and ".join(str(told.index[place]) for place in places)
        raise Fault(f"{path}: group differs in its spelling alone in rows {rows_alike}; write one group in one way")
    broken = next(
        ((number, why) for number, group in told["group"].items() if (why := spreadsheet_damage(group))), None
    )
    if broken:
        raise Fault(f"{path}: the group of row {broken[0]} is {broken[1]}; mend the cell")
    table = told.set_index(told["file"].map(_composed))
    for row in rows:
        name = _composed(row["file_name"])
        if name not in table.index or table.index.duplicated().any():
            raise Fault(f"{path}: {row['file_name']} is not in it exactly once; mend the table")
        said = table.at[name, "label"] if "label" in table else row["label"]
        if known.get(plain(str(said))) != row["label"]:
            raise Fault(f"{path}: {row['file_name']} is {said!r} there and lies in the folder {row['label']!r}")
        row["group"] = str(table.at[name, "group"])
    idle = len(set(table.index) - {_composed(row["file_name"]) for row in rows})
    notes: Facts = {"patients_from": GROUPS, "remarks": list(read.remarks)}
    notes["remarks"] += [f"{GROUPS}: {idle} rows name files that are not imported"] if idle else []
    return notes if notes["remarks"] else {"patients_from": GROUPS}


def _composed(name: str) -> str:
    """A path with each letter as one character: some systems store an umlaut as two."""
    return unicodedata.normalize("NFC", name)


def _from_scans(
    base: Path, labels: dict[str, str], task: Task, patient_level: int | None, prefix: str
) -> tuple[list[Row], Files, Facts]:
    """Series out of the DICOM headers, and whose each scan is."""
    seen = dict(
        zip(labels, run_parallel(see, [(base / name, task) for name in labels], os.cpu_count() or 1), strict=True)
    )
    left_out = {name: one.refusal for name, one in seen.items() if one.refusal}
    left_out |= _foreign({name: one for name, one in seen.items() if not one.refusal})
    scans, series = _series({name: one for name, one in seen.items() if name not in left_out}, left_out)
    rows: list[Row] = [{"file_name": name, "label": labels[members[0]]} for name, members in scans.items()]
    middle = [seen[members[len(members) // 2]] for members in scans.values()]
    notes: Facts = {"patients_from": PSEUDO, "series": series}
    notes |= {"left_out": left_out} if left_out else {}
    if rows:
        found = [
            class_folder_patients.ClassScan(prefix + members[0], one.sha256, _identity(one))
            for members, one in zip(scans.values(), middle, strict=True)
        ]
        known = set(map(plain, task.classes))
        classes = {level for level, folder in enumerate(Path(found[0].name).parts, 1) if plain(folder) in known}
        told = class_folder_patients.patients(found, patient_level, classes)
        if told is None:
            numbers = class_folder_patients.joined(found, groups(pd.Series([one.thumbnail for one in middle])))
            notes |= _doubt(numbers)
            rows = [row | {"group": group} for row, group in zip(rows, _pseudo_patients(found, numbers), strict=True)]
        else:
            notes |= told.notes
            rows = [row | {"patient_id": patient} for row, patient in zip(rows, told.patients, strict=True)]
    return rows, {name: [base / member for member in members] for name, members in scans.items()}, notes


def _pseudo_patients(scans: Sequence[class_folder_patients.ClassScan], numbers: Positions) -> list[str]:
    """A name for the group of each scan that no other set's groups have: with the first scan's hash."""
    first: dict[int, str] = {}
    for scan, number in zip(scans, numbers.tolist(), strict=True):
        first.setdefault(number, scan.sha256[:HASH])
    return [f"pseudo-patient-{number}-{first[number]}" for number in numbers.tolist()]


def _identity(one: Seen) -> HeaderIdentity:
    return one.scan.identity if one.scan else HeaderIdentity()


def _doubt(numbers: Positions) -> Facts:
    """A warning where many pictures found none or one that is like them: then a patient's pictures were not found."""
    share = float((np.bincount(numbers)[numbers] <= SMALL).mean())
    if share <= MANY:
        return {}
    return {
        "warning": f"the groups are unreliable: {share:.0%} of the scans are in a group of one or two, so that one "
        f"patient may well be on two sides and the figures too good; give patient ids in {NAME}, or a {GROUPS}"
    }


def see(job: tuple[Path, Task]) -> Seen:
    """Read one file once; whatever is wrong with it becomes its refusal."""
    path, task = job
    try:
        content = path.read_bytes()
        scan = in_units_of(read.read(path.name, content), task.modality)
    except (Fault, OSError) as error:
        return Seen("", None, refusal=str(error).removeprefix(f"{path.name}: "))
    small = preprocess.unit_pixels(scan.pixels[len(scan.pixels) // 2], scan.units, task.pixels)
    bare = replace(scan, pixels=np.empty((*scan.pixels.shape[:1], 0, 0), np.float32))
    bare = replace(bare, header=scan.header | {"shape": "\\".join(map(str, scan.pixels.shape))})
    image = hashlib.sha256(repr((scan.identity, scan.header)).encode())
    image.update(scan.pixels.data)
    return Seen(hashlib.sha256(content).hexdigest(), bare, thumbnail(small), image=image.hexdigest())


def _foreign(seen: dict[str, Seen]) -> dict[str, str]:
    """The images that are no slices of a scanner by their own header: a label of a folder does not speak of them."""
    kinds = {name: foreign(one.scan.header.get("image_type", "")) for name, one in seen.items() if one.scan}
    return {name: f"is no slice of a scan, but {kind}" for name, kind in kinds.items() if kind}


def _series(seen: dict[str, Seen], left_out: dict[str, str]) -> tuple[dict[str, list[str]], int]:
    """The members of every scan by its name, those of a series in the order of the body; and how many are series."""
    together: dict[tuple[str, str], list[str]] = {}
    for name, one in seen.items():
        header = one.scan.header if one.scan else {}
        single = header.get("format") == "dicom" and header.get("position") and header["shape"].startswith("1\\")
        uid = header["series"] if single else ""  # without a series UID nobody knows what belongs together
        together.setdefault((str(Path(name).parent), uid or name), []).append(name)
    scans: dict[str, list[str]] = {}
    count = 0
    for (folder, _), members in together.items():
        members = _without_copies(members, seen, left_out)
        if len(members) == 1:
            scans[members[0]] = members
            continue
        try:
            shaped = [replace(_shaped(seen[name].scan), name=name) for name in members]
            chosen, others = sift(shaped)
            left_out |= {members[index]: f"is {reason}" for index, reason in others.items()}
            members = [scan.name for scan in chosen]
            order = arrange(chosen).order
        except Fault as fault:
            left_out |= dict.fromkeys(members, f"is of a series that is none: {fault}")
            continue
        count += 1
        scans[f"{folder}/series-{count:03d}"] = [members[index] for index in order]
    return scans, count


def _without_copies(members: Sequence[str], seen: dict[str, Seen], left_out: dict[str, str]) -> list[str]:
    first: dict[str, str] = {}
    for name in members:
        key = seen[name].image
        if first.setdefault(key, name) != name:
            left_out[name] = f"is a copy of {first[key]} in the same series"
    return list(first.values())


def _shaped(scan: Scan | None) -> Scan:
    """A scan whose pixels have the shape that they had, and take no memory."""
    assert scan is not None
    shape = tuple(int(part) for part in scan.header["shape"].split("\\"))
    anonymous = replace(scan.identity, instance="")  # copies were told before
    return replace(scan, pixels=np.broadcast_to(np.float32(0), shape), identity=anonymous)
