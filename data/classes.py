"""A folder for each class -> rows of metadata: files, DICOM series put together, and whose they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data import archive, pixels, read
from data.hounsfield import in_units_of
from data.labels import NAME
from data.likeness import Positions, groups
from data.masks import Row
from data.parallel import spread
from data.record import Scan, Task
from data.series import arrange
from data.thumbnail import thumbnail
from lineage.fault import Fault

GROUPS = "groups.csv"
SMALL, MANY = 2, 0.2  # pictures of a small group; share of the pictures in such groups that makes them doubtful
PSEUDO = "near-duplicates (pseudo-patients; a real patient may be in two)"

Facts = dict[str, Any]
Files = dict[str, list[Path]]  # of each row's file name: the file, or the files of the series


@dataclass(frozen=True)
class Seen:
    """What one pass over a file shows: its bytes' hash, its scan without pixels, its thumbnail; or why it is none."""

    sha256: str
    scan: Scan | None
    thumbnail: str = ""
    refusal: str = ""


def by_class(source: Path, task: Task, only: str | None) -> tuple[list[Row], Files, Facts]:
    """A row for each scan under a folder named like a class, its files, and notes for the record.

    The files of one DICOM series in one folder are one scan, named `series-001` and so on; what is no scan, or no
    whole series, is left out and named in the notes. With groups.csv every file is a scan, as that table names it.
    """
    base = source / "images" if (source / "images").is_dir() else source
    known = {plain(name): name for name in task.classes}
    labels: dict[str, str] = {}
    for folder in sorted(path for path in base.iterdir() if path.is_dir() and not archive.hidden(path.name)):
        if plain(folder.name) not in known:
            raise Fault(f"{folder}: {folder.name!r} is none of the classes of {task.name} ({', '.join(task.classes)})")
        found = sorted(path.relative_to(base) for path in folder.rglob("*") if path.is_file())
        kept = [path for path in found if fnmatch(path.name, only or "*") and not archive.hidden(path.as_posix())]
        labels |= {path.as_posix(): known[plain(folder.name)] for path in kept}
    listed = next((path for path in (source / GROUPS, base / GROUPS) if path.exists()), None)
    if listed:
        rows = [{"file_name": name, "label": label} for name, label in labels.items()]
        return rows, {name: [base / name] for name in labels}, _from_table(rows, listed, known)
    return _from_scans(base, labels, task)


def plain(name: str) -> str:
    """A class name as folders may spell it."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


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
        if known.get(plain(str(said))) != row["label"]:
            raise Fault(f"{path}: {row['file_name']} is {said!r} there and lies in the folder {row['label']!r}")
        row["group"] = str(told.at[row["file_name"], "group"])
    return {"patients_from": GROUPS}


def _from_scans(base: Path, labels: dict[str, str], task: Task) -> tuple[list[Row], Files, Facts]:
    """Series out of the DICOM headers; patients too where every scan names one, else out of near-duplicates."""
    seen = dict(zip(labels, spread(see, [(base / name, task) for name in labels], os.cpu_count() or 1), strict=True))
    left_out = {name: one.refusal for name, one in seen.items() if one.refusal}
    scans, series = _series({name: one for name, one in seen.items() if not one.refusal}, left_out)
    rows: list[Row] = [{"file_name": name, "label": labels[members[0]]} for name, members in scans.items()]
    middle = [seen[members[len(members) // 2]] for members in scans.values()]
    patients = [one.scan.patient_id if one.scan else "" for one in middle]
    notes: Facts = {"patients_from": "DICOM headers" if rows and all(patients) else PSEUDO, "series": series}
    notes |= {"left_out": left_out} if left_out else {}
    if rows and all(patients):
        rows = [row | {"patient_id": patient} for row, patient in zip(rows, patients, strict=True)]
    elif rows:
        numbers = groups(pd.Series([one.thumbnail for one in middle]))
        notes |= _doubt(numbers)
        rows = [row | {"group": f"pseudo-patient-{number}"} for row, number in zip(rows, numbers, strict=True)]
    return rows, {name: [base / member for member in members] for name, members in scans.items()}, notes


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
    small = pixels.unit_pixels(scan.pixels[len(scan.pixels) // 2], scan.units, task.pixels)
    bare = replace(scan, pixels=np.empty((*scan.pixels.shape[:1], 0, 0), np.float32))
    bare = replace(bare, header=scan.header | {"shape": "\\".join(map(str, scan.pixels.shape))})
    return Seen(hashlib.sha256(content).hexdigest(), bare, thumbnail(small))


def _series(seen: dict[str, Seen], left_out: dict[str, str]) -> tuple[dict[str, list[str]], int]:
    """The members of every scan by its name, those of a series in the order of the body; and how many are series."""
    together: dict[tuple[str, str], list[str]] = {}
    for name, one in seen.items():
        header = one.scan.header if one.scan else {}
        single = header.get("format") == "dicom" and header.get("position") and header["shape"].startswith("1\\")
        together.setdefault((str(Path(name).parent), header["series"] if single else name), []).append(name)
    scans: dict[str, list[str]] = {}
    count = 0
    for (folder, _), members in together.items():
        members = _without_copies(members, seen, left_out)
        if len(members) == 1:
            scans[members[0]] = members
            continue
        try:
            order = arrange([_shaped(seen[name].scan) for name in members]).order
        except Fault as fault:
            left_out |= dict.fromkeys(members, f"is of a series that is none: {fault}")
            continue
        count += 1
        scans[f"{folder}/series-{count:03d}"] = [members[index] for index in order]
    return scans, count


def _without_copies(members: Sequence[str], seen: dict[str, Seen], left_out: dict[str, str]) -> list[str]:
    first: dict[str, str] = {}
    for name in members:
        if first.setdefault(seen[name].sha256, name) != name:
            left_out[name] = f"is a copy of {first[seen[name].sha256]} in the same series"
    return list(first.values())


def _shaped(scan: Scan | None) -> Scan:
    """A scan whose pixels have the shape that they had, and take no memory."""
    assert scan is not None
    shape = tuple(int(part) for part in scan.header["shape"].split("\\"))
    return replace(scan, pixels=np.broadcast_to(np.float32(0), shape))
