"""What betrays a person: the parts of names and numbers that no text which is kept may hold."""

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

LONG = 4  # letters or digits: a part as long as this betrays wherever it stands, inside of another word too
SHORT = 2  # letters: a name as short as this (Ng, Roy) betrays as a word of its own; single letters are initials
SPOKEN = ("body_part", "manufacturer", "model", "kernel", "laterality")  # facts of a scan that are free text
INSIDE = 6  # letters or digits: in a cell of metadata, what is shorter betrays as a whole word alone
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
# Numbers of a study, a request or a stay: those that have a digit; a word such as CTHEAD names a kind of examination.
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
DEPTH = 8  # of sequences in sequences that are searched for names and numbers
FRAMES = 0x52009230  # PerFrameFunctionalGroupsSequence: what thousands of frames say of themselves names nobody
PLACES = ("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "PatientAddress")
ASKED = (*PATIENT, *ORDERS, *STAFF, *PLACES, "PatientBirthDate")
CELLS = ("site", "scanner", "labeller", "labelled_at", "stage")  # free text of metadata that the manifest keeps
# ruff: noqa: SIM905  lists of words read better as text
# Words that file names and institutions share with honest headers: they are no part of anybody's name.
TERMS = frozenset(
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
    """Parts of names and numbers, folded: `long` ones betray anywhere, `short` ones as whole words."""

    long: frozenset[str] = frozenset()
    short: frozenset[str] = frozenset()

    def __or__(self, other: Secrets) -> Secrets:
        """Both."""
        return Secrets(self.long | other.long, self.short | other.short)


def of_row(row: Mapping[str, str]) -> Secrets:
    """What the row of metadata says of who it is."""
    return _numbers([row.get("patient_id", ""), row.get("group", "")])


def of_names(names: Iterable[str]) -> Secrets:
    """Words of file, folder and archive names, as far as they are no common word of this field."""
    return _words(tuple(names))


@lru_cache(maxsize=256)
def _words(names: tuple[str, ...]) -> Secrets:
    words = {folded(word) for name in names for word in WORD.findall(name)}
    return Secrets(frozenset(word for word in words if len(word) >= LONG and not _common(word)))


@dataclass(frozen=True)
class People:
    """Whom a DICOM data set names, at any depth: the patient, and the hospital with its staff."""

    patient: Secrets = Secrets()
    hospital: Secrets = Secrets()


def people(header: Any) -> People:
    """The patient's names, numbers and birth date, staff and institution out of a DICOM data set and its items; nobody
    out of None, which stands for another format."""
    patient, hospital = Secrets(), Secrets()
    for item in _items(header) if header is not None else ():
        found = there(item, ASKED)
        if not found:
            continue
        if "PatientBirthDate" in found:
            born = re.sub(r"\D", "", str(item.get("PatientBirthDate") or ""))[:8]
            turned = (born[6:] + born[4:6] + born[:4], born[4:6] + born[6:] + born[:4])
            patient |= Secrets(frozenset({born, *turned} if len(born) == 8 else ()))
        orders = [text for text in _said(item, found, ORDERS) if len(text) >= INSIDE and any(map(str.isdecimal, text))]
        patient |= _numbers([*_said(item, found, PATIENT), *orders])
        hospital |= _numbers(_said(item, found, STAFF)) | of_names(_said(item, found, PLACES))
    return People(patient, hospital)


def betrays(text: str, secrets: Secrets, words: bool = True) -> bool:
    """Does a text hold a secret? `words` asks for short names too: not in codes, whose terms are as short."""
    plain = folded(text)
    squeezed = "".join(WORD.findall(plain))
    if any(secret in plain or secret in squeezed for secret in secrets.long):
        return True
    return words and bool(secrets.short) and not secrets.short.isdisjoint(WORD.findall(plain))


def is_number_of(text: str, secrets: Secrets) -> bool:
    """Does a number repeat one of the patient's? Short ones are everywhere."""
    return len(text) >= INSIDE and any(len(secret) >= INSIDE and secret in text for secret in secrets.long)


def silent(facts: Mapping[str, str], named: People, row: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Facts that a header states of a scan, empty where one betrays somebody; `named` are whom the header names."""
    secrets = of_row(row) | of_names(names) | named.patient | named.hospital
    return {name: "" if name in SPOKEN and betrays(text, secrets) else text for name, text in facts.items()}


def cells(rows: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The free texts of metadata that the manifest keeps -> the column where each stands."""
    return {row[name]: name for row in rows for name in CELLS if row.get(name)}


def check_cells(name: str, kept: Mapping[str, str], secrets: Secrets) -> None:
    """Fault, without quoting it, where a text that the manifest keeps repeats the patient's name or number."""
    for text, column in kept.items():
        plain = folded(text)
        squeezed, words = "".join(WORD.findall(plain)), set(re.split(r"[\s,;]+", plain)) | set(WORD.findall(plain))
        for secret in secrets.long:
            if secret in words or (len(secret) >= INSIDE and (secret in plain or secret in squeezed)):
                raise Fault(
                    f"{name}: the column {column} of its row repeats the patient's name or number; mend the cell"
                )


def unquoted(text: str, content: bytes) -> str:
    """A foreign message without what it quotes from a file: words that stand in its bytes, and control characters."""
    plain = WORD.sub(lambda found: GAP if _stands(found[0], content) else found[0], text)
    return "".join(one if one.isprintable() else GAP for one in plain)


def _stands(word: str, content: bytes) -> bool:
    return not word.isascii() or (len(word) >= LONG and word.encode() in content)


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Lower case, without accents: Müller and MULLER are one."""
    return "".join(one for one in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(one))


def _numbers(texts: Iterable[str]) -> Secrets:
    """Parts of names and numbers: split where DICOM and people split names, numbers also without their hyphens."""
    return _parts(tuple(texts))


@lru_cache(maxsize=256)
def _parts(texts: tuple[str, ...]) -> Secrets:
    parts = {part for text in texts for part in re.split(r"[\s^=,;_\\]+", folded(text)) if part}
    halves = {word for part in parts for word in WORD.findall(part) if word.isalpha() and len(word) >= LONG}
    parts |= {"".join(WORD.findall(part)) for part in parts}
    long = frozenset(part for part in parts | halves if len(part) >= LONG and not _common(part))
    short = frozenset(part for part in parts if SHORT <= len(part) < LONG and part.isalpha() and not _common(part))
    return Secrets(long, short)


def _common(word: str) -> bool:
    return word in TERMS


def _items(header: Any, depth: int = 0) -> Iterator[Any]:
    """A data set and the items of its sequences, at any depth but of frames. What can't be read holds no item."""
    yield header
    for tag, stored in list(header.items()):
        number = int(tag)
        if depth >= DEPTH or number in _values() or number == FRAMES:
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
def _values() -> frozenset[int]:
    """The attributes that are no sequences (PS3.6)."""
    from pydicom.datadict import DicomDictionary

    return frozenset(DicomDictionary) - _sequences()


@lru_cache(maxsize=1)
def _sequences() -> frozenset[int]:
    from pydicom.datadict import DicomDictionary

    return frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


def there(header: Any, keywords: tuple[str, ...]) -> list[str]:
    """Those of the keywords that a DICOM data set holds: asking it for each would parse hundreds of tags a file."""
    tags = _tags(keywords)
    return [tags[tag] for tag in header.keys() if tag in tags]  # noqa: SIM118  iterating parses the values


@lru_cache(maxsize=32)
def _tags(keywords: tuple[str, ...]) -> dict[int, str]:
    from pydicom.datadict import tag_for_keyword

    return {tag: keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}


def _said(header: Any, found: list[str], keywords: tuple[str, ...]) -> list[str]:
    return [text for keyword in found if keyword in keywords for text in _texts(header.get(keyword))]


def _texts(value: Any) -> list[str]:
    """The text of a DICOM value, or of each of its values."""
    if value is None:
        return []
    return [str(one) for one in value] if hasattr(value, "append") else [str(value)]
