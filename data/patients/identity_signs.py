"""Identity signs of a scan from table and DICOM header, and the removal of signs that do not identify."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from data.core_types import IDENTITY_COLUMNS, HeaderIdentity
from data.scan.dicom.header_identity import birth_day, fold_id, folded_name, is_placeholder, read_identity
from lineage import fingerprint, keys

SIGNS = IDENTITY_COLUMNS
JOINING = tuple(name for name in SIGNS if name not in ("header_name", "header_birth"))  # compared with admitted units
LINKS = (
    "patient",
    *(name for name in JOINING if name != "group_spelling"),
)  # signs that make files those of one patient
SIGN_SEPARATOR = "|"  # separator of several ids in one sign
CROWD = 3  # patients with one other number, which is then that of an insurance or a trial
UIDS = ("study", "series", "frame", "instance")
UNIQUE = tuple(f"header_{kind}" for kind in UIDS)
MANY = 3  # patients, all of a batch, with one frame of reference: a constant, no sign
WELL_KNOWN = "1.2.840.10008."  # frames of reference of atlases (PS3.6 A-2), the same for all patients
UID = re.compile(r"[0-9.]{3,64}")  # PS3.5, section 9.1
BOTH = "both"  # name and birth date together identify a person; one of them can only exclude a person


def signs(patient_id: str, header: HeaderIdentity, group: str = "") -> dict[str, str]:
    """The signs of one scan in clear, for `check`; `patient_id` and `group` are those of the table or the folder."""
    name, birth = folded_name(header), birth_day(header)
    others = [
        fold_id(other_id)
        for other_id in header.others
        if not is_placeholder(other_id) and fold_id(other_id) != fold_id(header.patient_id)
    ]
    return {
        "spelling": f"id {fold_id(patient_id or group)}" if patient_id or group else "",
        "header_patient": "" if is_placeholder(header.patient_id) else f"id {fold_id(header.patient_id)}",
        "header_person": _person(header),
        **{f"header_{kind}": _identifying_uid(getattr(header, kind)) for kind in UIDS},
        "header_others": SIGN_SEPARATOR.join(f"id {other_id}" for other_id in dict.fromkeys(others)),
        "header_name": f"name {name}" if name else "",
        "header_birth": f"birth {birth}" if birth else "",
        "group_spelling": f"group {fold_id(group)}" if group else "",
    }


def keyed(plain: Mapping[str, str]) -> dict[str, str]:
    """Signs as the manifest stores them; they cannot be recomputed without this installation's key.

    UIDs are those of the de-identified copy, shortened, so that `stored_signs` gives the same signs.
    """

    def sign(name: str, text: str) -> str:
        return (
            _short(keys.uid(text))
            if name in UNIQUE
            else SIGN_SEPARATOR.join(map(_keyed_text, text.split(SIGN_SEPARATOR)))
        )

    return {name: sign(name, text) if text else "" for name, text in plain.items()}


def stored_signs(header: Any) -> dict[str, str]:
    """The signs that a de-identified DICOM copy (its data set) still has: those of its UIDs, as `keyed` gives them.

    They serve batches that were admitted before the manifest had columns for signs.
    """
    identity = read_identity(header)
    return {f"header_{kind}": _short(uid) if (uid := getattr(identity, kind)) else "" for kind in UIDS}


def without_constants(files: pd.DataFrame, earlier: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The new and the admitted files without the signs that do not identify, and warnings about these."""
    files, earlier, warnings = files.copy(), earlier.copy(), []
    patients = files["patient"].nunique()

    def is_constant(name: str) -> bool:
        return len(files) > 0 and bool((files[name] == files[name].iloc[0]).all()) and files[name].iloc[0] != ""

    is_one_person = is_constant("header_person") and files["header_person"].iloc[0].startswith(BOTH)
    if patients > 1 and is_constant("header_patient") and not is_one_person:
        files["header_patient"] = ""
        warnings.append("every scan has the same PatientID in its header: the headers do not say who is who")
    for name, label in (("header_frame", "frame of reference"), ("header_instance", "instance UID")):
        if patients >= MANY and is_constant(name) and not is_constant("header_study"):
            files[name] = ""
            warnings.append(f"every scan has the same {label} in its header: it does not say who is who")
    warnings += _split_shared_numbers(files, earlier)
    warnings += _drop_crowd_numbers(files, earlier)
    for name in LINKS[2:] if len(earlier) else ():
        clusters = earlier[earlier[name] != ""].groupby(name)["cluster"].nunique()
        ambiguous = set(clusters[clusters > 1].index) & set(files[name])
        if ambiguous:
            files.loc[files[name].isin(ambiguous), name] = ""
            warnings.append(
                f"{name.replace('_', ' ')}: {len(ambiguous)} of the batch belong to several admitted patients and "
                "were not compared; check them with `oncoloop data recheck`"
            )
    names = files[files["header_patient"] != ""].groupby("patient")["header_person"].nunique()
    if (names > 1).any():
        warnings.append(f"patients with several names or birth dates in their headers: {int((names > 1).sum())}")
    files.loc[files["header_patient"] != "", "header_person"] = ""
    return files, earlier, warnings


def _split_shared_numbers(files: pd.DataFrame, earlier: pd.DataFrame) -> list[str]:
    """Distinguish, in place, a patient number that two hospitals gave to two people; returns warnings.

    Such a number belongs to several patients of the table whose headers differ in the name and in the birth date.
    """
    numbered = pd.concat([files, earlier])
    numbered = numbered[numbered["header_patient"] != ""]
    several = numbered.groupby("header_patient")["patient"].nunique()
    split = []
    for number in several.index[several > 1]:
        patients = numbered[numbered["header_patient"] == number].groupby("patient")
        if all(
            _are_disjoint([set(values) for _, values in patients[name]]) for name in ("header_name", "header_birth")
        ):
            split.append(number)
    for table in (files, earlier):
        is_split = table["header_patient"].isin(split)
        table.loc[is_split, "header_patient"] += " of " + table.loc[is_split, "patient"]
    if not split:
        return []
    return [f"patient numbers of the headers that stand for people of other names and birth dates: {len(split)}"]


def _are_disjoint(values: Sequence[set[str]]) -> bool:
    """Whether the sets share no value, and none holds an empty value."""
    return "" not in set().union(*values) and sum(map(len, values)) == len(set().union(*values))


def _drop_crowd_numbers(files: pd.DataFrame, earlier: pd.DataFrame) -> list[str]:
    """Remove, in place, other numbers that many patients have; returns warnings."""
    scans = pd.concat([files, earlier])
    scans = scans[scans["header_others"] != ""]
    numbered = scans[["patient"]].assign(number=scans["header_others"].str.split(SIGN_SEPARATOR)).explode("number")
    patients = numbered.groupby("number")["patient"].nunique()
    crowd_numbers = set(patients.index[patients >= CROWD])
    for table in (files, earlier) if crowd_numbers else ():
        table["header_others"] = [
            SIGN_SEPARATOR.join(number for number in text.split(SIGN_SEPARATOR) if number not in crowd_numbers)
            for text in table["header_others"]
        ]
    return (
        [f"other patient IDs of the headers that {CROWD} or more patients have: {len(crowd_numbers)}"]
        if crowd_numbers
        else []
    )


def _person(header: HeaderIdentity) -> str:
    name, birth = folded_name(header), birth_day(header)
    kind = BOTH if name and birth else "name" if name else "birth" if birth else ""
    return " ".join(filter(None, (kind, name, birth)))


def _identifying_uid(uid: str) -> str:
    return uid if UID.fullmatch(uid) and not uid.startswith(WELL_KNOWN) else ""


def _keyed_text(text: str) -> str:
    kind = text.partition(" ")[0]
    pseudonym = keys.pseudonym(text)
    return pseudonym if kind == "id" else f"{kind} {pseudonym}"


def _short(uid: str) -> str:
    return fingerprint.text_sha256(uid)[:16]
