"""Whose scan it is, by table, folder and DICOM header together: every contradiction between them, named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.header_identity import birth_day, fold, folded_name, is_placeholder, of_header
from data.record import HeaderIdentity
from lineage import fingerprint, keys

# One manifest column for each sign of a person, as a keyed pseudonym, "" where the file or the table gives none.
SIGNS = ("spelling", "header_patient", "header_person", "header_study", "header_series", "header_frame",
         "header_instance")  # fmt: skip
UIDS = ("study", "series", "frame", "instance")
UNIQUE = tuple(f"header_{kind}" for kind in UIDS)
NAMED = 5  # groups of rows, or rows of a group, in one sentence
SLIPPED = 3  # patients in one contradiction that a single wrong row does not explain
MANY = 3  # patients, all of a batch, with one frame of reference: a constant and no sign
WELL_KNOWN = "1.2.840.10008."  # frames of reference of atlases (PS3.6 A-2), the same for everybody
UID = re.compile(r"[0-9.]{3,64}")  # PS3.5, section 9.1
BOTH = "both"  # a header's name and birth date together say who it is; either alone only who it is not


@dataclass(frozen=True)
class Contradictions:
    """Units that must stay out, by `unit_id` with their reasons; reasons against the whole batch; warnings; the number
    of groups of patients that contradict each other."""

    failing: Mapping[str, list[str]] = field(default_factory=dict)
    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()
    count: int = 0


def signs(called: str, header: HeaderIdentity) -> dict[str, str]:
    """The signs of one scan in clear: `called` is the table's or the folder's id. Compared by `check`."""
    return {
        "spelling": f"id {fold(called)}" if called else "",
        "header_patient": "" if is_placeholder(header.patient_id) else f"id {fold(header.patient_id)}",
        "header_person": _person(header),
        **{f"header_{kind}": _unique(getattr(header, kind)) for kind in UIDS},
    }


def keyed(plain: Mapping[str, str]) -> dict[str, str]:
    """Signs as the manifest keeps them: nobody without this installation's key can redo them.

    UIDs are those of the de-identified copy, shortened, so that `stored_signs` gives the same.
    """
    return {
        name: "" if not text else _short(keys.uid(text)) if name in UNIQUE else _keyed_text(text)
        for name, text in plain.items()
    }


def stored_signs(header: Any) -> dict[str, str]:
    """The signs that a de-identified DICOM copy (its data set) still shows: those of its UIDs, as `keyed` gives them.

    For batches that were admitted before the manifest had columns for them.
    """
    unique = of_header(header)
    return {f"header_{kind}": _short(uid) if (uid := getattr(unique, kind)) else "" for kind in UIDS}


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
    files, warnings = _without_constants(once, before)
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
        if len(patients) > 1 and max(members["patient"].nunique(), _count(members["header_patient"])) >= SLIPPED:
            slipped.append(places[-1])
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
    return _components(_without_constants(told.assign(spelling=""), told.iloc[:0])[0])


def _without_constants(files: pd.DataFrame, before: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The files without the signs that say nothing, and what has to be said of that."""
    files, warnings = files.copy(), []
    patients = files["patient"].nunique()

    def is_constant(name: str) -> bool:
        return len(files) > 0 and bool((files[name] == files[name].iloc[0]).all()) and files[name].iloc[0] != ""

    one_person = is_constant("header_person") and files["header_person"].iloc[0].startswith(BOTH)
    if patients > 1 and is_constant("header_patient") and not one_person:
        files["header_patient"] = ""
        warnings.append("every scan has the same PatientID in its header: the headers do not say who is who")
    for name, called in (("header_frame", "frame of reference"), ("header_instance", "instance UID")):
        if patients >= MANY and is_constant(name) and not is_constant("header_study"):
            files[name] = ""
            warnings.append(f"every scan has the same {called} in its header: it does not say who is who")
    for name in SIGNS[1:] if len(before) else ():
        clusters = before[before[name] != ""].groupby(name)["cluster"].nunique()
        ambiguous = set(clusters[clusters > 1].index) & set(files[name])
        if ambiguous:
            files.loc[files[name].isin(ambiguous), name] = ""
            warnings.append(
                f"{name.replace('_', ' ')}: {len(ambiguous)} of the batch stand under several admitted patients and "
                "were not compared; look at them with `oncoloop data recheck`"
            )
    names = files[files["header_patient"] != ""].groupby("patient")["header_person"].nunique()
    if (names > 1).any():
        warnings.append(f"patients with several names or birth dates in their headers: {int((names > 1).sum())}")
    files.loc[files["header_patient"] != "", "header_person"] = ""
    return files, warnings


def _components(files: pd.DataFrame) -> NDArray[np.int64]:
    """The number of the group of each file (n): those that hang together by their patient or by a sign."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[tuple[str, str], int] = {}
    edges = []
    for name in ("patient", *SIGNS):
        kind = "id" if name in ("spelling", "header_patient") else name
        for place, sign in enumerate(files[name]):
            if sign and (name != "header_person" or sign.startswith(BOTH)):
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
    if _count(files["header_patient"]) > 1:
        return "two persons of the DICOM headers are one patient of the table: mend patient_id"
    persons = files.loc[files["header_person"] != "", "header_person"].drop_duplicates()
    if persons.str.split(" ").str[0].duplicated().any():
        return "two persons of the DICOM headers, by name or birth date, are one patient of the table: mend patient_id"
    return ""


def _count(column: pd.Series[str]) -> int:
    return int(column[column != ""].nunique())


def _rows_of(units: pd.Series[str], rows: Mapping[str, int]) -> str:
    numbers = sorted({rows[unit] for unit in units if unit in rows})
    named = [str(number) for number in numbers] or sorted(units)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    called = "rows" if numbers else "units"
    return f"{called if len(named) > 1 else called[:-1]} {', '.join(named[:NAMED])}{more}"


def _listed(places: Sequence[str]) -> str:
    more = f"; and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return "; ".join(places[:NAMED]) + more


def _person(header: HeaderIdentity) -> str:
    name, birth = folded_name(header), birth_day(header)
    kind = BOTH if name and birth else "name" if name else "birth" if birth else ""
    return " ".join(filter(None, (kind, name, birth)))


def _unique(uid: str) -> str:
    return uid if UID.fullmatch(uid) and not uid.startswith(WELL_KNOWN) else ""


def _keyed_text(text: str) -> str:
    kind = text.partition(" ")[0]
    pseudonym = keys.pseudonym(text)
    return pseudonym if kind == "id" else f"{kind} {pseudonym}"


def _short(uid: str) -> str:
    return fingerprint.text_sha256(uid)[:16]
