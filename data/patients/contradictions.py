"""Contradictions between the patient ids of a table or folders and the identities in DICOM headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.patients.identity_signs import (
    BOTH,
    LINKS,
    SIGN_SEPARATOR,
    SIGNS,
    UNIQUE,
    keyed,
    signs,
    stored_signs,
    without_constants,
)

__all__ = ["SIGNS", "UNIQUE", "Contradictions", "check_identities", "group_by_person", "keyed", "signs", "stored_signs"]

MAX_LISTED = 5  # groups of rows, or rows of a group, that one message lists
MIXED_UP = 3  # patients in one contradiction; a single wrong row does not explain so many


@dataclass(frozen=True)
class Contradictions:
    """Contradictions of a batch: failing units by `unit_id` with their reasons, errors of the batch, and warnings.

    `count` is the number of groups of patients that contradict each other.
    """

    failing: Mapping[str, list[str]] = field(default_factory=dict)
    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()
    count: int = 0


def check_identities(
    units: pd.DataFrame, admitted: pd.DataFrame | None = None, rows: Mapping[str, int] | None = None
) -> Contradictions:
    """Compare the ids of a table (or of folders) with the headers of its scans, and with admitted units.

    `units` has the columns unit_id, sha256, patient, cluster and SIGNS (absent ones count as empty), in clear or keyed,
    but the same way in both tables. `rows` gives the row number of each unit in the table. A patient's units fail in
    three cases. One person of the headers (patient, name with birth date, study, series or frame of reference) has two
    patients in the table. Two persons of the headers have one patient in the table. The table gives a scan the id that
    the header of another scan has. Three or more patients in one contradiction mean shifted rows: an error of the
    batch. A sign that is the same for all patients is ignored with a warning. An exact copy of a file counts once.
    """
    columns = ["unit_id", "sha256", "patient", "cluster", *SIGNS]
    new = units.reindex(columns=columns).fillna("").astype(str)
    earlier = (admitted if admitted is not None else new.iloc[:0]).reindex(columns=columns).fillna("").astype(str)
    unique_files = new[~new["sha256"].isin(set(earlier["sha256"]))].drop_duplicates("sha256")
    files, earlier, warnings = without_constants(unique_files, earlier)
    files = pd.concat([files.assign(is_new=True), earlier.assign(is_new=False)], ignore_index=True)
    failing: dict[str, list[str]] = {}
    places, mixed_up = [], []
    files["group"] = _components(files)
    for _, members in files[files["group"].isin(_suspect_groups(files))].groupby("group", sort=False):
        reason = _contradiction(members) if members["is_new"].any() else ""
        if not reason:
            continue
        patients = set(members.loc[members["is_new"], "patient"])
        affected_units = new.loc[new["patient"].isin(patients), "unit_id"]
        failing |= {unit: [reason] for unit in affected_units}
        places.append(_rows_of(affected_units, rows or {}))
        if len(patients) > 1 and max(members["patient"].nunique(), _number_count(members)) >= MIXED_UP:
            mixed_up.append(places[-1])
    for reason, units_of_group in _groups_spelt_alike(files, new):
        for unit in units_of_group:
            failing.setdefault(unit, []).append(reason)
    if places:
        warnings.insert(
            0, f"who is who: the table and the DICOM headers contradict each other in {_list_places(places)}"
        )
    errors = [
        f"the table's rows do not match their scans: {MIXED_UP} or more patients of table and headers are mixed up in "
        f"{_list_places(mixed_up)}, as when rows shift or an id is an examination's; correct patient_id and send the "
        "batch again"
    ]
    return Contradictions(failing, errors if mixed_up else [], warnings, len(places))


def group_by_person(files: pd.DataFrame) -> NDArray[np.int64]:
    """A group number for each file (n, columns as for `check`): files that share a patient or a sign are one group.

    Signs that are the same for all patients join no files.
    """
    complete = files.reindex(columns=["patient", *SIGNS]).fillna("").astype(str).assign(cluster=files["patient"])
    return _components(without_constants(complete.assign(spelling=""), complete.iloc[:0])[0])


def _groups_spelt_alike(files: pd.DataFrame, new: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """The new units of groups that differ from other groups only in spelling, with the reason."""
    grouped = files[files["group_spelling"] != ""]
    counts = grouped.groupby("group_spelling")["cluster"].nunique()
    clusters = set(grouped.loc[grouped["group_spelling"].isin(counts.index[counts > 1]), "cluster"])
    units = new.loc[new["cluster"].isin(clusters), "unit_id"].tolist()
    reason = "the group of its patient is spelt in two ways: write it as in the admitted batches"
    return [(reason, units)] if units else []


def _components(files: pd.DataFrame) -> NDArray[np.int64]:
    """The group number of each file (n); files that are connected by their patient or by a sign are one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[tuple[str, str], int] = {}
    edges = []
    for name in LINKS:
        kind = "id" if name in ("spelling", "header_patient", "header_others") else name
        for position, text in enumerate(files[name]):
            for sign in (
                text.split(SIGN_SEPARATOR) if text and (name != "header_person" or text.startswith(BOTH)) else ()
            ):
                edges.append((position, numbers.setdefault((kind, sign), len(numbers))))
    left, right = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    size = len(files) + len(numbers)
    joined = coo_array((np.ones(len(edges)), (left, right + len(files))), shape=(size, size))
    return np.asarray(connected_components(joined, directed=False)[1][: len(files)], np.int64)


def _suspect_groups(files: pd.DataFrame) -> set[int]:
    """The groups of files with more than one cluster or person, by a fast check, since most groups have one."""
    counts = files.replace("", None).groupby("group")[["cluster", "header_patient", "header_person"]].nunique()
    return set(counts.index[(counts > 1).any(axis=1)])


def _contradiction(files: pd.DataFrame) -> str:
    """The contradiction in a group of connected files; "" if they are of one patient."""
    if files["cluster"].nunique() > 1 and files["patient"].nunique() > 1:
        patients_of_spelling = files[files["spelling"] != ""].groupby("spelling")["patient"].nunique()
        if (patients_of_spelling > 1).any():
            return "the id of one patient is spelt in two ways: write it as in the admitted batches"
        return "one person of the DICOM headers is two patients of the table: correct patient_id"
    if _number_count(files) > 1:
        return "two persons of the DICOM headers are one patient of the table: correct patient_id"
    persons = files.loc[files["header_person"] != "", "header_person"].drop_duplicates()
    if persons.str.split(" ").str[0].duplicated().any():
        return (
            "two persons of the DICOM headers, by name or birth date, are one patient of the table: correct patient_id"
        )
    return ""


def _number_count(files: pd.DataFrame) -> int:
    """The number of distinct patient numbers in the headers; numbers that one header lists together count once."""
    numbers = files.loc[files["header_patient"] != "", ["header_patient", "header_others"]].drop_duplicates()
    people: list[set[str]] = []
    for number, others in numbers.itertuples(index=False):
        ids = {number, *filter(None, others.split(SIGN_SEPARATOR))}
        overlapping = [person for person in people if person & ids]
        people = [person for person in people if not person & ids] + [ids.union(*overlapping)]
    return len(people)


def _rows_of(units: pd.Series[str], rows: Mapping[str, int]) -> str:
    numbers = sorted({rows[unit] for unit in units if unit in rows})
    labels = [str(number) for number in numbers] or sorted(units)
    more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
    noun = "rows" if numbers else "units"
    return f"{noun if len(labels) > 1 else noun[:-1]} {', '.join(labels[:MAX_LISTED])}{more}"


def _list_places(places: Sequence[str]) -> str:
    more = f"; and {len(places) - MAX_LISTED} more" if len(places) > MAX_LISTED else ""
    return "; ".join(places[:MAX_LISTED]) + more
