"""Whose scan it is: pseudonyms, shifted dates and rounded ages out of a row of metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from data.record import Scan
from lineage import keys
from lineage.fault import Fault

OLDEST = 90
UNKNOWN = "?"
YOUNG = ("M", "W", "D")  # DICOM ages in months, weeks or days


def who(row: dict[str, str], scan: Scan, sha256: str) -> dict[str, Any]:
    """Pseudonyms, shifted date, age and scanner: the same for every slice of a file.

    Without a date a volume is a case of its own; single pictures of one patient are then one case.
    """
    identity = row["patient_id"] or row["group"]
    patient = keys.pseudonym(identity)
    study_date = shifted(row["study_date"], identity)
    examination = study_date or (sha256[:8] if len(scan.pixels) > 1 else "")
    return {
        "patient": patient,
        "cluster": keys.pseudonym(f"group {row['group']}") if row["group"] else patient,
        "case": "-".join(filter(None, (patient, examination))),
        "study_date": study_date,
        "age": age(row["age"] or scan.header.get("age", "")),
        "sex": among((row["sex"] or scan.header.get("sex", "")).upper(), ("F", "M", "O", "")),
        "scanner": row["scanner"] or " ".join(
            filter(None, (scan.header.get("manufacturer", ""), scan.header.get("model", "")))
        ),
    }  # fmt: skip


def shifted(text: str, identity: str) -> str:
    """An ISO date moved by the patient's own number of days."""
    if not text:
        return ""
    try:
        told = date.fromisoformat(text)
        return (told + timedelta(days=keys.day_shift(identity))).isoformat()
    except (ValueError, OverflowError) as error:
        raise Fault("the study_date of its row is not a date such as 2026-01-31; mend the cell") from error


def age(text: str) -> float | None:
    """Years, from "63" or DICOM's "063Y"; from 90 on only "90", since higher ages point at people."""
    if text.endswith(YOUNG) and text[:-1].isdecimal():
        return 0.0
    years = number(text.removesuffix("Y"), "age")
    return None if years is None else min(years, float(OLDEST))


def among(text: str, known: Sequence[str]) -> str:
    """A term of a closed list, else "?": a cell that slipped by a column, with a name in it, is not kept."""
    return text if text in known else UNKNOWN


def number(text: str, name: str) -> float | None:
    """A number of 0 or more, None for an empty cell. Fault names the column and does not quote the cell."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise Fault(f"the {name} of its row is not a number; mend the cell") from error
    if not math.isfinite(value) or value < 0:
        raise Fault(f"the {name} of its row is not a plain number of 0 or more; mend the cell")
    return value
