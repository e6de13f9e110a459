"""De-identification at the door, DICOM PS3.15 Annex E: what leaves this module names nobody.

For DICOM a list of what may stay, not of what must go: every attribute that is not named here is removed, at any
depth, private ones included. It is stricter than the Basic Application Level Confidentiality Profile (Table E.1-1,
which the tests walk through). The options that are used (and stated in the file): patient characteristics (sex, age
under 90) and modified dates. What is burned into pixels is not removed but found
(`data/deidentify/burned_in_text.py`) and kept out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from data import identifiers
from data.deidentify import dicom_profile, other_formats, pseudonyms, value_representation
from data.identifiers import People, Secrets
from data.scan import read
from data.scan.dicom import closed_terms, pixel_data
from lineage import keys
from lineage.errors import Fault

DAYS = (*dicom_profile.DATES, *dicom_profile.MOMENTS)
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
UID = re.compile(r"[0-9.]{1,64}")  # PS3.5, section 9.1
_NONE: Mapping[str, str] = {}


def anonymise(
    name: str,
    content: bytes,
    metadata: Mapping[str, str],
    header: Any = None,
    names: Iterable[str] = (),
    cells: Mapping[str, str] = _NONE,
    named: People | None = None,
) -> tuple[str, bytes]:
    """The suffix of the format, and the de-identified bytes.

    `metadata` is the scan's row: its `patient_id`, else `group`, is the identity behind pseudonym and dates; without
    either it is the PatientID of the DICOM header. `header` is the parsed data set, where it is at hand, and `named`
    whom it names. `names` are those of file, folder and archive: no text that stays may hold their words. `cells` are
    the free texts of the scan's rows. Fault names what can't be parsed, and a cell that repeats the patient.
    """
    secrets = identifiers.of_row(metadata)
    kind = read.kind_of(name, content)
    if kind == "picture":
        suffix, clean = other_formats.picture(name, content)
    elif kind == "nifti":
        clean, suffix = other_formats.nifti(name, content), ".nii.gz" if content[:2] == b"\x1f\x8b" else ".nii"
    else:
        header = header if header is not None else read.opened(name, content)[1]
        clean, secrets = _dicom(name, header, metadata, secrets, identifiers.of_names(names), named)
        suffix = ".dcm"
    identifiers.check_cells(name, cells, secrets)
    return suffix, clean


def _dicom(
    name: str, header: Any, metadata: Mapping[str, str], row: Secrets, names: Secrets, named: People | None
) -> tuple[bytes, Secrets]:
    """The de-identified file, and the patient's secrets out of row and header."""
    told = metadata.get("patient_id") or metadata.get("group") or ""
    try:
        named = named or identifiers.people(header)
        patient = row | named.patient
        clean = _allowed(name, header, patient | named.hospital | names)
        for keyword in dicom_profile.PIXELS:
            if keyword in clean:
                clean[keyword].value = pixel_data.clean(header, keyword)
        _replace_identity(header, clean, told or str(header.get("PatientID") or ""), metadata)
        return _written(header, clean), patient
    except Fault:
        raise
    except Exception as error:  # as above: a value is parsed only when it is asked for
        raise Fault(f"{name}: cannot be de-identified ({type(error).__name__}); export it again") from error


@lru_cache(maxsize=1)
def _kept() -> dict[int, str]:
    """The attributes that may stay, and the value representation of each (PS3.6)."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tags = (tag_for_keyword(keyword) for keyword in dicom_profile.KEPT.split())
    return {tag: dictionary_VR(tag) for tag in tags if tag is not None}


def _allowed(name: str, header: Any, secrets: Secrets) -> Any:
    """The attributes that may stay, of this data set and of the items of its sequences; UIDs and dates replaced.

    Fault where one of them is of another kind than DICOM has it: text in it could not be told from numbers.
    """
    from pydicom.dataset import Dataset

    clean, kept = Dataset(), _kept()
    for tag, found in list(header.items()):  # bytes, as long as nobody asked for the value; iterating parses them
        if tag not in kept:
            continue
        stored = header[tag] if found.value is None else found
        is_undeclared = stored.is_raw and stored.VR in (None, "UN")  # implicit files do not say it
        representation = kept[tag] if is_undeclared else stored.VR
        value_representation.check(name, tag, representation, stored.value)
        if _repeats(representation, stored.value, secrets):
            clean.add_new(tag, representation, None)
            continue
        if stored.is_raw and _harmless(stored, representation):
            clean[tag] = stored
            continue
        element = header[tag]
        if element.VR == "SQ":
            items = [item for item in (_allowed(name, item, secrets) for item in element.value) if len(item)]
            if items:
                setattr(clean, element.keyword, items)
        elif element.VR in dicom_profile.PLAIN:
            if element.VR != "UI" or UID.fullmatch(str(element.value)):
                clean.add(element)
        elif (said := _silent(element, secrets)) == element.value and stored.is_raw and stored.value.isascii():
            clean[tag] = stored
        else:
            setattr(clean, element.keyword, said)
    pixel_data.cut_tables(clean)
    for keyword in identifiers.there(header, dicom_profile.UIDS):
        if header.get(keyword):
            setattr(clean, keyword, keys.uid(str(header.get(keyword))))
    clean.set_original_encoding(*header.original_encoding, header.original_character_set)
    return clean


def _repeats(representation: str, value: Any, secrets: Secrets) -> bool:
    """Whether a number in letters is one of the patient's: part of an integer, or all of a decimal one."""
    if representation == "IS":
        return identifiers.is_number_of(_text(value), secrets)
    return representation == "DS" and any(
        len(part) >= identifiers.INSIDE and part in secrets.long for part in map(str.strip, _text(value).split("\\"))
    )


def _harmless(stored: Any, representation: str) -> bool:
    """Can these bytes go on as they are? Numbers can, and text that is nothing but a UID."""
    if stored.value is None or representation not in dicom_profile.PLAIN:
        return False
    return representation != "UI" or UID.fullmatch(stored.value.decode("latin-1").removesuffix("\0")) is not None


def _silent(element: Any, secrets: Secrets) -> Any:
    """The value of a text, empty in each part that betrays somebody; out of a closed list where there is one."""
    if element.keyword in closed_terms.CLOSED:
        terms, other = closed_terms.CLOSED[element.keyword]
        plain = str(element.value or "").strip().upper()
        return plain if plain in terms else other if plain else ""
    if element.VR == "CS":
        secrets = Secrets(secrets.long, secrets.short - dicom_profile.TERMS)
    parts = [element.value] if element.VM < 2 else list(element.value)
    silent = ["" if identifiers.betrays(_text(part), secrets) else part for part in parts]
    return silent if element.VM > 1 else silent[0]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str("" if value is None else value)


def _replace_identity(header: Any, clean: Any, told: str, row: Mapping[str, str]) -> None:
    clean.PatientID = clean.PatientName = keys.pseudonym(told)
    _fill(header, clean)
    _shift(header, clean, timedelta(days=keys.day_shift(told)))
    if header.get("PatientAge") and (age := pseudonyms.age_string(pseudonyms.stated_age(row, str(header.PatientAge)))):
        clean.PatientAge = age
    clean.PatientIdentityRemoved, clean.DeidentificationMethod = "YES", dicom_profile.METHOD
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.DeidentificationMethodCodeSequence = list(_codes())


def _fill(header: Any, clean: Any) -> None:
    """What the object's definition (PS3.3) wants to be there: empty where that is allowed, else a dummy."""
    for keyword in dicom_profile.EMPTY:
        setattr(clean, keyword, "")
    for keyword in identifiers.there(header, dicom_profile.EMPTIED):
        setattr(clean, keyword, [] if keyword.endswith("Sequence") else "")
    if "SharedFunctionalGroupsSequence" in header or "NumberOfFrames" in header:
        for keyword, dummy in dicom_profile.DUMMIES.items():
            if keyword in header:
                setattr(clean, keyword, dummy)


def _shift(header: Any, clean: Any, shift: timedelta) -> None:
    """Every date that stays, at any depth, moved by the patient's own number of days."""
    for keyword in identifiers.there(header, DAYS):
        setattr(clean, keyword, _shifted(str(header.get(keyword) or ""), shift))
    for keyword in identifiers.there(header, GROUPS):
        for old, new in zip(header.get(keyword) or [], clean.get(keyword) or [], strict=False):
            for content, cleaned in zip(
                old.get("FrameContentSequence") or [], new.get("FrameContentSequence") or [], strict=False
            ):
                _shift(content, cleaned, shift)


@lru_cache(maxsize=1)
def _codes() -> tuple[Any, ...]:
    """What was done, as items of a sequence: the same in every file."""
    from pydicom.dataset import Dataset

    codes = []
    for value, meaning in dicom_profile.CODES:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    return tuple(codes)


def _shifted(text: str, shift: timedelta) -> str:
    """A DICOM date moved; empty where it was none."""
    day = text[:8]
    try:
        return (date.fromisoformat(day) + shift).isoformat().replace("-", "") if day.isdecimal() else ""
    except (ValueError, OverflowError):
        return ""


def _written(header: Any, clean: Any) -> bytes:
    """The data set as a DICOM file in the encoding that it came in, with a preamble and file meta of our own."""
    from pydicom.dataset import FileMetaDataset

    clean.file_meta = FileMetaDataset()
    clean.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    clean.file_meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID") or keys.uid("none")
    stream = io.BytesIO()
    clean.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
