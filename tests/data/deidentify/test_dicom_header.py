"""De-identification of a DICOM header, attribute by attribute: whose words go, which numbers stay, and where."""

from __future__ import annotations

import io
import struct
from datetime import datetime
from typing import Any

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from data.deidentify.dicom import anonymise
from lineage import keys
from lineage.errors import Fault
from tests.data.deidentify.test_dicom import STUDY, dicom, opened

pytestmark = pytest.mark.usefixtures("home")
WORD = "Quillfeather"
ROW = {"patient_id": "one"}


def cleaned(content: bytes, row: dict[str, str] = ROW, **more: Any) -> Any:
    """The de-identified data set."""
    return opened(anonymise("a.dcm", content, row, **more)[1])


def saved(header: Any) -> bytes:
    stream = io.BytesIO()
    header.save_as(stream)
    return stream.getvalue()


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def planted(keyword: str, representation: str, value: bytes) -> bytes:
    """A phantom in which an element has the representation and the bytes that somebody chose for it."""
    header = opened(dicom())
    header.pop(keyword, None)
    content, tag = saved(header), pydicom.tag.Tag(keyword)
    header = opened(content)
    later = header.get_item(min(other for other in header.keys() if other > tag))  # noqa: SIM118
    long = ("OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UC", "UN", "UR", "UT")
    start = later.value_tell - (12 if later.VR in long else 8)
    length = struct.pack("<HI", 0, len(value)) if representation in long else struct.pack("<H", len(value))
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
def test_a_name_is_taken_out_of_kept_text_whoever_says_it(source: str) -> None:
    attributes, row, names = SOURCES[source]
    content = dicom(ConvolutionKernel=f"{WORD.upper()} special", ManufacturerModelName="Scan 7", **attributes)
    header = cleaned(content, row, names=names)
    assert header.ConvolutionKernel == "" and header.ManufacturerModelName == "Scan 7"


@pytest.mark.parametrize("source", SOURCES)
def test_a_name_is_taken_out_at_any_depth(source: str) -> None:
    attributes, row, names = SOURCES[source]
    inner = item(CodeValue="T-1", CodingSchemeDesignator="SRT", CodeMeaning=f"of {WORD}")
    frame = item(FrameAnatomySequence=[item(FrameLaterality="L", AnatomicRegionSequence=[inner])])
    content = dicom(AnatomicRegionSequence=[inner], PerFrameFunctionalGroupsSequence=[frame], **attributes)
    header = cleaned(content, row, names=names)
    deep = header.PerFrameFunctionalGroupsSequence[0].FrameAnatomySequence[0]
    for code in (header.AnatomicRegionSequence[0], deep.AnatomicRegionSequence[0]):
        assert (code.CodeValue, code.CodeMeaning) == ("T-1", "")
    assert deep.FrameLaterality == "L"


def test_an_item_of_which_nothing_may_stay_goes() -> None:
    code = item(CodeValue="T-1", CodingSchemeDesignator="SRT", CodeMeaning="Chest")
    nothing = item(PatientComments="a note")
    header = cleaned(dicom(AnatomicRegionSequence=[nothing, code], SourceImageSequence=[nothing]))
    assert [one.CodeValue for one in header.AnatomicRegionSequence] == ["T-1"]
    assert "SourceImageSequence" not in header


def test_of_several_values_the_one_that_names_somebody_is_emptied() -> None:
    content = dicom(SoftwareVersions=["v1", f"for {WORD}", "v3"], ImageType=["ORIGINAL", WORD.upper(), "AXIAL"])
    header = cleaned(content, {"patient_id": WORD})
    assert list(header.SoftwareVersions) == ["v1", "", "v3"] and list(header.ImageType) == ["ORIGINAL", "", "AXIAL"]
    assert list(cleaned(dicom(SoftwareVersions=["v1", "v2"])).SoftwareVersions) == ["v1", "v2"]


def test_short_names_go_out_of_text_and_codes_but_a_known_term_stays() -> None:
    content = dicom(
        PatientName="Roy^HFS^SE", PatientPosition="HFS", ScanOptions=["ROY", "SE"], ManufacturerModelName="by Roy"
    )
    header = cleaned(content)
    assert (header.PatientPosition, list(header.ScanOptions), header.ManufacturerModelName) == ("HFS", ["", "SE"], "")


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
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
def test_a_term_of_a_closed_list_is_in_it(keyword: str, value: str, kept: str) -> None:
    assert cleaned(dicom(**{keyword: value})).get(keyword) == kept


@pytest.mark.parametrize(
    ("age", "kept"),
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
def test_an_age_stays_up_to_89_years(age: str, kept: str | None) -> None:
    assert cleaned(dicom(PatientAge=age)).get("PatientAge") == kept


def test_the_age_of_the_row_counts_before_that_of_the_header() -> None:
    assert cleaned(dicom(PatientAge="063Y"), ROW | {"age": "95"}).PatientAge == "090Y"
    assert "PatientAge" not in cleaned(dicom(PatientAge=""), ROW | {"age": "95"})


DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
MOMENTS = ("AcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime")


def _days(before: str, after: str) -> int:
    return (datetime.strptime(after, "%Y%m%d") - datetime.strptime(before, "%Y%m%d")).days


@pytest.mark.parametrize("keyword", DATES)
def test_every_date_is_moved_by_the_patient_s_own_days(keyword: str) -> None:
    for patient in ("one", "two"):
        header = cleaned(dicom(**{keyword: "20240229"}), {"patient_id": patient})
        assert _days("20240229", header.get(keyword)) == keys.day_shift(patient)


@pytest.mark.parametrize("keyword", MOMENTS)
def test_of_a_moment_the_day_alone_stays(keyword: str) -> None:
    header = cleaned(dicom(**{keyword: "20240229101112.5"}))
    assert _days("20240229", header.get(keyword)) == keys.day_shift("one")


@pytest.mark.parametrize("groups", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_dates_of_frames_are_moved_too(groups: str) -> None:
    moments = ["20240229101112", "20240301"]
    frames = [
        item(FrameContentSequence=[item(StackID="1", FrameAcquisitionDateTime=moment, FrameReferenceDateTime=moment)])
        for moment in moments
    ]
    header = cleaned(dicom(**{groups: frames}))
    for frame, moment in zip(header[groups].value, moments, strict=True):
        content = frame.FrameContentSequence[0]
        for keyword in ("FrameAcquisitionDateTime", "FrameReferenceDateTime"):
            assert _days(moment[:8], content.get(keyword)) == keys.day_shift("one"), keyword
        assert content.StackID == "1"


@pytest.mark.parametrize("date", ["", "2024", "20241340", "born 1963", "00010101"])
def test_what_is_no_date_is_emptied(date: str) -> None:
    header = opened(dicom())
    header["SeriesDate"]._value = date
    assert cleaned(saved(header)).SeriesDate == ""


def test_times_go_and_what_must_be_there_is_empty() -> None:
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


def test_a_sequence_that_must_be_there_is_empty() -> None:
    header = cleaned(dicom(AcquisitionContextSequence=[item(TextValue=WORD)]))
    assert list(header.AcquisitionContextSequence) == []


@pytest.mark.parametrize("mark", [{"NumberOfFrames": 1}, {"SharedFunctionalGroupsSequence": [item(StackID="1")]}])
def test_an_enhanced_object_has_dummies_where_it_needs_a_value(mark: dict[str, Any]) -> None:
    header = cleaned(dicom(ContentTime="101112", DeviceSerialNumber="4711", **mark))
    assert (header.ContentTime, header.DeviceSerialNumber) == ("000000", "0")
    bare = opened(dicom(**mark))
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
def test_the_pseudonym_is_that_of_the_row_else_of_the_header(row: dict[str, str], identity: str) -> None:
    header = cleaned(dicom(), row)
    assert header.PatientID == header.PatientName == keys.pseudonym(identity)
    assert _days(STUDY.person.day.strftime("%Y%m%d"), header.StudyDate) == keys.day_shift(identity)


def test_a_header_without_an_identity_has_one_pseudonym() -> None:
    header = opened(dicom())
    del header.PatientID
    assert cleaned(saved(header), {}).PatientID == keys.pseudonym("")


def test_what_was_done_is_stated_in_codes_of_dicom() -> None:
    header = cleaned(dicom())
    codes = [
        (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)
        for code in header.DeidentificationMethodCodeSequence
    ]
    assert [code[:2] for code in codes] == [("113100", "DCM"), ("113107", "DCM"), ("113108", "DCM")]
    assert all(meaning.endswith(("Profile", "Option")) for _, _, meaning in codes)
    assert (header.PatientIdentityRemoved, header.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    assert header.DeidentificationMethod == "Oncoloop allow-list, PS3.15 Annex E"


def test_uids_are_keyed_and_those_of_the_standard_stay() -> None:
    inner = item(ReferencedSOPClassUID=opened(dicom()).SOPClassUID, ReferencedSOPInstanceUID="1.2.3")
    content = dicom(ReferencedImageSequence=[inner], FrameOfReferenceUID="1.2.3", SeriesInstanceUID="1.2.4")
    header = cleaned(content)
    reference = header.ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == header.FrameOfReferenceUID != header.SeriesInstanceUID
    assert header.FrameOfReferenceUID.startswith("2.25.") and "1.2.3" not in header.FrameOfReferenceUID
    assert reference.ReferencedSOPClassUID == inner.ReferencedSOPClassUID
    assert cleaned(content, {"patient_id": "two"}).FrameOfReferenceUID == header.FrameOfReferenceUID
    assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID


def test_the_file_s_own_meta_and_preamble_are_new() -> None:
    header = opened(dicom())
    header.preamble = WORD.encode().ljust(128, b"\0")
    header.file_meta.SourceApplicationEntityTitle = WORD
    header.file_meta.PrivateInformationCreatorUID, header.file_meta.PrivateInformation = "1.2.3", WORD.encode()
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    assert stream.getvalue().count(WORD.encode()) == 3
    clean = anonymise("a.dcm", stream.getvalue(), ROW)[1]
    assert clean[:132] == b"\0" * 128 + b"DICM" and WORD.encode() not in clean
    meta = opened(clean).file_meta
    assert meta.TransferSyntaxUID == header.file_meta.TransferSyntaxUID
    assert meta.MediaStorageSOPClassUID == header.SOPClassUID and "SourceApplicationEntityTitle" not in meta


def test_a_file_without_an_instance_uid_gets_one_that_names_nothing() -> None:
    header = opened(dicom())
    del header.SOPInstanceUID
    clean = cleaned(saved(header))
    assert clean.file_meta.MediaStorageSOPInstanceUID.startswith("2.25.") and "SOPInstanceUID" not in clean


def test_nothing_stays_behind_the_last_pixel() -> None:
    pixels = opened(dicom()).PixelData
    clean = anonymise("a.dcm", dicom(PixelData=pixels + WORD.encode()), ROW)[1]
    assert WORD.encode() not in clean and opened(clean).PixelData == pixels


def test_a_header_that_was_parsed_before_gives_the_same_bytes() -> None:
    content = dicom(ConvolutionKernel=WORD, SliceThickness="2.5", AnatomicRegionSequence=[item(CodeMeaning=WORD)])
    header = opened(content)
    for element in header.iterall():  # every value is parsed, as after a check
        assert element is not None
    row = {"patient_id": WORD}
    once = opened(anonymise("a.dcm", content, row)[1])
    parsed = opened(anonymise("a.dcm", content, row, header)[1])
    assert parsed.to_json_dict() == once.to_json_dict()
    assert parsed.SliceThickness == 2.5 and parsed.AnatomicRegionSequence[0].CodeMeaning == ""


def test_text_in_another_alphabet_stays_readable() -> None:
    header = cleaned(dicom(SpecificCharacterSet="ISO_IR 100", ManufacturerModelName="Modèle Ü", ConvolutionKernel="ü"))
    assert (header.ManufacturerModelName, header.ConvolutionKernel) == ("Modèle Ü", "ü")
    secret = dicom(SpecificCharacterSet="ISO_IR 100", ManufacturerModelName="für MÜLLERIN", PatientName="Müllerin^Z")
    assert cleaned(secret).ManufacturerModelName == ""


LYING = [
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


@pytest.mark.parametrize(("keyword", "representation", "value"), LYING)
@pytest.mark.parametrize("parsed", [False, True])
def test_text_does_not_pass_for_a_number_or_for_bytes(
    keyword: str, representation: str, value: bytes, parsed: bool
) -> None:
    content = planted(keyword, representation, value)
    header = opened(content)
    if parsed:
        header.get(keyword)
    with pytest.raises(Fault, match=rf"^a\.dcm: {keyword} .*; export it again$") as caught:
        anonymise("a.dcm", content, {"patient_id": WORD}, header)
    assert WORD not in str(caught.value)


def test_text_does_not_pass_for_a_number_inside_a_sequence() -> None:
    content = planted("SliceThickness", "DS", WORD.encode())
    inner = Dataset()
    inner[tag_for_keyword("SliceThickness")] = opened(content).get_item("SliceThickness")
    header = opened(dicom())
    header.SourceImageSequence = [inner]
    with pytest.raises(Fault, match=r"^a\.dcm: SliceThickness does not hold DS values"):
        anonymise("a.dcm", dicom(), ROW, header)


def test_a_uid_that_is_none_is_left_out() -> None:
    for parsed in (False, True):
        header = opened(planted("ReferencedSOPClassUID", "UI", WORD.encode()))
        if parsed:
            header.get("ReferencedSOPClassUID")
        clean = anonymise("a.dcm", dicom(), ROW, header)[1]
        assert "ReferencedSOPClassUID" not in opened(clean) and WORD.encode() not in clean


@pytest.mark.parametrize(
    ("row", "cells", "refused"),
    [
        ({"patient_id": WORD}, {f"ward of {WORD}": "site"}, True),
        ({"patient_id": "one"}, {f"{STUDY.person.name.split('^')[0]} ward": "site"}, True),  # the header's own name
        ({"patient_id": "one"}, {"Hospital": "site", "ACME": "scanner"}, False),
    ],
)
def test_a_cell_that_repeats_the_patient_refuses_the_scan(
    row: dict[str, str], cells: dict[str, str], refused: bool
) -> None:
    if not refused:
        assert anonymise("a.dcm", dicom(), row, cells=cells)[0] == ".dcm"
        return
    with pytest.raises(Fault, match=r"a\.dcm: the column site of its row repeats"):
        anonymise("a.dcm", dicom(), row, cells=cells)


def test_a_cell_refuses_other_formats_too() -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (40, 40)).save(stream, "PNG")
    with pytest.raises(Fault, match=r"a\.png: the column site of its row repeats"):
        anonymise("a.png", stream.getvalue(), {"patient_id": WORD}, cells={WORD: "site"})


@pytest.mark.parametrize("keyword", ["SeriesNumber", "AcquisitionNumber"])
def test_a_number_of_the_patient_is_no_number_of_the_scan(keyword: str) -> None:
    header = opened(anonymise("a.dcm", dicom(PatientID="MRN471100", **{keyword: "4711"}), {"patient_id": "x"})[1])
    assert header[keyword].value == 4711
    for identity in ({"PatientID": "471100471"}, {"AccessionNumber": "471100471"}):
        clean = anonymise("a.dcm", dicom(**{keyword: "471100471"}, **identity), {"patient_id": "x"})[1]
        assert b"471100" not in clean and opened(clean)[keyword].value is None


def test_half_of_a_double_name_betrays() -> None:
    content = dicom(PatientName="Quill-Feather^Ann", ManufacturerModelName="FEATHER 7")
    assert b"FEATHER" in content and b"FEATHER" not in anonymise("a.dcm", content, {"patient_id": "x"})[1]


@pytest.mark.parametrize(("bits", "data"), [(16, b"0011"), (8, b"01")])
def test_nothing_hides_behind_a_look_up_table(bits: int, data: bytes) -> None:
    item = Dataset()
    item.add_new(0x00283002, "US", [2, 0, bits])
    item.add_new(0x00283006, "OW", data + b"SECRET" * (bits > 8))
    nested = opened(dicom())
    nested.VOILUTSequence = [item]
    nested.add_new(0x00281101, "US", [2, 0, 16])
    nested.add_new(0x00281201, "OW", b"SECRET")
    stream = io.BytesIO()
    nested.save_as(stream)
    clean = anonymise("a.dcm", stream.getvalue(), {"patient_id": "x"})[1]
    assert b"SECRET" in stream.getvalue() and b"SECRET" not in clean
    assert opened(clean).VOILUTSequence[0].LUTData == data
