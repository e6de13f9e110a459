"""Whose scan it is: pseudonyms, shifted dates and rounded ages out of a row of metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from data.record import Scan
from lineage import keys
from lineage.errors import Fault

OLDEST = 90
UNKNOWN = "?"
IMPOSSIBLE = 130  # years
LONGEST = 999  # of the three digits of an age string
AGE = re.compile(r"(?P<count>\d{1,4}([.,]\d{1,4})?)(?P<unit>[YMWD]?)")
YEAR = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}  # how many of each a year has


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
        "age": age(stated_age(row, scan.header.get("age", ""))),
        "sex": among((row["sex"] or scan.header.get("sex", "")).upper(), ("F", "M", "O", "")),
        "scanner": row["scanner"]
        or " ".join(filter(None, (scan.header.get("manufacturer", ""), scan.header.get("model", "")))),
    }


def stated_age(row: Mapping[str, str], header: str) -> str:
    """The age that counts: that of the row where it is one, else that of the header."""
    cell = row.get("age", "")
    return cell if age(cell) is not None else header


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
    """Years, from "63" or an age of DICOM (PS3.5, section 6.2: "063Y", "018M", "006W", "010D"), to two decimals.

    Letters may be small, numbers short, and spaces are ignored; what is no age is None. From 90 on only 90, since
    higher ages point at people.
    """
    told = AGE.fullmatch("".join(text.split()).upper())
    if told is None:
        return None
    years = float(told["count"].replace(",", ".")) / YEAR[told["unit"] or "Y"]
    return min(round(years, 2), float(OLDEST)) if years <= IMPOSSIBLE else None


def age_string(text: str) -> str:
    """The same age as DICOM writes it, "" for none: whole years, or months of a young child's decimals."""
    years = age(text)
    if years is None:
        return ""
    told = AGE.fullmatch("".join(text.split()).upper())
    unit = (told["unit"] if told else "") or "Y"
    count = float(told["count"].replace(",", ".")) if told else 0.0
    if years >= OLDEST:
        return f"{OLDEST:03d}Y"
    if count != int(count) or count > LONGEST:
        unit, count = ("M", years * 12) if years * 12 <= LONGEST else ("Y", years)
    return f"{round(count):03d}{unit}"


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
