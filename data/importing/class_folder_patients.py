"""Whose scans the files of class folders are: by folders, DICOM headers or near-duplicates, never against a header."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.importing import patient_folders
from data.patients import contradictions as who
from data.record import HeaderIdentity
from data.scan.dicom import header_identity
from lineage.errors import Fault

GROUPS = "groups.csv"


@dataclass(frozen=True)
class ClassScan:
    """One scan: the path of its first file below the set's folder, its hash, and whose it is by its header."""

    name: str
    sha256: str
    identity: HeaderIdentity


@dataclass(frozen=True)
class Patients:
    """The patient of each scan, and what the record of an import says of it."""

    patients: list[str]
    notes: dict[str, Any] = field(default_factory=dict)


def patients(scans: Sequence[ClassScan], level: int | None, class_levels: Collection[int] = ()) -> Patients | None:
    """The patient of each scan, by the folders at `level` or else by the DICOM headers; None where neither says it.

    Fault where folders and headers contradict each other; where headers name some patients and not all, or tell people
    apart without a number for each; and where folders below the classes may be the patients, but nobody said so.
    """
    names = [scan.name for scan in scans]
    if level:
        if level in class_levels:
            raise Fault(f"{names[0]}: the folder at level {level} is the class, and no patient; name another level")
        folders = patient_folders.by_level(names, level)
        notes: dict[str, Any] = {"patients_from": f"folder names at level {level}"}
        return Patients(_consistent(scans, [folders[name] for name in names]), notes)
    numbers = _numbers(scans)
    studies = len({scan.identity.study for scan in scans} - {""})
    if all(numbers) and len(set(numbers)) == 1 and studies >= who.SLIPPED and level is None:
        raise Fault(
            f"every scan has one patient number in its DICOM header, in {studies} studies, as an anonymiser writes it; "
            f"give a {GROUPS} (columns file, label, group), or put each patient's files into a folder and name its "
            f"level with {patient_folders.OPTION}; {patient_folders.OPTION} 0 says that all are one patient"
        )
    if all(numbers):
        return Patients(_consistent(scans, numbers), {"patients_from": "DICOM headers"})
    named = sum(map(bool, numbers))
    others = _people(scans) > 1
    if named or (others and level is None):
        some = (
            f"{named} of {len(scans)} scans name a patient in their DICOM header"
            if named
            else ("the DICOM headers have no patient number of their own, but several names or birth dates")
        )
        raise Fault(
            f"{some}, so nobody knows which scans are one patient's; give a {GROUPS} (columns file, label, group), or "
            f"put each patient's files into a folder and name its level with {patient_folders.OPTION}"
        )
    inner = [len(PurePosixPath(name).parts) - 1 - len(class_levels) for name in names]
    if level is None and any(depth > name.startswith("images/") for depth, name in zip(inner, names, strict=True)):
        raise patient_folders.ask(names, f", or give a {GROUPS}", tuple(class_levels))
    return None


def joined(scans: Sequence[ClassScan], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups of near-duplicates, joined where the headers say that scans are of one study, series or person."""
    numbers = who.together(_table(scans, [str(group) for group in groups]))
    _consistent(scans, [str(number) for number in numbers])
    return numbers


def _numbers(scans: Sequence[ClassScan]) -> list[str]:
    """The patient number of each header, "" for a placeholder, or for one number of many people."""
    numbers = [scan.identity.patient_id for scan in scans]
    numbers = ["" if header_identity.is_placeholder(number) else number for number in numbers]
    return [""] * len(numbers) if len(set(numbers)) == 1 and _people(scans) > 1 else numbers


def _people(scans: Sequence[ClassScan]) -> int:
    """How many people names and birth dates tell apart at least."""
    names = {header_identity.folded_name(scan.identity) for scan in scans} - {""}
    births = {header_identity.birth_day(scan.identity) for scan in scans} - {""}
    return max(len(names), len(births))


def _consistent(scans: Sequence[ClassScan], patients: list[str]) -> list[str]:
    """The patients as they are. Fault where the headers contradict them."""
    found = who.check(_table(scans, patients))
    if found.failing:
        kinds = {reason.partition(":")[0] for reasons in found.failing.values() for reason in reasons}
        first = list(found.failing)[: who.NAMED]
        more = f" and {len(found.failing) - len(first)} more" if len(found.failing) > len(first) else ""
        raise Fault(
            f"{'; '.join(sorted(kinds)).replace('of the table', 'by folder, number or likeness')}: {', '.join(first)}"
            f"{more}; mend the folders or the headers, or give a {GROUPS}"
        )
    return patients


def _table(scans: Sequence[ClassScan], patients: Sequence[str]) -> pd.DataFrame:
    rows = [
        {"unit_id": scan.name, "sha256": scan.sha256, "patient": patient, "cluster": patient}
        | who.signs(patient, scan.identity)
        for scan, patient in zip(scans, patients, strict=True)
    ]
    return pd.DataFrame(rows)
