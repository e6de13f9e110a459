"""Who a DICOM header names, and ids as people spell them: what two files or two cells say of one person."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from data.identifiers import folded
from data.record import HeaderIdentity

# ruff: noqa: SIM905  lists of words read better as text
PLACEHOLDERS = frozenset(
    "anon anonym anonymous anonymised anonymized anonymus anonymouspatient unknown unbekannt none null nan na no id "
    "name noname noid nopatientid patient patientid patientname test tester deid deidentified removed redacted hidden "
    "empty default notavailable notapplicable notspecified undefined private pseudonym phantom subject".split()
)
NO_BIRTH = ("", "00000000", "18000101", "19000101", "19010101", "19700101", "99991231")
LOOKALIKES = str.maketrans("авекмнорстухіјѕαβεζηικμνορτυχ", "abekmhopctyxijsabezhikmnoptyx") | str.maketrans(
    {"ı": "i", "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe"}
)  # letters of other keyboards that look like those of ASCII when they are large, and those that NFKD leaves whole
MOST = 16  # other numbers of one patient
SEPARATORS = re.compile(r"[\W_]+")


def of_header(header: Any) -> HeaderIdentity:
    """Who a DICOM data set names (PS3.3 C.7.1.1) and which study, series and frame of reference it belongs to."""

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
        others=_others(header),
    )


def _others(header: Any) -> tuple[str, ...]:
    """The other numbers of the patient (PS3.3 C.7.1.1), as of a second hospital."""
    texts = header.get("OtherPatientIDs") or ""
    several = [texts] if isinstance(texts, str) else list(texts)
    several += [item.get("PatientID") or "" for item in header.get("OtherPatientIDsSequence") or []]
    return tuple(dict.fromkeys(text for each in several[:MOST] if (text := str(each).strip(" \0"))))


@lru_cache(maxsize=4096)
def fold(text: str) -> str:
    """An id without what spellings of one id differ in: zeros in front, case, a trailing `.0`, spaces, hyphens,
    accents, full-width letters, letters of another keyboard that look alike. Digits that a separator divides stay
    divided: `1-11` is not `11-1`.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()).translate(LOOKALIKES)
    plain = "".join(_digit(letter) for letter in plain if unicodedata.category(letter) not in ("Mn", "Cf", "Cc"))
    plain = re.sub(r"^(\d+)[.,]0+$", r"\1", plain.strip())
    plain = SEPARATORS.sub(lambda match: _divider(plain, match), plain)
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain) or text


def is_placeholder(text: str) -> bool:
    """Whether an id or a name stands for nobody: empty, zeros, one letter over and over, or a word such as `ANON`."""
    letters = SEPARATORS.sub("", fold(text)) if text else ""
    return letters in PLACEHOLDERS or not letters.strip("0") or (letters.isalpha() and len(set(letters)) == 1)


def is_word_for_nobody(text: str) -> bool:
    """Whether a cell says that an id is unknown: `nan`, `n/a`, `unknown`, `-`. A letter or zeros may be a number."""
    letters = SEPARATORS.sub("", fold(text))
    return bool(text) and (letters in PLACEHOLDERS or not letters)


def spellings(ids: Iterable[str]) -> list[list[int]]:
    """The places (from 0) where ids stand that differ in spelling alone: one list for each such id, in order, with the
    first place of each spelling."""
    first: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for place, text in enumerate(ids):
        if text:
            first[fold(text)].setdefault(text, place)
    return [list(places.values()) for places in first.values() if len(places) > 1]


def difference(first: HeaderIdentity, other: HeaderIdentity) -> str:
    """What says that two files are of different people: "patient", "name", "birth date"; "" if nothing does."""
    if fold(first.patient_id) != fold(other.patient_id):
        return "patient"
    for called, one, two in (
        ("name", folded_name(first), folded_name(other)),
        ("birth date", birth_day(first), birth_day(other)),
    ):
        if one and two and one != two:
            return called
    return ""


def _digit(letter: str) -> str:
    """A decimal digit of any script as that of ASCII."""
    return str(unicodedata.decimal(letter, letter))


def _divider(text: str, match: re.Match[str]) -> str:
    around = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 1]
    return "-" if all(letter.isdigit() for letter in around) else ""


def folded_name(header: HeaderIdentity) -> str:
    """The words of a name, folded and in order of the alphabet; "" for a placeholder."""
    words = SEPARATORS.split(folded(header.name.partition("=")[0]))
    plain = " ".join(sorted(filter(None, words)))
    return "" if is_placeholder(plain.replace(" ", "")) else plain


def birth_day(header: HeaderIdentity) -> str:
    """The birth date as YYYYMMDD; "" for none or for a day that stands for none."""
    digits = re.sub(r"\D", "", header.birth_date)[:8]
    return "" if digits in NO_BIRTH else digits
