from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from data.core_types import ValueUnit
from data.scan.read import read_scan
from data.scan.series import join_series
from lineage.errors import Fault
from tests.data.scan.test_read import dicom, nifti, picture

AXIAL = ["1", "0", "0", "0", "1", "0"]
IRREGULAR = {
    "failing_gantrytilting_001": "gantry tilt",
    "failing_sliceincrement_001": "uneven distances|missing slices",
    "failing_sliceincrement_002": "uneven distances|missing slices",
    "dicomdirtests_77654033_CT2": "uneven distances|missing slices",
}
REFUSED = {
    "failing_notavolume_001": "shares its position",
    "failing_sliceorientation_001": "in orientation",
    "dicomdirtests_98892003_MR2": "holds two series",
}


def slice_file(z: float, value: int = 0, x: float = 0, **attributes: Any) -> bytes:
    """A DICOM file of one slice at height `z` mm, with every pixel at `value` HU."""
    plane = {"ImagePositionPatient": [str(x), "0", str(z)], "ImageOrientationPatient": AXIAL}
    return dicom(np.full((3, 4), value, "<u2"), **({"RescaleIntercept": "0", "RescaleSlope": "1"} | plane | attributes))


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def geometry(*slices: bytes) -> str:
    return join_series([read_scan(f"{index}.dcm", content) for index, content in enumerate(slices)]).header["geometry"]


def test_a_zipped_series_is_one_scan_in_anatomical_order() -> None:
    files = {f"s/{name}.dcm": slice_file(z, value) for name, z, value in (("a", 10, 3), ("b", 0, 1), ("c", 5, 2))}
    scan = read_scan("case.zip", zipped(files | {"s/.DS_Store": b"x", "DICOMDIR": b"y"}))
    assert scan.pixels[:, 0, 0].tolist() == [1, 2, 3] and scan.spacing == (5.0, 0.5, 0.7)
    assert scan.name == "case.zip" and scan.header["geometry"] == "even" and scan.patient_id == "MRN000123456"


@pytest.mark.parametrize(
    ("keyword", "values", "fact"),
    [
        ("FrameOfReferenceUID", ("1.2.6", "1.2.7"), "frame of reference"),
        ("PatientSex", ("F", "M"), "sex"),
        ("PatientAge", ("034Y", "071Y"), "age"),
        ("Manufacturer", ("Acme", "Other"), "manufacturer"),
        ("ManufacturerModelName", ("A", "B"), "model"),
        ("ConvolutionKernel", ("B30f", "B70f"), "kernel"),
    ],
)
def test_two_series_with_one_uid_are_refused_by_their_other_attributes(
    keyword: str, values: tuple[str, str], fact: str
) -> None:
    """De-identification gave two people one patient number, study and series; their slices interleave."""
    files = {f"{index}.dcm": slice_file(2.5 * index, index, **{keyword: values[index % 2]}) for index in range(6)}
    with pytest.raises(Fault, match=rf"1.dcm: differs from 0.dcm in {fact}; give the files of one series together"):
        read_scan("case.zip", zipped(files))
    partly_empty = {
        f"{index}.dcm": slice_file(2.5 * index, index, **{keyword: values[0] if index else ""}) for index in range(6)
    }
    assert len(read_scan("case.zip", zipped(partly_empty)).pixels) == 6


def test_a_copy_of_a_slice_is_left_out_by_name() -> None:
    files = {f"{index}.dcm": slice_file(5 * index, index, SOPInstanceUID=f"1.2.{index}") for index in range(3)}
    scan = read_scan("case.zip", zipped(files | {"copy (2).dcm": files["1.dcm"]}))
    assert scan.pixels[:, 0, 0].tolist() == [0, 1, 2] and scan.left_out == (("copy (2).dcm", "a copy of 1.dcm"),)
    with pytest.raises(Fault, match="shares its position"):
        read_scan("case.zip", zipped(files | {"x.dcm": slice_file(5, 9, SOPInstanceUID="1.2.1")}))


def test_a_zip_of_one_file_equals_that_file() -> None:
    volume = nifti(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    for name, content in (("v.nii", volume), ("p.png", picture(np.eye(8, dtype=np.uint8))), ("d.dcm", dicom())):
        np.testing.assert_array_equal(
            read_scan("a.zip", zipped({f"x/{name}": content})).pixels, read_scan(name, content).pixels
        )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "holds no file"),
        ({"a": slice_file(0), "b": slice_file(5, SeriesInstanceUID="9.9")}, r"holds two series, b is of the second"),
        ({"a": slice_file(0), "b": picture(np.eye(4, dtype=np.uint8))}, "b is one scan more"),
        ({"a": slice_file(0), "b": slice_file(5, PatientID="another")}, "b: differs from a in patient"),
        ({"a": slice_file(0), "b": slice_file(0, 1)}, "b: shares its position"),
        (
            {"a": slice_file(0), "b": slice_file(5, ImageOrientationPatient=["0", "1", "0", "0", "0", "1"])},
            "b: differs .* orient",
        ),
        ({"a": slice_file(0), "b": slice_file(5, ImagePositionPatient=None)}, "b: has no image position"),
        ({"a": slice_file(0), "b": b"no scan"}, "b: is not DICOM"),
        ({"a": dicom(np.zeros((2, 3, 4), "<u2"), NumberOfFrames=2), "b": slice_file(0)}, "multi-frame"),
    ],
)
def test_files_that_are_not_one_scan_are_refused_by_archive_and_member(files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(Fault, match=rf"^case\.zip: .*{reason}|^case\.zip: {reason}"):
        read_scan("case.zip", zipped(files))


def test_irregularities_of_a_series_are_reported() -> None:
    assert geometry(slice_file(0), slice_file(5), slice_file(10)) == "even"
    assert geometry(slice_file(0), slice_file(5), slice_file(10), slice_file(20)) == "missing slices"
    assert geometry(slice_file(0), slice_file(5), slice_file(10), slice_file(17)) == "uneven distances"
    assert geometry(slice_file(0), slice_file(5, x=1), slice_file(10, x=2)) == "gantry tilt"
    shifted = [read_scan(f"{index}", slice_file(5 * index, x=4.0 * (index == 2))) for index in range(5)]
    assert (
        join_series(shifted).header["geometry"] == "uneven distances, gantry tilt"
        and join_series(shifted).affine is None
    )
    assert (
        geometry(slice_file(0), slice_file(5, x=1), slice_file(10, x=2), slice_file(20, x=4))
        == "missing slices, gantry tilt"
    )
    assert (
        geometry(slice_file(0), slice_file(5.001, ImageOrientationPatient=["0.9999999", "0", "0", "0", "1", "0.0001"]))
        == "even"
    )


def enhanced(heights: list[float], is_turned: bool = False) -> bytes:
    """A multi-frame file whose pixel values are the frame number; odd frames have the intercept -1000."""
    groups = []
    for number, z in enumerate(heights):
        group, position, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = ["0", "0", str(z)]
        orientation.ImageOrientationPatient = ["0", "1", "0", "0", "0", "1"] if is_turned and number else AXIAL
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", "-1000" if number % 2 else "0", "HU"
        group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    frames = np.arange(len(heights), dtype="<u2")[:, None, None] * np.ones((1, 3, 4), "<u2")
    return dicom(frames, NumberOfFrames=len(heights), RescaleSlope=None, PerFrameFunctionalGroupsSequence=groups)


def test_frames_are_ordered_by_their_geometry_and_rescaled_one_by_one() -> None:
    scan = read_scan("e.dcm", enhanced([10, 0, 5, 15]))
    assert scan.pixels[:, 0, 0].tolist() == [-999, 2, 0, -997]
    assert scan.spacing == (5.0, 0.5, 0.7) and scan.header["geometry"] == "even"
    assert scan.header["position"] == "0\\0\\0"
    assert read_scan("e.dcm", enhanced([0, 5, 15, 20])).header["geometry"] == "missing slices"
    repeated = read_scan("e.dcm", enhanced([5, 0, 5, 0]))  # two time points
    assert repeated.header["geometry"] == "several slices at one place" and repeated.pixels[:, 0, 0].tolist() == [
        -999,
        -997,
        0,
        2,
    ]
    with pytest.raises(Fault, match=r"^e\.dcm: frame 2 has another orientation than frame 1"):
        read_scan("e.dcm", enhanced([0, 5], is_turned=True))
    assert read_scan("m.dcm", dicom(np.zeros((2, 3, 4), "<u2"), NumberOfFrames=2)).header["geometry"] == ""


def test_every_series_of_the_zoo_is_even_reported_as_irregular_or_refused(real_data: Path) -> None:
    import re

    for folder in sorted((real_data / "dicom-zoo/series").iterdir()):
        content = zipped({path.name: path.read_bytes() for path in folder.iterdir()})
        if folder.name in REFUSED:
            with pytest.raises(Fault, match=rf"^{folder.name}\.zip: .*{REFUSED[folder.name]}"):
                read_scan(f"{folder.name}.zip", content)
            continue
        scan = read_scan(f"{folder.name}.zip", content)
        assert re.search(IRREGULAR.get(folder.name, "^even$"), scan.header["geometry"]), folder.name
        assert len(scan.pixels) == len(list(folder.iterdir()))


REGULAR = {f"{index}": slice_file(5 * index, index) for index in range(4)}
SAGITTAL = ["0", "1", "0", "0", "0", "-1"]
EXCLUDED = {
    "localizer": (slice_file(99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer, not a slice"),
    "scout, not marked": (
        slice_file(99, ImageOrientationPatient=SAGITTAL),
        "of another orientation than the other slices",
    ),
    "scout of its own series": (
        slice_file(99, ImageOrientationPatient=SAGITTAL, SeriesInstanceUID="7.7"),
        "of another orientation than the other slices",
    ),
    "marked, of its own series": (
        slice_file(99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="7.7"),
        "a localizer, not a slice",
    ),
    "projection": (slice_file(3, ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"]), "a projection of several slices"),
    "another size": (
        dicom(np.zeros((5, 4), "<u2"), ImagePositionPatient=["0", "0", "99"], ImageOrientationPatient=AXIAL),
        "of another size than the other slices",
    ),
    "another spacing": (slice_file(99, PixelSpacing=["0.9", "0.9"]), "of another pixel spacing than the other slices"),
    "no Hounsfield units": (
        slice_file(99, RescaleSlope=None, RescaleIntercept=None),
        "of another unit of pixels than the other slices",
    ),
    "another modality": (slice_file(99, Modality="PT"), "of another modality than the other slices"),
    "capture": (
        dicom(np.zeros((5, 9), "<u2"), SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesInstanceUID="8.8", Modality="OT"),
        "a secondary capture, not the scanner's image",
    ),
}


def report(**attributes: Any) -> bytes:
    """A structured report: DICOM without pixels."""
    import pydicom

    image = pydicom.dcmread(io.BytesIO(dicom()))
    del image.PixelData
    image.SOPClassUID, image.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "SR"
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


EXCLUDED["dose report"] = (report(), "no image, but X-Ray Radiation Dose SR Storage")
EXCLUDED["presentation state"] = (
    report(SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR"),
    "no image, but Grayscale Softcopy Presentation State Storage",
)


@pytest.mark.parametrize("name", ["0-first", "zz-last"])
@pytest.mark.parametrize("kind", EXCLUDED)
def test_files_that_are_no_slices_of_a_series_are_left_out_by_name(kind: str, name: str) -> None:
    content, reason = EXCLUDED[kind]
    scan = read_scan("case.zip", zipped(REGULAR | {name: content}))
    assert scan.pixels[:, 0, 0].tolist() == [0, 1, 2, 3] and scan.header["geometry"] == "even"
    assert scan.left_out == ((name, reason),) and scan.units == ValueUnit.HU
    pair = read_scan("case.zip", zipped({"0": REGULAR["0"], "x": content})) if "another" not in reason else None
    assert pair is None or (len(pair.pixels) == 1 and pair.left_out == (("x", reason),))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            [
                slice_file(0),
                slice_file(5),
                slice_file(0, ImageOrientationPatient=SAGITTAL),
                slice_file(5, ImageOrientationPatient=SAGITTAL),
            ],
            "in orientation",
        ),
        (
            [
                slice_file(0),
                slice_file(5),
                slice_file(10, PixelSpacing=["1", "1"]),
                slice_file(15, PixelSpacing=["1", "1"]),
            ],
            "in pixel spacing",
        ),
        (
            [slice_file(0), slice_file(5), slice_file(0, SeriesInstanceUID="7"), slice_file(5, SeriesInstanceUID="7")],
            "holds two series",
        ),
        (
            [
                slice_file(0),
                slice_file(5),
                slice_file(10),
                slice_file(0, PatientID="other", ImageOrientationPatient=SAGITTAL),
            ],
            "in patient",
        ),
        ([slice_file(0), slice_file(5), report(PatientID="other")], "patient"),
        ([report(), report()], "holds no image"),
    ],
)
def test_undecidable_series_and_other_patients_are_refused(files: list[bytes], reason: str) -> None:
    with pytest.raises(Fault, match=reason):
        read_scan("case.zip", zipped({f"{index}": content for index, content in enumerate(files)}))


def test_a_series_of_only_localizers_is_read_and_left_to_the_rules() -> None:
    localizers = [slice_file(5 * index, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]) for index in range(2)]
    scan = read_scan("case.zip", zipped({f"{index}": content for index, content in enumerate(localizers)}))
    assert len(scan.pixels) == 2 and scan.header["image_type"] == "a localizer, not a slice" and scan.left_out == ()


def test_image_type_and_burned_in_of_one_file_count_for_the_series() -> None:
    files = dict(REGULAR) | {
        "3": slice_file(15, 3, BurnedInAnnotation="YES", ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    }
    scan = read_scan("case.zip", zipped(files))
    assert scan.header["burned_in"] == "YES" and scan.header["image_type"] == "derived from other images"
