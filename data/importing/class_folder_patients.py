"""Patients of the scans in class folders: from folder names, DICOM headers or near-duplicate groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import HeaderIdentity
from data.importing import patient_folders
from data.patients import contradictions as who
from data.scan.dicom import header_identity
from lineage.errors import Fault

GROUPS = "groups.csv"


@dataclass(frozen=True)
class ClassScan:
    """One scan: the path of its first file below the data set, its hash, and its identity in the header."""

    name: str
    sha256: str
    identity: HeaderIdentity


@dataclass(frozen=True)
class Patients:
    """The patient of each scan, and notes for the record of the import."""

    patients: list[str]
    notes: dict[str, Any] = field(default_factory=dict)


def assign_patients(
    scans: Sequence[ClassScan], level: int | None, class_levels: Collection[int] = ()
) -> Patients | None:
    """The patient of each scan, from the folders at `level` or else from the DICOM headers; None if neither names it.

    Fault if folders and headers contradict each other; if only some headers have a patient number, or people differ
    without a number for each; and if folders below the classes can be patients, but no level is given.
    """
    names = [scan.name for scan in scans]
    if level:
        if level in class_levels:
            raise Fault(f"{names[0]}: the folder at level {level} is the class and not a patient; give another level")
        patient_by_name = patient_folders.patients_by_level(names, level)
        notes: dict[str, Any] = {"patients_from": f"folder names at level {level}"}
        return Patients(_check_headers(scans, [patient_by_name[name] for name in names]), notes)
    numbers = _patient_numbers(scans)
    studies = len({scan.identity.study for scan in scans} - {""})
    if all(numbers) and len(set(numbers)) == 1 and studies >= who.MIXED_UP and level is None:
        raise Fault(
            f"every scan has one patient number in its DICOM header, in {studies} studies, as anonymisers write it; "
            f"give a {GROUPS} (columns file, label, group), or put each patient's files into a folder and give its "
            f"level with {patient_folders.OPTION}; {patient_folders.OPTION} 0 means that all are one patient"
        )
    if all(numbers):
        return Patients(_check_headers(scans, numbers), {"patients_from": "DICOM headers"})
    named_count = sum(map(bool, numbers))
    has_several_people = _people_count(scans) > 1
    if named_count or (has_several_people and level is None):
        problem = (
            f"{named_count} of {len(scans)} scans have a patient number in their DICOM header"
            if named_count
            else ("the DICOM headers have no patient number of their own, but several names or birth dates")
        )
        raise Fault(
            f"{problem}, so the patients of the scans are unknown; give a {GROUPS} (columns file, label, group), or "
            f"put each patient's files into a folder and give its level with {patient_folders.OPTION}"
        )
    inner_depths = [len(PurePosixPath(name).parts) - 1 - len(class_levels) for name in names]
    if level is None and any(
        depth > name.startswith("images/") for depth, name in zip(inner_depths, names, strict=True)
    ):
        raise patient_folders.ambiguous_level(names, f", or give a {GROUPS}", tuple(class_levels))
    return None


def join_by_header(scans: Sequence[ClassScan], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups of near-duplicates, joined if their headers have the same study, series or person.

    Fault if they conflict.
    """
    numbers = who.group_by_person(_signs_table(scans, [str(group) for group in groups]))
    _check_headers(scans, [str(number) for number in numbers])
    return numbers


def _patient_numbers(scans: Sequence[ClassScan]) -> list[str]:
    """The patient number of each header; "" for a placeholder, or if several people share one number."""
    numbers = [scan.identity.patient_id for scan in scans]
    numbers = ["" if header_identity.is_placeholder(number) else number for number in numbers]
    return [""] * len(numbers) if len(set(numbers)) == 1 and _people_count(scans) > 1 else numbers


def _people_count(scans: Sequence[ClassScan]) -> int:
    """The minimum number of people, by distinct names and birth dates."""
    names = {header_identity.folded_name(scan.identity) for scan in scans} - {""}
    births = {header_identity.birth_day(scan.identity) for scan in scans} - {""}
    return max(len(names), len(births))


def _check_headers(scans: Sequence[ClassScan], patients: list[str]) -> list[str]:
    """Return the patients unchanged. Fault if the headers contradict them."""
    contradictions = who.check_identities(_signs_table(scans, patients))
    if contradictions.failing:
        kinds = {reason.partition(":")[0] for reasons in contradictions.failing.values() for reason in reasons}
        listed = list(contradictions.failing)[: who.MAX_LISTED]
        more = (
            f" and {len(contradictions.failing) - len(listed)} more"
            if len(contradictions.failing) > len(listed)
            else ""
        )
        raise Fault(
            f"{'; '.join(sorted(kinds)).replace('of the table', 'by folder, number or likeness')}: {', '.join(listed)}"
            f"{more}; correct the folders or the headers, or give a {GROUPS}"
        )
    return patients


def _signs_table(scans: Sequence[ClassScan], patients: Sequence[str]) -> pd.DataFrame:
    rows = [
        {"unit_id": scan.name, "sha256": scan.sha256, "patient": patient, "cluster": patient}
        | who.signs(patient, scan.identity)
        for scan, patient in zip(scans, patients, strict=True)
    ]
    return pd.DataFrame(rows)
