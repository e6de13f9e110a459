"""Pseudonyms, shifted dates and rounded ages from a row of metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from data.core_types import Scan
from lineage import keys
from lineage.errors import Fault

OLDEST = 90
UNKNOWN = "?"
MAX_AGE = 130  # years
MAX_COUNT = 999  # of the three digits of an age string
AGE = re.compile(r"(?P<count>\d{1,4}([.,]\d{1,4})?)(?P<unit>[YMWD]?)")
UNITS_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}


def identity_columns(row: dict[str, str], scan: Scan, sha256: str) -> dict[str, Any]:
    """Pseudonyms, shifted date, age and scanner of a file, the same for all of its slices.

    Without a date each volume is its own case, and single pictures of one patient are one case.
    """
    identity = row["patient_id"] or row["group"]
    patient = keys.pseudonym(identity)
    study_date = shift_date(row["study_date"], identity)
    examination = study_date or (sha256[:8] if len(scan.pixels) > 1 else "")
    return {
        "patient": patient,
        "cluster": keys.pseudonym(f"group {row['group']}") if row["group"] else patient,
        "case": "-".join(filter(None, (patient, examination))),
        "study_date": study_date,
        "age": age_in_years(stated_age(row, scan.header.get("age", ""))),
        "sex": known_term((row["sex"] or scan.header.get("sex", "")).upper(), ("F", "M", "O", "")),
        "scanner": row["scanner"]
        or " ".join(filter(None, (scan.header.get("manufacturer", ""), scan.header.get("model", "")))),
    }


def stated_age(row: Mapping[str, str], header: str) -> str:
    """The age of the row if it is a valid age, else the age of the header."""
    cell = row.get("age", "")
    return cell if age_in_years(cell) is not None else header


def shift_date(text: str, identity: str) -> str:
    """An ISO date shifted by the patient's own number of days."""
    if not text:
        return ""
    try:
        day = date.fromisoformat(text)
        return (day + timedelta(days=keys.day_shift(identity))).isoformat()
    except (ValueError, OverflowError) as error:
        raise Fault("the study_date of its row is not a date such as 2026-01-31; correct the cell") from error


def age_in_years(text: str) -> float | None:
    """Years to two decimals, from "63" or a DICOM age (PS3.5, section 6.2: "063Y", "018M", "006W", "010D").

    Lower case and short numbers are accepted, and spaces are ignored. Any other text gives None. Ages from 90 on become
    90, since a higher age may identify a person.
    """
    match = AGE.fullmatch("".join(text.split()).upper())
    if match is None:
        return None
    years = float(match["count"].replace(",", ".")) / UNITS_PER_YEAR[match["unit"] or "Y"]
    return min(round(years, 2), float(OLDEST)) if years <= MAX_AGE else None


def age_string(text: str) -> str:
    """The same age as a DICOM age string: whole years, or months for a fraction of years; "" for no age."""
    years = age_in_years(text)
    if years is None:
        return ""
    match = AGE.fullmatch("".join(text.split()).upper())
    unit = (match["unit"] if match else "") or "Y"
    count = float(match["count"].replace(",", ".")) if match else 0.0
    if years >= OLDEST:
        return f"{OLDEST:03d}Y"
    if count != int(count) or count > MAX_COUNT:
        unit, count = ("M", years * 12) if years * 12 <= MAX_COUNT else ("Y", years)
    return f"{round(count):03d}{unit}"


def known_term(text: str, terms: Sequence[str]) -> str:
    """A term of a closed list, else "?": a cell that is off by a column may hold a name, and is not stored."""
    return text if text in terms else UNKNOWN


def parse_number(text: str, name: str) -> float | None:
    """A number of 0 or more, None for an empty cell. A Fault names the column and does not quote the cell."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise Fault(f"the {name} of its row is not a number; correct the cell") from error
    if not math.isfinite(value) or value < 0:
        raise Fault(f"the {name} of its row is not a finite number of 0 or more; correct the cell")
    return value
