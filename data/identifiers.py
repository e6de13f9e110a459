"""Identifying parts of names and numbers (secrets), and their detection in texts that are stored."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lineage.errors import Fault

log = logging.getLogger(__name__)

MIN_LONG = 4  # letters or digits; a part of this length identifies anywhere, also within another word
MIN_SHORT = 2  # letters; a name of this length (Ng, Roy) identifies as a separate word; single letters are initials
FREE_TEXT_FACTS = ("body_part", "manufacturer", "model", "kernel", "laterality")  # facts of a scan that are free text
MIN_INSIDE = 6  # letters or digits; in a metadata cell a shorter part only identifies as a separate word
PATIENT = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "AccessionNumber",
    "PatientTelephoneNumbers",
    "ResponsiblePerson",
)
# Numbers of a study, a request or a stay, if they have a digit; a word such as CTHEAD is a kind of examination.
ORDERS = (
    "StudyID",
    "RequestedProcedureID",
    "ScheduledProcedureStepID",
    "PerformedProcedureStepID",
    "AdmissionID",
    "ServiceEpisodeID",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "MedicalRecordLocator",
)
STAFF = (
    "ReferringPhysicianName",
    "OperatorsName",
    "PerformingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "ScheduledPerformingPhysicianName",
    "ConsultingPhysicianName",
    "ContentCreatorName",
    "PersonName",
)
MAX_DEPTH = 8  # of nested sequences that are searched for names and numbers
FRAMES_TAG = 0x52009230  # PerFrameFunctionalGroupsSequence: the attributes of thousands of frames identify nobody
PLACES = ("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "PatientAddress")
IDENTIFYING = (*PATIENT, *ORDERS, *STAFF, *PLACES, "PatientBirthDate")
CELLS = ("site", "scanner", "labeller", "labelled_at", "stage")  # free text of metadata that the manifest stores
# ruff: noqa: SIM905  lists of words read better as text
# Words of file names and institutions that also occur in ordinary headers: they are no part of a name.
COMMON_WORDS = frozenset(
    "abdomen abdominal anatomic angio anonymous arterial axial batch benign body brain breast canon case center "
    "centre chest class clinic clinical colon contrast coronal ct cancer carestream data deid delayed department "
    "derived diagnostic dicom elscint electric examination export female file flair frame fuji fujifilm general group "
    "head health healthcare helical hitachi hospital image images imaging import institute jpeg kidney kingdom large "
    "lesion liver localizer lung lungs magnetic male malignant mask medical medicine mr national neck nema neusoft "
    "nifti none normal number organ original oncoloop pancreas patient pelvis phantom philips phase picture plain "
    "portal post prostate primary project radiology real research resonance sagittal scan scanner secondary segment "
    "sequence series shimadzu siemens single slice spine spiral spin study subject system systems task test thorax "
    "tissue tomography toshiba train tumor tumour unit united university unknown vendor venous view volume whole "
    "window with without year".split()
)
GAP = "…"
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Secrets:
    """Parts of names and numbers, folded: `long` parts identify anywhere, `short` parts as whole words."""

    long: frozenset[str] = frozenset()
    short: frozenset[str] = frozenset()

    def __or__(self, other: Secrets) -> Secrets:
        """The union of both."""
        return Secrets(self.long | other.long, self.short | other.short)


def secrets_of_row(row: Mapping[str, str]) -> Secrets:
    """The secrets of a metadata row: its patient and group."""
    return _secrets([row.get("patient_id", ""), row.get("group", "")])


def secrets_of_names(names: Iterable[str]) -> Secrets:
    """The words of file, folder and archive names that are no common words of the field."""
    return _name_secrets(tuple(names))


@lru_cache(maxsize=256)
def _name_secrets(names: tuple[str, ...]) -> Secrets:
    words = {fold_text(word) for name in names for word in WORD.findall(name)}
    return Secrets(frozenset(word for word in words if len(word) >= MIN_LONG and not _common(word)))


@dataclass(frozen=True)
class People:
    """The secrets of a DICOM data set, at any depth: of the patient, and of the hospital with its staff."""

    patient: Secrets = Secrets()
    hospital: Secrets = Secrets()


def find_people(header: Any) -> People:
    """The patient's names, numbers and birth date, staff and institution in a DICOM data set and its items.

    None stands for another format and names nobody.
    """
    patient, hospital = Secrets(), Secrets()
    for item in _items(header) if header is not None else ():
        keywords = present_keywords(item, IDENTIFYING)
        if not keywords:
            continue
        if "PatientBirthDate" in keywords:
            birth_date = re.sub(r"\D", "", str(item.get("PatientBirthDate") or ""))[:8]
            year, month, day = birth_date[:4], birth_date[4:6], birth_date[6:]
            dates = {birth_date, day + month + year, month + day + year}
            patient |= Secrets(frozenset(dates if len(birth_date) == 8 else ()))
        orders = [
            text
            for text in _values_of(item, keywords, ORDERS)
            if len(text) >= MIN_INSIDE and any(map(str.isdecimal, text))
        ]
        patient |= _secrets([*_values_of(item, keywords, PATIENT), *orders])
        hospital |= _secrets(_values_of(item, keywords, STAFF)) | secrets_of_names(_values_of(item, keywords, PLACES))
    return People(patient, hospital)


def contains_secret(text: str, secrets: Secrets, words: bool = True) -> bool:
    """Whether a text contains a secret. With `words` short names count too; not in codes, whose terms are as short."""
    plain = fold_text(text)
    squeezed = "".join(WORD.findall(plain))
    if any(secret in plain or secret in squeezed for secret in secrets.long):
        return True
    return words and bool(secrets.short) and not secrets.short.isdisjoint(WORD.findall(plain))


def contains_patient_number(text: str, secrets: Secrets) -> bool:
    """Whether a number contains one of the patient's numbers. Short numbers are ignored, because they are common."""
    return len(text) >= MIN_INSIDE and any(len(secret) >= MIN_INSIDE and secret in text for secret in secrets.long)


def redact_facts(
    facts: Mapping[str, str], header_people: People, row: Mapping[str, str], names: Iterable[str]
) -> dict[str, str]:
    """The header facts of a scan, emptied where a free text identifies a person; `header_people` are in its header."""
    secrets = secrets_of_row(row) | secrets_of_names(names) | header_people.patient | header_people.hospital
    return {
        name: "" if name in FREE_TEXT_FACTS and contains_secret(text, secrets) else text for name, text in facts.items()
    }


def free_text_cells(rows: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The free texts of metadata that the manifest stores, mapped to their columns."""
    return {row[name]: name for row in rows for name in CELLS if row.get(name)}


def check_cells(name: str, columns_by_text: Mapping[str, str], secrets: Secrets) -> None:
    """Fault, without quoting it, if a text that the manifest stores repeats the patient's name or number."""
    for text, column in columns_by_text.items():
        plain = fold_text(text)
        squeezed, words = "".join(WORD.findall(plain)), set(re.split(r"[\s,;]+", plain)) | set(WORD.findall(plain))
        for secret in secrets.long:
            if secret in words or (len(secret) >= MIN_INSIDE and (secret in plain or secret in squeezed)):
                raise Fault(
                    f"{name}: the column {column} of its row repeats the patient's name or number; correct the cell"
                )


def remove_quoted_words(text: str, content: bytes) -> str:
    """A library's message without words that occur in the file's bytes, and without control characters."""
    plain = WORD.sub(lambda match: GAP if _is_quoted(match[0], content) else match[0], text)
    return "".join(letter if letter.isprintable() else GAP for letter in plain)


def _is_quoted(word: str, content: bytes) -> bool:
    return not word.isascii() or (len(word) >= MIN_LONG and word.encode() in content)


@lru_cache(maxsize=4096)
def fold_text(text: str) -> str:
    """Lower case without accents: Müller and MULLER are equal."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _secrets(texts: Iterable[str]) -> Secrets:
    """The parts of names and numbers: split at the separators of names, numbers also without their hyphens."""
    return _split_secrets(tuple(texts))


@lru_cache(maxsize=256)
def _split_secrets(texts: tuple[str, ...]) -> Secrets:
    parts = {part for text in texts for part in re.split(r"[\s^=,;_\\]+", fold_text(text)) if part}
    halves = {word for part in parts for word in WORD.findall(part) if word.isalpha() and len(word) >= MIN_LONG}
    parts |= {"".join(WORD.findall(part)) for part in parts}
    long = frozenset(part for part in parts | halves if len(part) >= MIN_LONG and not _common(part))
    short = frozenset(
        part for part in parts if MIN_SHORT <= len(part) < MIN_LONG and part.isalpha() and not _common(part)
    )
    return Secrets(long, short)


def _common(word: str) -> bool:
    return word in COMMON_WORDS


def _items(header: Any, depth: int = 0) -> Iterator[Any]:
    """A data set and the items of its sequences, at any depth, except frames. An unreadable sequence has no items."""
    yield header
    for tag, stored in list(header.items()):
        number = int(tag)
        if depth >= MAX_DEPTH or number in _non_sequences() or number == FRAMES_TAG:
            continue
        if _is_sequence(number, stored):
            try:
                items = list(header[tag].value or [])
            except Exception as error:  # pydicom raises as many kinds as in `read`
                log.debug("a sequence %s can't be read: %s", tag, type(error).__name__)
                continue
            for item in items:
                yield from _items(item, depth + 1)


def _is_sequence(tag: int, stored: Any) -> bool:
    """Whether an element is a sequence; an implicit file does not say so, the dictionary does (PS3.6)."""
    return stored.VR == "SQ" or (stored.VR in (None, "UN") and tag in _sequences())


@lru_cache(maxsize=1)
def _non_sequences() -> frozenset[int]:
    """The attributes that are no sequences (PS3.6)."""
    from pydicom.datadict import DicomDictionary

    return frozenset(DicomDictionary) - _sequences()


@lru_cache(maxsize=1)
def _sequences() -> frozenset[int]:
    from pydicom.datadict import DicomDictionary

    return frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


def present_keywords(header: Any, keywords: tuple[str, ...]) -> list[str]:
    """The keywords that a DICOM data set has; a look-up of every keyword would parse hundreds of tags per file."""
    tags = _tags(keywords)
    return [tags[tag] for tag in header.keys() if tag in tags]  # noqa: SIM118  iterating parses the values


@lru_cache(maxsize=32)
def _tags(keywords: tuple[str, ...]) -> dict[int, str]:
    from pydicom.datadict import tag_for_keyword

    return {tag: keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}


def _values_of(header: Any, present: list[str], keywords: tuple[str, ...]) -> list[str]:
    return [text for keyword in present if keyword in keywords for text in _texts(header.get(keyword))]


def _texts(value: Any) -> list[str]:
    """The texts of a DICOM element's values."""
    if value is None:
        return []
    return [str(part) for part in value] if hasattr(value, "append") else [str(value)]
