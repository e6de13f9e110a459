from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from data.record import Units
from data.scan.read import read
from data.scan.series import series
from lineage.errors import Fault
from tests.data.scan.test_read import dicom, nifti, picture

AXIAL = ["1", "0", "0", "0", "1", "0"]
ODD = {
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


def one(z: float, value: int = 0, x: float = 0, **more: Any) -> bytes:
    """A slice at height `z` mm, every pixel of it `value` HU."""
    plane = {"ImagePositionPatient": [str(x), "0", str(z)], "ImageOrientationPatient": AXIAL}
    return dicom(np.full((3, 4), value, "<u2"), **({"RescaleIntercept": "0", "RescaleSlope": "1"} | plane | more))


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return stream.getvalue()


def geometry(*slices: bytes) -> str:
    return series([read(f"{at}.dcm", content) for at, content in enumerate(slices)]).header["geometry"]


def test_a_zipped_series_is_one_scan_in_the_order_of_the_body() -> None:
    files = {f"s/{name}.dcm": one(z, value) for name, z, value in (("a", 10, 3), ("b", 0, 1), ("c", 5, 2))}
    scan = read("case.zip", zipped(files | {"s/.DS_Store": b"x", "DICOMDIR": b"y"}))
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
def test_two_series_that_lost_their_own_uids_are_not_mixed(keyword: str, values: tuple[str, str], fact: str) -> None:
    """De-identification gave two people one patient number, one study and one series; their slices interleave."""
    files = {f"{at}.dcm": one(2.5 * at, at, **{keyword: values[at % 2]}) for at in range(6)}
    with pytest.raises(Fault, match=rf"1.dcm: differs from 0.dcm in {fact}; give the files of one series together"):
        read("case.zip", zipped(files))
    silent = {f"{at}.dcm": one(2.5 * at, at, **{keyword: values[0] if at else ""}) for at in range(6)}
    assert len(read("case.zip", zipped(silent)).pixels) == 6


def test_a_copy_of_a_slice_is_left_out_by_name() -> None:
    files = {f"{at}.dcm": one(5 * at, at, SOPInstanceUID=f"1.2.{at}") for at in range(3)}
    scan = read("case.zip", zipped(files | {"again (2).dcm": files["1.dcm"]}))
    assert scan.pixels[:, 0, 0].tolist() == [0, 1, 2] and scan.left_out == (("again (2).dcm", "a copy of 1.dcm"),)
    with pytest.raises(Fault, match="shares its position"):
        read("case.zip", zipped(files | {"x.dcm": one(5, 9, SOPInstanceUID="1.2.1")}))


def test_a_zip_of_one_file_is_that_file() -> None:
    volume = nifti(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    for name, content in (("v.nii", volume), ("p.png", picture(np.eye(8, dtype=np.uint8))), ("d.dcm", dicom())):
        np.testing.assert_array_equal(read("a.zip", zipped({f"x/{name}": content})).pixels, read(name, content).pixels)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "holds no file"),
        ({"a": one(0), "b": one(5, SeriesInstanceUID="9.9")}, r"holds two series, b is of the second"),
        ({"a": one(0), "b": picture(np.eye(4, dtype=np.uint8))}, "b is one scan more"),
        ({"a": one(0), "b": one(5, PatientID="another")}, "b: differs from a in patient"),
        ({"a": one(0), "b": one(0, 1)}, "b: shares its position"),
        ({"a": one(0), "b": one(5, ImageOrientationPatient=["0", "1", "0", "0", "0", "1"])}, "b: differs .* orient"),
        ({"a": one(0), "b": one(5, ImagePositionPatient=None)}, "b: has no image position"),
        ({"a": one(0), "b": b"no scan"}, "b: is not DICOM"),
        ({"a": dicom(np.zeros((2, 3, 4), "<u2"), NumberOfFrames=2), "b": one(0)}, "multi-frame"),
    ],
)
def test_what_is_not_one_scan_is_refused_by_archive_and_member(files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(Fault, match=rf"^case\.zip: .*{reason}|^case\.zip: {reason}"):
        read("case.zip", zipped(files))


def test_oddities_of_a_series_are_named() -> None:
    assert geometry(one(0), one(5), one(10)) == "even"
    assert geometry(one(0), one(5), one(10), one(20)) == "missing slices"
    assert geometry(one(0), one(5), one(10), one(17)) == "uneven distances"
    assert geometry(one(0), one(5, x=1), one(10, x=2)) == "gantry tilt"
    shifted = [read(f"{at}", one(5 * at, x=4.0 * (at == 2))) for at in range(5)]
    assert series(shifted).header["geometry"] == "uneven distances, gantry tilt" and series(shifted).affine is None
    assert geometry(one(0), one(5, x=1), one(10, x=2), one(20, x=4)) == "missing slices, gantry tilt"
    assert geometry(one(0), one(5.001, ImageOrientationPatient=["0.9999999", "0", "0", "0", "1", "0.0001"])) == "even"


def enhanced(heights: list[float], turned: bool = False) -> bytes:
    """A multi-frame file whose frame number is its pixel value; intercept -1000 of odd frames alone."""
    groups = []
    for number, z in enumerate(heights):
        group, place, plane, values = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = ["0", "0", str(z)]
        plane.ImageOrientationPatient = ["0", "1", "0", "0", "0", "1"] if turned and number else AXIAL
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", "-1000" if number % 2 else "0", "HU"
        group.PlanePositionSequence, group.PlaneOrientationSequence = [place], [plane]
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    frames = np.arange(len(heights), dtype="<u2")[:, None, None] * np.ones((1, 3, 4), "<u2")
    return dicom(frames, NumberOfFrames=len(heights), RescaleSlope=None, PerFrameFunctionalGroupsSequence=groups)


def test_frames_are_ordered_by_their_geometry_and_rescaled_one_by_one() -> None:
    scan = read("e.dcm", enhanced([10, 0, 5, 15]))
    assert scan.pixels[:, 0, 0].tolist() == [-999, 2, 0, -997]
    assert scan.spacing == (5.0, 0.5, 0.7) and scan.header["geometry"] == "even"
    assert scan.header["position"] == "0\\0\\0"
    assert read("e.dcm", enhanced([0, 5, 15, 20])).header["geometry"] == "missing slices"
    again = read("e.dcm", enhanced([5, 0, 5, 0]))  # two time points
    assert again.header["geometry"] == "several slices at one place" and again.pixels[:, 0, 0].tolist() == [
        -999,
        -997,
        0,
        2,
    ]
    with pytest.raises(Fault, match=r"^e\.dcm: frame 2 has another orientation than frame 1"):
        read("e.dcm", enhanced([0, 5], turned=True))
    assert read("m.dcm", dicom(np.zeros((2, 3, 4), "<u2"), NumberOfFrames=2)).header["geometry"] == ""


def test_every_series_of_the_zoo_is_even_named_odd_or_refused(real_data: Path) -> None:
    import re

    for folder in sorted((real_data / "dicom-zoo/series").iterdir()):
        content = zipped({path.name: path.read_bytes() for path in folder.iterdir()})
        if folder.name in REFUSED:
            with pytest.raises(Fault, match=rf"^{folder.name}\.zip: .*{REFUSED[folder.name]}"):
                read(f"{folder.name}.zip", content)
            continue
        scan = read(f"{folder.name}.zip", content)
        assert re.search(ODD.get(folder.name, "^even$"), scan.header["geometry"]), folder.name
        assert len(scan.pixels) == len(list(folder.iterdir()))


SOUND = {f"{at}": one(5 * at, at) for at in range(4)}
SIDE = ["0", "1", "0", "0", "0", "-1"]
STRANGERS = {
    "localizer": (one(99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer, not a slice"),
    "scout, not marked": (one(99, ImageOrientationPatient=SIDE), "of another orientation than the other slices"),
    "scout of its own series": (
        one(99, ImageOrientationPatient=SIDE, SeriesInstanceUID="7.7"),
        "of another orientation than the other slices",
    ),
    "marked, of its own series": (
        one(99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="7.7"),
        "a localizer, not a slice",
    ),
    "projection": (one(3, ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"]), "a projection of several slices"),
    "another size": (
        dicom(np.zeros((5, 4), "<u2"), ImagePositionPatient=["0", "0", "99"], ImageOrientationPatient=AXIAL),
        "of another size than the other slices",
    ),
    "another spacing": (one(99, PixelSpacing=["0.9", "0.9"]), "of another pixel spacing than the other slices"),
    "no Hounsfield units": (
        one(99, RescaleSlope=None, RescaleIntercept=None),
        "of another unit of pixels than the other slices",
    ),
    "another modality": (one(99, Modality="PT"), "of another modality than the other slices"),
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


STRANGERS["dose report"] = (report(), "no image, but X-Ray Radiation Dose SR Storage")
STRANGERS["presentation state"] = (
    report(SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR"),
    "no image, but Grayscale Softcopy Presentation State Storage",
)


@pytest.mark.parametrize("place", ["0-first", "zz-last"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_no_slice_of_a_series_is_left_out_by_name_and_the_slices_stay(kind: str, place: str) -> None:
    content, reason = STRANGERS[kind]
    scan = read("case.zip", zipped(SOUND | {place: content}))
    assert scan.pixels[:, 0, 0].tolist() == [0, 1, 2, 3] and scan.header["geometry"] == "even"
    assert scan.left_out == ((place, reason),) and scan.units == Units.HU
    alone = read("case.zip", zipped({"0": SOUND["0"], "x": content})) if "another" not in reason else None
    assert alone is None or (len(alone.pixels) == 1 and alone.left_out == (("x", reason),))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            [one(0), one(5), one(0, ImageOrientationPatient=SIDE), one(5, ImageOrientationPatient=SIDE)],
            "in orientation",
        ),
        ([one(0), one(5), one(10, PixelSpacing=["1", "1"]), one(15, PixelSpacing=["1", "1"])], "in pixel spacing"),
        ([one(0), one(5), one(0, SeriesInstanceUID="7"), one(5, SeriesInstanceUID="7")], "holds two series"),
        ([one(0), one(5), one(10), one(0, PatientID="other", ImageOrientationPatient=SIDE)], "in patient"),
        ([one(0), one(5), report(PatientID="other")], "patient"),
        ([report(), report()], "holds no image"),
    ],
)
def test_what_cannot_be_told_apart_and_another_patient_are_refused(files: list[bytes], reason: str) -> None:
    with pytest.raises(Fault, match=reason):
        read("case.zip", zipped({f"{at}": content for at, content in enumerate(files)}))


def test_a_series_of_localizers_alone_stays_for_the_rules_to_stop() -> None:
    marked = [one(5 * at, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]) for at in range(2)]
    scan = read("case.zip", zipped({f"{at}": content for at, content in enumerate(marked)}))
    assert len(scan.pixels) == 2 and scan.header["image_type"] == "a localizer, not a slice" and scan.left_out == ()


def test_what_one_file_says_of_itself_holds_for_the_series() -> None:
    files = dict(SOUND) | {"3": one(15, 3, BurnedInAnnotation="YES", ImageType=["DERIVED", "PRIMARY", "AXIAL"])}
    scan = read("case.zip", zipped(files))
    assert scan.header["burned_in"] == "YES" and scan.header["image_type"] == "derived from other images"
