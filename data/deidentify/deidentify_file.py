"""De-identification of scan files; for DICOM by PS3.15 Annex E.

For DICOM an allow-list applies: every attribute that is not on it is removed, at any depth, including private ones.
This is stricter than the Basic Application Level Confidentiality Profile (Table E.1-1, which the tests check row by
row). The options in use, which the file states, are patient characteristics (sex, age under 90) and modified dates.
Text burned into pixels is not removed but detected (`data/deidentify/burned_in_text.py`), and such scans are refused.
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
from data.scan.dicom import clean_pixel_data, closed_terms
from lineage import keys
from lineage.errors import Fault

DAYS = (*dicom_profile.DATES, *dicom_profile.DATE_TIMES)
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
UID = re.compile(r"[0-9.]{1,64}")  # PS3.5, section 9.1
_NO_CELLS: Mapping[str, str] = {}


def deidentify_file(
    name: str,
    content: bytes,
    metadata: Mapping[str, str],
    header: Any = None,
    names: Iterable[str] = (),
    cells: Mapping[str, str] = _NO_CELLS,
    header_people: People | None = None,
) -> tuple[str, bytes]:
    """The suffix of the format, and the de-identified bytes.

    `metadata` is the scan's row: its `patient_id`, else `group`, is the identity behind pseudonym and dates. Without
    either it is the PatientID of the DICOM header. `header` is the parsed data set if it is available, and
    `header_people` are those that it names. `names` are the names of file, folder and archive: retained text must not
    hold their words. `cells` are the free texts of the scan's rows. Fault if the file can't be parsed, or if a cell
    repeats the patient.
    """
    secrets = identifiers.secrets_of_row(metadata)
    file_format = read.detect_format(name, content)
    if file_format == "picture":
        suffix, clean = other_formats.clean_picture(name, content)
    elif file_format == "nifti":
        clean, suffix = other_formats.clean_nifti(name, content), ".nii.gz" if content[:2] == b"\x1f\x8b" else ".nii"
    else:
        header = header if header is not None else read.read_with_header(name, content)[1]
        clean, secrets = _deidentify_dicom(
            name, header, metadata, secrets, identifiers.secrets_of_names(names), header_people
        )
        suffix = ".dcm"
    identifiers.check_cells(name, cells, secrets)
    return suffix, clean


def _deidentify_dicom(
    name: str, header: Any, metadata: Mapping[str, str], row: Secrets, names: Secrets, header_people: People | None
) -> tuple[bytes, Secrets]:
    """The de-identified file, and the patient's secrets from row and header."""
    identity = metadata.get("patient_id") or metadata.get("group") or ""
    try:
        header_people = header_people or identifiers.find_people(header)
        patient = row | header_people.patient
        clean = _retain_allowed(name, header, patient | header_people.hospital | names)
        for keyword in dicom_profile.PIXELS:
            if keyword in clean:
                clean[keyword].value = clean_pixel_data.clean_pixel_data(header, keyword)
        _replace_identity(header, clean, identity or str(header.get("PatientID") or ""), metadata)
        return _encode(header, clean), patient
    except Fault:
        raise
    except Exception as error:  # pydicom parses a value on first access
        raise Fault(f"{name}: cannot be de-identified ({type(error).__name__}); export it again") from error


@lru_cache(maxsize=1)
def _retained_tags() -> dict[int, str]:
    """The tags of the attributes that are retained, and their value representations (PS3.6)."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tags = (tag_for_keyword(keyword) for keyword in dicom_profile.RETAINED.split())
    return {tag: dictionary_VR(tag) for tag in tags if tag is not None}


def _retain_allowed(name: str, header: Any, secrets: Secrets) -> Any:
    """A data set with the retained attributes of `header` and of the items of its sequences, with replaced UIDs.

    Fault if one of them has another kind of value than DICOM defines: its text could pass as numbers.
    """
    from pydicom.dataset import Dataset

    clean, retained = Dataset(), _retained_tags()
    for tag, element in list(header.items()):  # unparsed bytes; iterating the data set itself parses them
        if tag not in retained:
            continue
        stored = header[tag] if element.value is None else element
        is_undeclared = stored.is_raw and stored.VR in (None, "UN")  # implicit files do not declare it
        representation = retained[tag] if is_undeclared else stored.VR
        value_representation.check_value(name, tag, representation, stored.value)
        if _repeats(representation, stored.value, secrets):
            clean.add_new(tag, representation, None)
            continue
        if stored.is_raw and _is_harmless(stored, representation):
            clean[tag] = stored
            continue
        parsed = header[tag]
        if parsed.VR == "SQ":
            items = [item for item in (_retain_allowed(name, item, secrets) for item in parsed.value) if len(item)]
            if items:
                setattr(clean, parsed.keyword, items)
        elif parsed.VR in dicom_profile.NON_TEXT:
            if parsed.VR != "UI" or UID.fullmatch(str(parsed.value)):
                clean.add(parsed)
        elif (redacted := _redact(parsed, secrets)) == parsed.value and stored.is_raw and stored.value.isascii():
            clean[tag] = stored
        else:
            setattr(clean, parsed.keyword, redacted)
    clean_pixel_data.cut_lookup_tables(clean)
    for keyword in identifiers.present_keywords(header, dicom_profile.UIDS):
        if header.get(keyword):
            setattr(clean, keyword, keys.uid(str(header.get(keyword))))
    clean.set_original_encoding(*header.original_encoding, header.original_character_set)
    return clean


def _repeats(representation: str, value: Any, secrets: Secrets) -> bool:
    """Whether a number string repeats one of the patient's: as part of an integer, or as a complete decimal."""
    if representation == "IS":
        return identifiers.contains_patient_number(_text(value), secrets)
    return representation == "DS" and any(
        len(part) >= identifiers.MIN_INSIDE and part in secrets.long
        for part in map(str.strip, _text(value).split("\\"))
    )


def _is_harmless(stored: Any, representation: str) -> bool:
    """Whether the stored bytes can be copied unchanged: numbers, and text that is only a UID."""
    if stored.value is None or representation not in dicom_profile.NON_TEXT:
        return False
    return representation != "UI" or UID.fullmatch(stored.value.decode("latin-1").removesuffix("\0")) is not None


def _redact(element: Any, secrets: Secrets) -> Any:
    """The value of a text element with identifying parts emptied, or a term of its closed list if it has one."""
    if element.keyword in closed_terms.CLOSED:
        terms, substitute = closed_terms.CLOSED[element.keyword]
        plain = str(element.value or "").strip().upper()
        return plain if plain in terms else substitute if plain else ""
    if element.VR == "CS":
        secrets = Secrets(secrets.long, secrets.short - dicom_profile.TERMS)
    parts = [element.value] if element.VM < 2 else list(element.value)
    redacted = ["" if identifiers.contains_secret(_text(part), secrets) else part for part in parts]
    return redacted if element.VM > 1 else redacted[0]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str("" if value is None else value)


def _replace_identity(header: Any, clean: Any, identity: str, row: Mapping[str, str]) -> None:
    clean.PatientID = clean.PatientName = keys.pseudonym(identity)
    _fill_required(header, clean)
    _shift_dates(header, clean, timedelta(days=keys.day_shift(identity)))
    if header.get("PatientAge") and (age := pseudonyms.age_string(pseudonyms.stated_age(row, str(header.PatientAge)))):
        clean.PatientAge = age
    clean.PatientIdentityRemoved, clean.DeidentificationMethod = "YES", dicom_profile.METHOD
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.DeidentificationMethodCodeSequence = list(_method_codes())


def _fill_required(header: Any, clean: Any) -> None:
    """Set the attributes that the object's definition (PS3.3) requires: empty where that is allowed, else a dummy."""
    for keyword in dicom_profile.EMPTY:
        setattr(clean, keyword, "")
    for keyword in identifiers.present_keywords(header, dicom_profile.EMPTIED):
        setattr(clean, keyword, [] if keyword.endswith("Sequence") else "")
    if "SharedFunctionalGroupsSequence" in header or "NumberOfFrames" in header:
        for keyword, dummy in dicom_profile.DUMMIES.items():
            if keyword in header:
                setattr(clean, keyword, dummy)


def _shift_dates(header: Any, clean: Any, shift: timedelta) -> None:
    """Shift every retained date, also those of frames, by the patient's own number of days."""
    for keyword in identifiers.present_keywords(header, DAYS):
        setattr(clean, keyword, _shift_date(str(header.get(keyword) or ""), shift))
    for keyword in identifiers.present_keywords(header, GROUPS):
        for group, clean_group in zip(header.get(keyword) or [], clean.get(keyword) or [], strict=False):
            for content, clean_content in zip(
                group.get("FrameContentSequence") or [], clean_group.get("FrameContentSequence") or [], strict=False
            ):
                _shift_dates(content, clean_content, shift)


@lru_cache(maxsize=1)
def _method_codes() -> tuple[Any, ...]:
    """The codes of the de-identification method as items of a sequence, the same in every file."""
    from pydicom.dataset import Dataset

    codes = []
    for value, meaning in dicom_profile.CODES:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    return tuple(codes)


def _shift_date(text: str, shift: timedelta) -> str:
    """A shifted DICOM date; empty if the text is no date."""
    day = text[:8]
    try:
        return (date.fromisoformat(day) + shift).isoformat().replace("-", "") if day.isdecimal() else ""
    except (ValueError, OverflowError):
        return ""


def _encode(header: Any, clean: Any) -> bytes:
    """The data set as a DICOM file in its original encoding, with a new preamble and new file meta information."""
    from pydicom.dataset import FileMetaDataset

    clean.file_meta = FileMetaDataset()
    clean.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    clean.file_meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID") or keys.uid("none")
    stream = io.BytesIO()
    clean.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
