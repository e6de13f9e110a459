"""De-identified headers against the tables of the standard: PS3.15 Table E.1-1, required attributes of PS3.3."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from data.deidentify.deidentify_file import deidentify_file
from data.deidentify.dicom_profile import CODES
from data.scan.read import read_scan
from lineage import keys
from tests.data.deidentify.test_deidentify_file import STUDY, dicom, opened

HERE = Path(__file__).parent
SECRET = "Quillfeather"
VALUES = {
    "DA": "19630717",
    "DT": "19630717101112",
    "TM": "101112.345678",
    "UI": "1.2.77418529.1",
    "PN": f"{SECRET}^Zelda",
    "AS": "061Y",
    "DS": "7741.8529",
    "IS": "77418529",
    "US": 7741,
    "UL": 77418529,
    "SL": 77418529,
    "FL": 7741.85,
    "FD": 7741.8529,
    "SS": 7741,
    "OB": SECRET.encode(),
    "OW": SECRET.encode(),
    "UN": SECRET.encode(),
    "OB or OW": SECRET.encode(),
    "UR": f"http://{SECRET}/",
    "AE": SECRET.upper(),
    "CS": SECRET.upper(),
}
SHIFTED = {
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "AcquisitionDateTime",
    "FrameReferenceDateTime",
    "FrameAcquisitionDateTime",
}  # code 113107, C in its column
CHARACTERISTICS = {"PatientSex", "PatientAge"}  # code 113108, K in its column


def table(name: str) -> list[dict[str, str]]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def fill(target: Any, is_deep: bool) -> None:
    """Set every attribute of Table E.1-1 but those of commands and file headers; sequences get one item."""
    for row in table("ps315_e1.csv"):
        tag = row["tag"].replace("50xxxxxx", "50020010").replace("60xx", "6002")
        number = int(tag, 16)
        if number >> 16 <= 0x0004 or number == 0xFFFCFFFC:
            continue
        if not keyword_for_tag(number) and number >> 16 not in (0x5002, 0x6002):
            target.add_new(number, "LO", SECRET)  # newer than the dictionary
            continue
        representation = dictionary_VR(number).split(" or ")[0] if keyword_for_tag(number) else "UN"
        if representation == "SQ":
            item = Dataset()
            item.PatientName, item.TextValue, item.ReferencedSOPInstanceUID = f"{SECRET}^Z", SECRET, VALUES["UI"]
            if is_deep:
                fill(item, is_deep=False)
            target.add_new(number, "SQ", [item])
        elif number not in PRESENT_TAGS:
            target.add_new(number, representation, VALUES.get(representation, SECRET))


PRESENT_TAGS = {0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00100040}  # set by the phantom already


@pytest.fixture
def full(home: Path) -> tuple[Any, Any]:
    """A phantom with every attribute of the table, also in items of a retained sequence: before and after."""
    header = opened(dicom())
    fill(header, is_deep=True)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-28000", "SRT", "Lung"
    fill(item, is_deep=False)
    header.AnatomicRegionSequence = [item]
    block = header.private_block(0x0019, "ACME", create=True)
    block.add_new(0x10, "LO", SECRET)
    block.add_new(0x11, "SQ", [item])
    stream = io.BytesIO()
    header.save_as(stream)
    return header, opened(deidentify_file("a.dcm", stream.getvalue(), {"patient_id": "one"})[1])


def test_every_attribute_of_the_table_is_treated_as_it_says(full: tuple[Any, Any]) -> None:
    before, after = full
    present_tags = {element.tag for element in before.iterall()}
    checked = 0
    for row in table("ps315_e1.csv"):
        if "xx" in row["tag"] or int(row["tag"], 16) not in present_tags:
            continue
        for element in after.iterall():
            if element.tag != int(row["tag"], 16) or row["keyword"] in SHIFTED | CHARACTERISTICS:
                continue
            old_values = {str(original.value) for original in before.iterall() if original.tag == element.tag}
            assert row["action"] != "X", f"{row['keyword']} must be removed"
            if element.VR == "SQ":
                assert not element.value or row["action"].endswith("U*"), row["keyword"]
            else:
                assert str(element.value) not in old_values or not element.value, row["keyword"]
        checked += 1
    assert checked > 550


def test_overlays_curves_and_private_attributes_are_removed(full: tuple[Any, Any]) -> None:
    for element in full[1].iterall():
        assert not element.tag.is_private and not 0x5000 <= element.tag.group < 0x5100, element.keyword
        assert not 0x6000 <= element.tag.group < 0x6100, element.keyword


def test_no_byte_of_the_planted_values_remains(full: tuple[Any, Any]) -> None:
    stream = io.BytesIO()
    full[1].save_as(stream, enforce_file_format=True)
    for secret in (SECRET, SECRET.upper(), "19630717", "101112", "77418529", "7741.85"):
        assert secret.encode() not in stream.getvalue(), secret


def test_retained_dates_are_shifted_by_one_number_of_days(full: tuple[Any, Any]) -> None:
    dates = {element.keyword: str(element.value)[:8] for element in full[1].iterall() if element.keyword in SHIFTED}
    assert {"StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"} <= set(dates)
    for keyword, value in dates.items():
        shift = datetime.strptime(value, "%Y%m%d") - datetime(1963, 7, 17)
        assert shift.days == keys.day_shift("one"), keyword


def test_the_method_is_stated_in_the_codes_of_the_profile(full: tuple[Any, Any]) -> None:
    after = full[1]
    codes = [(code.CodeValue, code.CodingSchemeDesignator) for code in after.DeidentificationMethodCodeSequence]
    assert codes == [(value, "DCM") for value, _ in CODES]
    assert (after.PatientIdentityRemoved, after.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")


def test_references_between_files_of_a_study_stay_valid(home: Path) -> None:
    first, second = opened(dicom(0)), opened(dicom(1))
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = first.SOPClassUID, first.SOPInstanceUID
    second.ReferencedImageSequence = second.SourceImageSequence = [item]
    stream = io.BytesIO()
    second.save_as(stream)
    clean_first = opened(deidentify_file("a", dicom(0), {"patient_id": "one"})[1])
    clean_second = opened(deidentify_file("b", stream.getvalue(), {"patient_id": "one"})[1])
    reference = clean_second.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert clean_first.SOPInstanceUID == reference != first.SOPInstanceUID
    assert clean_first.SOPInstanceUID == clean_second.SourceImageSequence[0].ReferencedSOPInstanceUID
    assert clean_first.StudyInstanceUID == clean_second.StudyInstanceUID
    assert clean_first.FrameOfReferenceUID == clean_second.FrameOfReferenceUID


IODS = {
    "1.2.840.10008.5.1.4.1.1.2": "ct-image",
    "1.2.840.10008.5.1.4.1.1.4": "mr-image",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced-ct-image",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced-mr-image",
}


def missing_attributes(before: Any, after: Any) -> list[str]:
    """Required attributes that the original has and the result lacks; an empty type 1 attribute counts as missing."""
    missing = []
    for row in table("iod_required.csv"):
        if row["iod"] != IODS[before.SOPClassUID] or row["keyword"] not in before:
            continue
        value = after.get(row["keyword"])
        if row["keyword"] not in after:
            missing.append(f"{row['keyword']} is absent")
        elif row["type"] == "1" and before.get(row["keyword"]) not in (None, "") and value in (None, ""):
            missing.append(f"{row['keyword']} is empty")
    return missing


def test_required_attributes_of_the_kind_of_image_are_present(home: Path, real_data: Path) -> None:
    counts: dict[str, int] = {}
    files = [*(real_data / "dicom-zoo/decodes").iterdir(), *(real_data / "chest-ct-tcga-luad-dicom").rglob("*.dcm")]
    for path in sorted(files):
        content = path.read_bytes()
        before = pydicom.dcmread(io.BytesIO(content), force=True)
        if before.get("SOPClassUID") not in IODS:
            continue
        suffix, clean = deidentify_file(path.name, content, {"patient_id": "one"})
        assert missing_attributes(before, opened(clean)) == [], path.name
        np.testing.assert_array_equal(read_scan(path.name, content).pixels, read_scan(suffix, clean).pixels)
        counts[IODS[before.SOPClassUID]] = counts.get(IODS[before.SOPClassUID], 0) + 1
    assert set(counts) == set(IODS.values()), counts
    phantom = opened(dicom())
    assert missing_attributes(phantom, opened(deidentify_file("a", dicom(), {"patient_id": STUDY.person.id})[1])) == []
