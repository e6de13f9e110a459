"""Whose scan it is, by table, folder and DICOM header together: every contradiction between them, named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.patients.identity_signs import (
    APART,
    BOTH,
    LINKS,
    SIGNS,
    UNIQUE,
    keyed,
    signs,
    stored_signs,
    without_constants,
)

__all__ = ["SIGNS", "UNIQUE", "Contradictions", "check_identities", "keyed", "signs", "stored_signs", "group_by_person"]

NAMED = 5  # groups of rows, or rows of a group, in one sentence
SLIPPED = 3  # patients in one contradiction that a single wrong row does not explain


@dataclass(frozen=True)
class Contradictions:
    """Units that must stay out, by `unit_id` with their reasons; reasons against the whole batch; warnings; the number
    of groups of patients that contradict each other."""

    failing: Mapping[str, list[str]] = field(default_factory=dict)
    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()
    count: int = 0


def check(
    units: pd.DataFrame, admitted: pd.DataFrame | None = None, rows: Mapping[str, int] | None = None
) -> Contradictions:
    """Compare the ids of a table (or of folders) with what the headers of its scans say, and with admitted units.

    `units` has the columns unit_id, sha256, patient, cluster and SIGNS (absent ones count as empty), in clear or keyed,
    but the same way in both tables. `rows` gives the number of each unit's row in the table. A patient's units stay out
    where one person of the headers (patient, name with birth date, study, series or frame of reference) stands under
    two patients of the table, where two stand under one, or where the table gives a scan the id that the header of
    another scan bears. Three or more patients in one contradiction are a table that slipped: an error of the batch.
    What is the same for everybody says nothing, and is a warning. An exact copy of a file is not counted twice.
    """
    columns = ["unit_id", "sha256", "patient", "cluster", *SIGNS]
    new = units.reindex(columns=columns).fillna("").astype(str)
    before = (admitted if admitted is not None else new.iloc[:0]).reindex(columns=columns).fillna("").astype(str)
    once = new[~new["sha256"].isin(set(before["sha256"]))].drop_duplicates("sha256")
    files, before, warnings = without_constants(once, before)
    files = pd.concat([files.assign(is_new=True), before.assign(is_new=False)], ignore_index=True)
    failing: dict[str, list[str]] = {}
    places, slipped = [], []
    files["group"] = _components(files)
    for _, members in files[files["group"].isin(_doubtful(files))].groupby("group", sort=False):
        reason = _contradiction(members) if members["is_new"].any() else ""
        if not reason:
            continue
        patients = set(members.loc[members["is_new"], "patient"])
        concerned = new.loc[new["patient"].isin(patients), "unit_id"]
        failing |= {unit: [reason] for unit in concerned}
        places.append(_rows_of(concerned, rows or {}))
        if len(patients) > 1 and max(members["patient"].nunique(), _numbers(members)) >= SLIPPED:
            slipped.append(places[-1])
    for reason, units_of_group in _groups_spelt_alike(files, new):
        for unit in units_of_group:
            failing.setdefault(unit, []).append(reason)
    if places:
        warnings.insert(0, f"who is who: the table and the DICOM headers contradict each other in {_listed(places)}")
    errors = [
        f"the table's rows do not match their scans: {SLIPPED} or more patients of table and headers are mixed up in "
        f"{_listed(slipped)}, as when rows slip or an id is an examination's; mend patient_id and send the batch again"
    ]
    return Contradictions(failing, errors if slipped else [], warnings, len(places))


def together(files: pd.DataFrame) -> NDArray[np.int64]:
    """A group number for each file (n, columns as for `check`): files that share their patient or a sign are one group.

    Signs that are the same for everybody join nobody.
    """
    told = files.reindex(columns=["patient", *SIGNS]).fillna("").astype(str).assign(cluster=files["patient"])
    return _components(without_constants(told.assign(spelling=""), told.iloc[:0])[0])


def _groups_spelt_alike(files: pd.DataFrame, new: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """The new units of groups that differ from other groups in spelling alone, with the reason."""
    told = files[files["group_spelling"] != ""]
    clusters = told.groupby("group_spelling")["cluster"].nunique()
    odd = set(told.loc[told["group_spelling"].isin(clusters.index[clusters > 1]), "cluster"])
    units = new.loc[new["cluster"].isin(odd), "unit_id"].tolist()
    reason = "the group of its patient is spelt in two ways: write it as in the admitted batches"
    return [(reason, units)] if units else []


def _components(files: pd.DataFrame) -> NDArray[np.int64]:
    """The number of the group of each file (n): those that hang together by their patient or by a sign."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[tuple[str, str], int] = {}
    edges = []
    for name in LINKS:
        kind = "id" if name in ("spelling", "header_patient", "header_others") else name
        for place, text in enumerate(files[name]):
            for sign in text.split(APART) if text and (name != "header_person" or text.startswith(BOTH)) else ():
                edges.append((place, numbers.setdefault((kind, sign), len(numbers))))
    left, right = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    size = len(files) + len(numbers)
    joined = coo_array((np.ones(len(edges)), (left, right + len(files))), shape=(size, size))
    return np.asarray(connected_components(joined, directed=False)[1][: len(files)], np.int64)


def _doubtful(files: pd.DataFrame) -> set[int]:
    """The groups of files that hold more than one cluster or person, told at once: most hold one."""
    counts = files.replace("", None).groupby("group")[["cluster", "header_patient", "header_person"]].nunique()
    return set(counts.index[(counts > 1).any(axis=1)])


def _contradiction(files: pd.DataFrame) -> str:
    """Why files that hang together can't be told apart by patient; "" where they are of one."""
    if files["cluster"].nunique() > 1 and files["patient"].nunique() > 1:
        spelt = files[files["spelling"] != ""].groupby("spelling")["patient"].nunique()
        if (spelt > 1).any():
            return "the id of one patient is spelt in two ways: write it as in the admitted batches"
        return "one person of the DICOM headers is two patients of the table: mend patient_id"
    if _numbers(files) > 1:
        return "two persons of the DICOM headers are one patient of the table: mend patient_id"
    persons = files.loc[files["header_person"] != "", "header_person"].drop_duplicates()
    if persons.str.split(" ").str[0].duplicated().any():
        return "two persons of the DICOM headers, by name or birth date, are one patient of the table: mend patient_id"
    return ""


def _numbers(files: pd.DataFrame) -> int:
    """How many patient numbers the headers have, where one that another header names beside its own is the same."""
    told = files.loc[files["header_patient"] != "", ["header_patient", "header_others"]].drop_duplicates()
    people: list[set[str]] = []
    for number, others in told.itertuples(index=False):
        own = {number, *filter(None, others.split(APART))}
        same = [person for person in people if person & own]
        people = [person for person in people if not person & own] + [own.union(*same)]
    return len(people)


def _rows_of(units: pd.Series[str], rows: Mapping[str, int]) -> str:
    numbers = sorted({rows[unit] for unit in units if unit in rows})
    named = [str(number) for number in numbers] or sorted(units)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    called = "rows" if numbers else "units"
    return f"{called if len(named) > 1 else called[:-1]} {', '.join(named[:NAMED])}{more}"


def _listed(places: Sequence[str]) -> str:
    more = f"; and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return "; ".join(places[:NAMED]) + more
