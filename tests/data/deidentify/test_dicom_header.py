"""De-identification of a DICOM header, attribute by attribute: names, numbers, dates, codes and UIDs."""

from __future__ import annotations

import io
import struct
from datetime import datetime
from typing import Any

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from data.deidentify.deidentify_file import deidentify_file
from lineage import keys
from lineage.errors import Fault
from tests.data.deidentify.test_deidentify_file import STUDY, dicom, opened

pytestmark = pytest.mark.usefixtures("home")
WORD = "Quillfeather"
ROW = {"patient_id": "one"}


def cleaned(content: bytes, row: dict[str, str] = ROW, **options: Any) -> Any:
    """The de-identified data set."""
    return opened(deidentify_file("a.dcm", content, row, **options)[1])


def saved(header: Any) -> bytes:
    stream = io.BytesIO()
    header.save_as(stream)
    return stream.getvalue()


def item(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def planted(keyword: str, representation: str, value: bytes) -> bytes:
    """A phantom in which an element has this value representation and these bytes."""
    header = opened(dicom())
    header.pop(keyword, None)
    content, tag = saved(header), pydicom.tag.Tag(keyword)
    header = opened(content)
    next_element = header.get_item(min(key for key in header.keys() if key > tag))  # noqa: SIM118
    long_representations = ("OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UC", "UN", "UR", "UT")
    start = next_element.value_tell - (12 if next_element.VR in long_representations else 8)
    length = (
        struct.pack("<HI", 0, len(value)) if representation in long_representations else struct.pack("<H", len(value))
    )
    element = struct.pack("<HH", tag.group, tag.elem) + representation.encode() + length + value
    return content[:start] + element + content[start:]


SOURCES = {
    "row": ({}, {"patient_id": WORD}, ()),
    "group": ({}, {"group": WORD}, ()),
    "patient": ({"PatientName": f"{WORD}^Z"}, ROW, ()),
    "other name": ({"OtherPatientNames": ["Smith", WORD]}, ROW, ()),
    "staff": ({"OperatorsName": f"{WORD}^Op"}, ROW, ()),
    "hospital": ({"InstitutionName": f"{WORD} General"}, ROW, ()),
    "file": ({}, ROW, (f"{WORD}_1.dcm",)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_name_is_removed_from_retained_text_for_every_source(source: str) -> None:
    attributes, row, names = SOURCES[source]
    content = dicom(ConvolutionKernel=f"{WORD.upper()} special", ManufacturerModelName="Scan 7", **attributes)
    header = cleaned(content, row, names=names)
    assert header.ConvolutionKernel == "" and header.ManufacturerModelName == "Scan 7"


@pytest.mark.parametrize("source", SOURCES)
def test_a_name_is_removed_at_any_depth(source: str) -> None:
    attributes, row, names = SOURCES[source]
    inner = item(CodeValue="T-1", CodingSchemeDesignator="SRT", CodeMeaning=f"of {WORD}")
    frame = item(FrameAnatomySequence=[item(FrameLaterality="L", AnatomicRegionSequence=[inner])])
    content = dicom(AnatomicRegionSequence=[inner], PerFrameFunctionalGroupsSequence=[frame], **attributes)
    header = cleaned(content, row, names=names)
    clean_item = header.PerFrameFunctionalGroupsSequence[0].FrameAnatomySequence[0]
    for code in (header.AnatomicRegionSequence[0], clean_item.AnatomicRegionSequence[0]):
        assert (code.CodeValue, code.CodeMeaning) == ("T-1", "")
    assert clean_item.FrameLaterality == "L"


def test_an_item_without_retained_attributes_is_removed() -> None:
    code = item(CodeValue="T-1", CodingSchemeDesignator="SRT", CodeMeaning="Chest")
    unretained = item(PatientComments="a note")
    header = cleaned(dicom(AnatomicRegionSequence=[unretained, code], SourceImageSequence=[unretained]))
    assert [region.CodeValue for region in header.AnatomicRegionSequence] == ["T-1"]
    assert "SourceImageSequence" not in header


def test_of_several_values_only_an_identifying_one_is_emptied() -> None:
    content = dicom(SoftwareVersions=["v1", f"for {WORD}", "v3"], ImageType=["ORIGINAL", WORD.upper(), "AXIAL"])
    header = cleaned(content, {"patient_id": WORD})
    assert list(header.SoftwareVersions) == ["v1", "", "v3"] and list(header.ImageType) == ["ORIGINAL", "", "AXIAL"]
    assert list(cleaned(dicom(SoftwareVersions=["v1", "v2"])).SoftwareVersions) == ["v1", "v2"]


def test_short_names_are_removed_from_text_and_codes_but_known_terms_are_retained() -> None:
    content = dicom(
        PatientName="Roy^HFS^SE", PatientPosition="HFS", ScanOptions=["ROY", "SE"], ManufacturerModelName="by Roy"
    )
    header = cleaned(content)
    assert (header.PatientPosition, list(header.ScanOptions), header.ManufacturerModelName) == ("HFS", ["", "SE"], "")


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("Modality", "CT", "CT"),
        ("Modality", "MR", "MR"),
        ("Modality", "ZELDA", "OT"),
        ("PatientSex", "F", "F"),
        ("PatientSex", "O", "O"),
        ("PatientSex", "ZELDA", ""),
        ("BurnedInAnnotation", "YES", "YES"),
        ("BurnedInAnnotation", "ZELDA", ""),
        ("Laterality", "L", "L"),
        ("Laterality", "ZELDA", ""),
        ("PatientPosition", "FFS", "FFS"),
        ("PatientPosition", "ZELDA", ""),
    ],
)
def test_a_coded_value_outside_its_closed_list_is_replaced(keyword: str, value: str, expected: str) -> None:
    assert cleaned(dicom(**{keyword: value})).get(keyword) == expected


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ("000Y", "000Y"),
        ("063Y", "063Y"),
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("091Y", "090Y"),
        ("120Y", "090Y"),
        ("018M", "018M"),
        ("006W", "006W"),
        ("002D", "002D"),
        ("063X", None),
        ("63Y", "063Y"),
        ("", None),
        ("ZELD", None),
        ("999Y", None),
    ],
)
def test_an_age_is_retained_up_to_89_years(age: str, expected: str | None) -> None:
    assert cleaned(dicom(PatientAge=age)).get("PatientAge") == expected


def test_the_age_of_the_row_precedes_that_of_the_header() -> None:
    assert cleaned(dicom(PatientAge="063Y"), ROW | {"age": "95"}).PatientAge == "090Y"
    assert "PatientAge" not in cleaned(dicom(PatientAge=""), ROW | {"age": "95"})


DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
DATE_TIMES = ("AcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime")


def _days(before: str, after: str) -> int:
    return (datetime.strptime(after, "%Y%m%d") - datetime.strptime(before, "%Y%m%d")).days


@pytest.mark.parametrize("keyword", DATES)
def test_every_date_is_shifted_by_the_number_of_days_of_its_patient(keyword: str) -> None:
    for patient in ("one", "two"):
        header = cleaned(dicom(**{keyword: "20240229"}), {"patient_id": patient})
        assert _days("20240229", header.get(keyword)) == keys.day_shift(patient)


@pytest.mark.parametrize("keyword", DATE_TIMES)
def test_a_date_time_retains_only_its_shifted_day(keyword: str) -> None:
    header = cleaned(dicom(**{keyword: "20240229101112.5"}))
    assert _days("20240229", header.get(keyword)) == keys.day_shift("one")


@pytest.mark.parametrize("groups", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_dates_of_frames_are_shifted_too(groups: str) -> None:
    date_times = ["20240229101112", "20240301"]
    frames = [
        item(
            FrameContentSequence=[
                item(StackID="1", FrameAcquisitionDateTime=date_time, FrameReferenceDateTime=date_time)
            ]
        )
        for date_time in date_times
    ]
    header = cleaned(dicom(**{groups: frames}))
    for frame, date_time in zip(header[groups].value, date_times, strict=True):
        content = frame.FrameContentSequence[0]
        for keyword in ("FrameAcquisitionDateTime", "FrameReferenceDateTime"):
            assert _days(date_time[:8], content.get(keyword)) == keys.day_shift("one"), keyword
        assert content.StackID == "1"


@pytest.mark.parametrize("date", ["", "2024", "20241340", "born 1963", "00010101"])
def test_an_invalid_date_is_emptied(date: str) -> None:
    content = planted("SeriesDate", "DA", date.encode() + b" " * (len(date) % 2))
    assert cleaned(content).SeriesDate == ""


def test_times_are_removed_and_required_attributes_are_empty() -> None:
    header = cleaned(dicom(ContentTime="101112", PositionReferenceIndicator=WORD, StudyTime="101112", StudyID="S1"))
    for keyword in ("PatientBirthDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"):
        assert keyword in header and header.get(keyword) in ("", None), keyword
    assert header.ContentTime in ("", None) and header.PositionReferenceIndicator == ""
    assert "AcquisitionContextSequence" not in header and "DeviceSerialNumber" not in header
    bare = opened(dicom())
    for keyword in ("ContentTime", "PositionReferenceIndicator"):
        bare.pop(keyword, None)
    header = cleaned(saved(bare))
    assert "ContentTime" not in header and "PositionReferenceIndicator" not in header


def test_a_required_sequence_is_empty() -> None:
    header = cleaned(dicom(AcquisitionContextSequence=[item(TextValue=WORD)]))
    assert list(header.AcquisitionContextSequence) == []


@pytest.mark.parametrize("enhanced", [{"NumberOfFrames": 1}, {"SharedFunctionalGroupsSequence": [item(StackID="1")]}])
def test_an_enhanced_object_has_dummies_for_required_values(enhanced: dict[str, Any]) -> None:
    header = cleaned(dicom(ContentTime="101112", DeviceSerialNumber="4711", **enhanced))
    assert (header.ContentTime, header.DeviceSerialNumber) == ("000000", "0")
    bare = opened(dicom(**enhanced))
    bare.pop("ContentTime", None)
    header = cleaned(saved(bare))
    assert "ContentTime" not in header and "DeviceSerialNumber" not in header


@pytest.mark.parametrize(
    ("row", "identity"),
    [
        ({"patient_id": "one", "group": "two"}, "one"),
        ({"patient_id": "", "group": "two"}, "two"),
        ({"patient_id": "", "group": ""}, STUDY.person.id),
        ({}, STUDY.person.id),
    ],
)
def test_the_pseudonym_is_of_the_row_else_of_the_header(row: dict[str, str], identity: str) -> None:
    header = cleaned(dicom(), row)
    assert header.PatientID == header.PatientName == keys.pseudonym(identity)
    assert _days(STUDY.person.day.strftime("%Y%m%d"), header.StudyDate) == keys.day_shift(identity)


def test_a_header_without_an_identity_has_one_pseudonym() -> None:
    header = opened(dicom())
    del header.PatientID
    assert cleaned(saved(header), {}).PatientID == keys.pseudonym("")


def test_the_method_is_stated_in_codes_of_dicom() -> None:
    header = cleaned(dicom())
    codes = [
        (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)
        for code in header.DeidentificationMethodCodeSequence
    ]
    assert [code[:2] for code in codes] == [("113100", "DCM"), ("113107", "DCM"), ("113108", "DCM")]
    assert all(meaning.endswith(("Profile", "Option")) for _, _, meaning in codes)
    assert (header.PatientIdentityRemoved, header.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    assert header.DeidentificationMethod == "Oncoloop allow-list, PS3.15 Annex E"


def test_uids_are_keyed_and_uids_of_the_standard_are_unchanged() -> None:
    inner = item(ReferencedSOPClassUID=opened(dicom()).SOPClassUID, ReferencedSOPInstanceUID="1.2.3")
    content = dicom(ReferencedImageSequence=[inner], FrameOfReferenceUID="1.2.3", SeriesInstanceUID="1.2.4")
    header = cleaned(content)
    reference = header.ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == header.FrameOfReferenceUID != header.SeriesInstanceUID
    assert header.FrameOfReferenceUID.startswith("2.25.") and "1.2.3" not in header.FrameOfReferenceUID
    assert reference.ReferencedSOPClassUID == inner.ReferencedSOPClassUID
    assert cleaned(content, {"patient_id": "two"}).FrameOfReferenceUID == header.FrameOfReferenceUID
    assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID


def test_file_meta_information_and_preamble_are_new() -> None:
    header = opened(dicom())
    header.preamble = WORD.encode().ljust(128, b"\0")
    header.file_meta.SourceApplicationEntityTitle = WORD
    header.file_meta.PrivateInformationCreatorUID, header.file_meta.PrivateInformation = "1.2.3", WORD.encode()
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    assert stream.getvalue().count(WORD.encode()) == 3
    clean = deidentify_file("a.dcm", stream.getvalue(), ROW)[1]
    assert clean[:132] == b"\0" * 128 + b"DICM" and WORD.encode() not in clean
    meta = opened(clean).file_meta
    assert meta.TransferSyntaxUID == header.file_meta.TransferSyntaxUID
    assert meta.MediaStorageSOPClassUID == header.SOPClassUID and "SourceApplicationEntityTitle" not in meta


def test_a_file_without_an_instance_uid_gets_a_new_media_uid() -> None:
    header = opened(dicom())
    del header.SOPInstanceUID
    clean = cleaned(saved(header))
    assert clean.file_meta.MediaStorageSOPInstanceUID.startswith("2.25.") and "SOPInstanceUID" not in clean


def test_bytes_after_the_last_pixel_are_removed() -> None:
    pixels = opened(dicom()).PixelData
    clean = deidentify_file("a.dcm", dicom(PixelData=pixels + WORD.encode()), ROW)[1]
    assert WORD.encode() not in clean and opened(clean).PixelData == pixels


def test_a_parsed_header_gives_the_same_data_set() -> None:
    content = dicom(ConvolutionKernel=WORD, SliceThickness="2.5", AnatomicRegionSequence=[item(CodeMeaning=WORD)])
    header = opened(content)
    for element in header.iterall():  # parses every value, as a check does
        assert element is not None
    row = {"patient_id": WORD}
    unparsed = opened(deidentify_file("a.dcm", content, row)[1])
    parsed = opened(deidentify_file("a.dcm", content, row, header)[1])
    assert parsed.to_json_dict() == unparsed.to_json_dict()
    assert parsed.SliceThickness == 2.5 and parsed.AnatomicRegionSequence[0].CodeMeaning == ""


def test_text_in_another_character_set_stays_readable() -> None:
    header = cleaned(dicom(SpecificCharacterSet="ISO_IR 100", ManufacturerModelName="Modèle Ü", ConvolutionKernel="ü"))
    assert (header.ManufacturerModelName, header.ConvolutionKernel) == ("Modèle Ü", "ü")
    secret = dicom(SpecificCharacterSet="ISO_IR 100", ManufacturerModelName="für MÜLLERIN", PatientName="Müllerin^Z")
    assert cleaned(secret).ManufacturerModelName == ""


WRONG_VALUES = [
    ("SliceThickness", "DS", WORD.encode()),
    ("SliceThickness", "UN", WORD.encode()),
    ("SliceThickness", "LO", WORD.encode()),
    ("SliceThickness", "OB", WORD.encode()),
    ("SliceThickness", "DS", b"2.5\\" + WORD.encode() + b" "),
    ("SeriesNumber", "IS", WORD.encode()),
    ("SeriesNumber", "FD", WORD.encode() * 2),
    ("ManufacturerModelName", "OB", WORD.encode()),
    ("ManufacturerModelName", "US", WORD.encode()),
    ("PatientSex", "OB", WORD.encode()),
    ("ImageType", "OW", WORD.encode()),
    ("CodeValue", "US", WORD.encode()),
    ("GantryDetectorTilt", "AT", WORD.encode()),
    ("SmallestImagePixelValue", "US", WORD.encode()),
    ("LUTDescriptor", "US", WORD.encode()),
]


@pytest.mark.parametrize(("keyword", "representation", "value"), WRONG_VALUES)
@pytest.mark.parametrize("is_parsed", [False, True])
def test_text_in_place_of_a_number_or_bytes_is_refused(
    keyword: str, representation: str, value: bytes, is_parsed: bool
) -> None:
    content = planted(keyword, representation, value)
    header = opened(content)
    if is_parsed:
        header.get(keyword)
    with pytest.raises(Fault, match=rf"^a\.dcm: {keyword} .*; export it again$") as caught:
        deidentify_file("a.dcm", content, {"patient_id": WORD}, header)
    assert WORD not in str(caught.value)


def test_text_in_place_of_a_number_in_a_sequence_is_refused() -> None:
    content = planted("SliceThickness", "DS", WORD.encode())
    inner = Dataset()
    inner[tag_for_keyword("SliceThickness")] = opened(content).get_item("SliceThickness")
    header = opened(dicom())
    header.SourceImageSequence = [inner]
    with pytest.raises(Fault, match=r"^a\.dcm: SliceThickness does not hold DS values"):
        deidentify_file("a.dcm", dicom(), ROW, header)


def test_an_invalid_uid_is_removed() -> None:
    for is_parsed in (False, True):
        header = opened(planted("ReferencedSOPClassUID", "UI", WORD.encode()))
        if is_parsed:
            header.get("ReferencedSOPClassUID")
        clean = deidentify_file("a.dcm", dicom(), ROW, header)[1]
        assert "ReferencedSOPClassUID" not in opened(clean) and WORD.encode() not in clean


@pytest.mark.parametrize(
    ("row", "cells", "is_refused"),
    [
        ({"patient_id": WORD}, {f"ward of {WORD}": "site"}, True),
        ({"patient_id": "one"}, {f"{STUDY.person.name.split('^')[0]} ward": "site"}, True),  # the name of the header
        ({"patient_id": "one"}, {"Hospital": "site", "ACME": "scanner"}, False),
    ],
)
def test_a_cell_that_repeats_the_patient_refuses_the_scan(
    row: dict[str, str], cells: dict[str, str], is_refused: bool
) -> None:
    if not is_refused:
        assert deidentify_file("a.dcm", dicom(), row, cells=cells)[0] == ".dcm"
        return
    with pytest.raises(Fault, match=r"a\.dcm: the column site of its row repeats"):
        deidentify_file("a.dcm", dicom(), row, cells=cells)


def test_a_cell_that_repeats_the_patient_refuses_other_formats_too() -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (40, 40)).save(stream, "PNG")
    with pytest.raises(Fault, match=r"a\.png: the column site of its row repeats"):
        deidentify_file("a.png", stream.getvalue(), {"patient_id": WORD}, cells={WORD: "site"})


@pytest.mark.parametrize("keyword", ["SeriesNumber", "AcquisitionNumber"])
def test_a_number_of_the_scan_that_repeats_one_of_the_patient_is_emptied(keyword: str) -> None:
    header = opened(deidentify_file("a.dcm", dicom(PatientID="MRN471100", **{keyword: "4711"}), {"patient_id": "x"})[1])
    assert header[keyword].value == 4711
    for identity in ({"PatientID": "471100471"}, {"AccessionNumber": "471100471"}):
        clean = deidentify_file("a.dcm", dicom(**{keyword: "471100471"}, **identity), {"patient_id": "x"})[1]
        assert b"471100" not in clean and opened(clean)[keyword].value is None


def test_half_of_a_double_name_identifies() -> None:
    content = dicom(PatientName="Quill-Feather^Ann", ManufacturerModelName="FEATHER 7")
    assert b"FEATHER" in content and b"FEATHER" not in deidentify_file("a.dcm", content, {"patient_id": "x"})[1]


@pytest.mark.parametrize(("bits", "data"), [(16, b"0011"), (8, b"01")])
def test_bytes_after_a_look_up_table_are_removed(bits: int, data: bytes) -> None:
    table = Dataset()
    table.add_new(0x00283002, "US", [2, 0, bits])
    table.add_new(0x00283006, "OW", data + b"SECRET" * (bits > 8))
    nested = opened(dicom())
    nested.VOILUTSequence = [table]
    nested.add_new(0x00281101, "US", [2, 0, 16])
    nested.add_new(0x00281201, "OW", b"SECRET")
    stream = io.BytesIO()
    nested.save_as(stream)
    clean = deidentify_file("a.dcm", stream.getvalue(), {"patient_id": "x"})[1]
    assert b"SECRET" in stream.getvalue() and b"SECRET" not in clean
    assert opened(clean).VOILUTSequence[0].LUTData == data
