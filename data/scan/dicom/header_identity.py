"""The identity in a DICOM header, and the comparison of ids, names and birth dates in different spellings."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from data.core_types import HeaderIdentity
from data.identifiers import fold_text

# ruff: noqa: SIM905  lists of words read better as text
PLACEHOLDERS = frozenset(
    "anon anonym anonymous anonymised anonymized anonymus anonymouspatient unknown unbekannt none null nan na no id "
    "name noname noid nopatientid patient patientid patientname test tester deid deidentified removed redacted hidden "
    "empty default notavailable notapplicable notspecified undefined private pseudonym phantom subject".split()
)
UNKNOWN_BIRTH_DATES = ("", "00000000", "18000101", "19000101", "19010101", "19700101", "99991231")
LOOKALIKES = str.maketrans("авекмнорстухіјѕαβεζηικμνορτυχ", "abekmhopctyxijsabezhikmnoptyx") | str.maketrans(
    {"ı": "i", "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe"}
)  # letters of other scripts that look like ASCII in upper case, and letters that NFKD does not decompose
MAX_OTHER_IDS = 16  # of one patient
SEPARATORS = re.compile(r"[\W_]+")


def read_identity(header: Any) -> HeaderIdentity:
    """The patient in a DICOM data set (PS3.3 C.7.1.1), its study, series, frame of reference and instance.

    Also its institution (PS3.3 C.7.5.1).
    """

    def text(keyword: str) -> str:
        return str(header.get(keyword) or "").strip(" \0")

    return HeaderIdentity(
        patient_id=text("PatientID"),
        name=text("PatientName"),
        birth_date=text("PatientBirthDate"),
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        frame=text("FrameOfReferenceUID"),
        instance=text("SOPInstanceUID"),
        others=_other_ids(header),
        institution=text("InstitutionName"),
    )


def _other_ids(header: Any) -> tuple[str, ...]:
    """The other ids of the patient (PS3.3 C.7.1.1), for example of a second hospital."""
    texts = header.get("OtherPatientIDs") or ""
    ids = [texts] if isinstance(texts, str) else list(texts)
    ids += [item.get("PatientID") or "" for item in header.get("OtherPatientIDsSequence") or []]
    return tuple(dict.fromkeys(text for value in ids[:MAX_OTHER_IDS] if (text := str(value).strip(" \0"))))


@lru_cache(maxsize=4096)
def fold_id(text: str) -> str:
    """The normal form of an id, equal for all spellings of one id.

    Spellings differ in leading zeros, case, a trailing `.0`, spaces, hyphens, accents, full-width letters and letters
    of another script that look alike. Digits that a separator divides stay divided: `1-11` is not `11-1`.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()).translate(LOOKALIKES)
    plain = "".join(_ascii_digit(letter) for letter in plain if unicodedata.category(letter) not in ("Mn", "Cf", "Cc"))
    plain = re.sub(r"^(\d+)[.,]0+$", r"\1", plain.strip())
    plain = SEPARATORS.sub(lambda match: _divider(plain, match), plain)
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain) or text


def is_placeholder(text: str) -> bool:
    """Whether an id or a name identifies nobody: empty, zeros, one repeated letter, or a word such as `ANON`."""
    letters = SEPARATORS.sub("", fold_id(text)) if text else ""
    return letters in PLACEHOLDERS or not letters.strip("0") or (letters.isalpha() and len(set(letters)) == 1)


def is_word_for_nobody(text: str) -> bool:
    """Whether a cell says that an id is unknown: `nan`, `n/a`, `unknown`, `-`. A letter or zeros may be an id."""
    letters = SEPARATORS.sub("", fold_id(text))
    return bool(text) and (letters in PLACEHOLDERS or not letters)


def spelling_variants(ids: Iterable[str]) -> list[list[int]]:
    """The positions (from 0) of ids that only differ in spelling: one list for each such id, in order.

    A list holds the first position of each spelling.
    """
    first_positions: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for position, text in enumerate(ids):
        if text:
            first_positions[fold_id(text)].setdefault(text, position)
    return [list(positions.values()) for positions in first_positions.values() if len(positions) > 1]


def identity_difference(first: HeaderIdentity, second: HeaderIdentity) -> str:
    """The first property that shows different people: "patient", "name", "birth date"; "" if none does."""
    if fold_id(first.patient_id) != fold_id(second.patient_id):
        return "patient"
    for property_name, first_value, second_value in (
        ("name", folded_name(first), folded_name(second)),
        ("birth date", birth_day(first), birth_day(second)),
    ):
        if first_value and second_value and first_value != second_value:
            return property_name
    return ""


def _ascii_digit(letter: str) -> str:
    """A decimal digit of any script as an ASCII digit; other letters are unchanged."""
    return str(unicodedata.decimal(letter, letter))


def _divider(text: str, match: re.Match[str]) -> str:
    neighbours = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 1]
    return "-" if all(letter.isdigit() for letter in neighbours) else ""


def folded_name(header: HeaderIdentity) -> str:
    """The words of a name, folded and in alphabetical order; "" for a placeholder."""
    words = SEPARATORS.split(fold_text(header.name.partition("=")[0]))
    plain = " ".join(sorted(filter(None, words)))
    return "" if is_placeholder(plain.replace(" ", "")) else plain


def birth_day(header: HeaderIdentity) -> str:
    """The birth date as YYYYMMDD; "" without one, or for a day that stands for an unknown date."""
    digits = re.sub(r"\D", "", header.birth_date)[:8]
    return "" if digits in UNKNOWN_BIRTH_DATES else digits
