"""Padding outside of the field of view does not influence any result, whatever its stored value."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from data.core_types import PixelSettings, Scan, Task, ValueUnit
from data.deidentify import burned_in_text
from data.deidentify.deidentify_file import deidentify_file
from data.duplicates.near_duplicates import near_pairs
from data.phantom import study
from data.scan import hounsfield, preprocess, slice_features, thumbnail
from data.scan.read import read_scan
from data.scan.series import join_series
from lineage.errors import Fault
from tests.data.deidentify.test_burned_in_text import draw_text
from tests.data.scan.test_read import dicom, nifti

MR, LUNG = PixelSettings(64, None), PixelSettings(64, (-400, 1500))
HU = {"RescaleSlope": "1", "RescaleIntercept": "0", "PixelRepresentation": 1}
RAW = {"Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None, "PixelRepresentation": 1}


def corners(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask outside of a circle."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - shape[0] / 2 + 0.5, columns - shape[1] / 2 + 0.5) > shape[0] / 2


@pytest.fixture(scope="module")
def chest(lung: Task) -> NDArray[np.int16]:
    return study.make_study(lung, study.usual_scanner(lung), 5, 0, "malignant").slice(0, 2)[0].astype(np.int16)


@pytest.fixture(scope="module")
def head(brain: Task) -> NDArray[np.int16]:
    return study.make_study(brain, study.usual_scanner(brain), 5, 0, "tumour").slice(0, 2)[0].astype(np.int16)


def facts(scan: Scan, settings: PixelSettings) -> list[Any]:
    """Every result of a slice: the network's input, description, thumbnail, embedding and pixels."""
    unit = preprocess.unit_pixels(scan.pixels[0], scan.units, settings)
    features = (thumbnail.thumbnail(unit), slice_features.embed(unit).tobytes())
    return [unit.tobytes(), slice_features.describe(scan.pixels[0], scan), *features, scan.pixels.tobytes()]


def padded(plane: NDArray[np.int16], value: int, declare: Any = True, **attributes: Any) -> bytes:
    """The slice with padded corners, declared (`True` or another value) or not (None)."""
    stored = np.where(corners(plane.shape), np.int16(value), plane).astype("<i2")
    declaration = {"PixelPaddingValue": value if declare is True else declare} if declare is not None else {}
    return dicom(stored, **(declaration | attributes))


@pytest.mark.parametrize("name", ["pad-2000", "pad32767", "pad-32768"])
def test_padded_files_give_the_results_of_the_unpadded_file(real_data: Path, name: str) -> None:
    folder = real_data / "intake-faults/pixel-padding"
    plain, scan = (read_scan("x", (folder / f"{stem}.dcm").read_bytes()) for stem in ("plain", name))
    assert scan.pixels.min() == 0 and scan.pixels.max() == plain.pixels.max()
    scans = (plain, scan)
    plain_input, padded_input = (preprocess.unit_pixels(image.pixels[0], image.units, MR) for image in scans)
    difference = np.abs(plain_input - padded_input)
    assert difference.max() < 0.1 and difference.mean() < 1e-3
    assert np.linalg.norm(slice_features.embed(plain_input) - slice_features.embed(padded_input)) < 0.02
    plain_facts, padded_facts = (slice_features.describe(image.pixels[0], image) for image in scans)
    assert plain_facts["p01"] == padded_facts["p01"] and plain_facts["p99"] == padded_facts["p99"]


def test_different_patients_with_the_same_padding_are_no_duplicates(real_data: Path) -> None:
    import pandas as pd

    paths = sorted((real_data / "intake-faults/pixel-padding/batch").glob("*.dcm"))
    scans = [read_scan(path.name, path.read_bytes()) for path in paths]
    thumbnails = [
        thumbnail.thumbnail(preprocess.unit_pixels(scan.pixels[0], scan.units, PixelSettings(128, None)))
        for scan in scans
    ]
    table = pd.DataFrame({"thumbnail": thumbnails, "cluster": [str(number) for number in range(len(scans))]})
    assert len(scans) == 6 and len(near_pairs(table, table, 0.97)) == 0


def test_every_padding_gives_the_same_results_in_hu(chest: NDArray[np.int16]) -> None:
    undeclared = [padded(chest, value, None, **HU) for value in (-2000, -3024, -32768, -10000)]
    declared = [padded(chest, value, **HU) for value in (-2000, 32767, -1100, 4095)]
    image = pydicom.dcmread(io.BytesIO(declared[0]))
    image[0x00280120] = pydicom.DataElement(0x00280120, "US", 63536)  # as GE writes it beside signed values
    stream = io.BytesIO()
    image.save_as(stream)
    results = [facts(read_scan("x", content), LUNG) for content in (*undeclared, *declared, stream.getvalue())]
    assert all(result == results[0] for result in results)
    scan = read_scan("x", undeclared[0])
    assert (scan.pixels[0][corners(chest.shape)] == -1024).all()
    np.testing.assert_array_equal(scan.pixels[0][~corners(chest.shape)], chest[~corners(chest.shape)])


def test_every_padding_gives_the_same_results_in_mr(head: NDArray[np.int16]) -> None:
    declared = [padded(head, value, **RAW) for value in (-2000, 32767, -32768, -1)]
    undeclared = [padded(head, value, None, **RAW) for value in (-2000, -32768, -1)]
    unsigned = padded(head, -2000, 63536, **RAW | {"PixelRepresentation": 0})
    results = [facts(read_scan("x", content), MR) for content in (*declared, *undeclared, unsigned)]
    assert all(result == results[0] for result in results)


def test_a_range_of_padding_becomes_one_value_in_the_copy(head: NDArray[np.int16], home: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(-2000, -1899, head.shape).astype(np.int16)
    stored = np.where(corners(head.shape), noise, head).astype("<i2")
    for first, last in ((-2000, -1900), (-1900, -2000)):
        content = dicom(stored, PixelPaddingValue=first, PixelPaddingRangeLimit=last, **RAW)
        assert facts(read_scan("x", content), MR) == facts(read_scan("x", padded(head, -2000, **RAW)), MR)
        _, clean = deidentify_file("a.dcm", content, {"patient_id": "x"})
        image = pydicom.dcmread(io.BytesIO(clean))
        assert (image.pixel_array[corners(head.shape)] == first).all()
        np.testing.assert_array_equal(image.pixel_array[~corners(head.shape)], head[~corners(head.shape)])
        assert facts(read_scan("x", clean), MR)[-1] == facts(read_scan("x", content), MR)[-1]


def test_each_frame_and_each_file_of_a_series_has_its_own_padding(head: NDArray[np.int16]) -> None:
    frames = np.stack([head, np.where(corners(head.shape), -2000, head // 2), np.full_like(head, -2000)])
    scan = read_scan("x", dicom(frames.astype("<i2"), NumberOfFrames=3, PixelPaddingValue=-2000, **RAW))
    np.testing.assert_array_equal(scan.pixels[0], head)
    assert scan.padding is not None and scan.padding.sum(axis=(1, 2)).tolist()[::2] == [0, head.size]
    assert scan.pixels[1].min() >= 0 and scan.pixels[2].std() == 0
    positions = [
        {"ImagePositionPatient": ["0", "0", str(z)], "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}
        for z in range(3)
    ]
    files = [
        dicom(frame.astype("<i2"), PixelPaddingValue=-2000, **(RAW | position))
        for frame, position in zip(frames, positions, strict=True)
    ]
    joined = join_series([read_scan(f"{number}.dcm", content) for number, content in enumerate(files)])
    assert joined.padding is not None and np.array_equal(joined.padding, scan.padding)


def test_monochrome1_is_inverted_without_its_padding(head: NDArray[np.int16]) -> None:
    attributes = RAW | {"PhotometricInterpretation": "MONOCHROME1"}
    scan = read_scan("x", padded(head, 32767, **attributes))
    inside = ~corners(head.shape)
    expected = head[inside].max() + head[inside].min() - head[inside].astype(np.float32)
    np.testing.assert_array_equal(scan.pixels[0][inside], expected)
    assert scan.pixels[0][~inside].max() <= np.percentile(expected, 2)


def test_padding_may_need_more_bits_than_bits_stored(chest: NDArray[np.int16], home: Path) -> None:
    """As in real files: -2000 in 16 bits outside of a circle of unsigned 12-bit values."""
    stored = np.where(corners(chest.shape), 63536, np.clip(chest + 1024, 0, 4095)).astype("<u2")
    attributes = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    content = dicom(stored, PixelPaddingValue=63536, **attributes)
    scan = read_scan("x", content)
    assert (scan.pixels[0][corners(chest.shape)] == -1024).all() and scan.pixels.max() == chest[
        ~corners(chest.shape)
    ].max()
    _, clean = deidentify_file("a.dcm", content, {"patient_id": "x"})
    np.testing.assert_array_equal(read_scan("x", clean).pixels, scan.pixels)
    with pytest.raises(Fault, match="BitsStored"):
        read_scan("x", dicom(stored, **attributes))


def test_padding_with_a_modality_lut_and_with_32_bits(head: NDArray[np.int16]) -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [1200, 0, 16], "US"
    lut.add_new("LUTData", "US", (np.arange(1200, dtype=np.uint16) * 2).tolist())
    mapped = np.where(corners(head.shape), 1199, np.clip(head, 0, 1000)).astype("<u2")
    attributes = RAW | {"PixelRepresentation": 0, "ModalityLUTSequence": [lut]}
    assert read_scan("x", dicom(mapped, PixelPaddingValue=1199, **attributes)).pixels.max() <= 2000
    wide = np.where(corners(head.shape), -2000, head).astype("<i4")
    attributes = RAW | {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}
    deep = read_scan("x", dicom(wide, PixelPaddingValue=-2000, **attributes))
    np.testing.assert_array_equal(deep.pixels, read_scan("x", padded(head, -2000, **RAW)).pixels)


def test_nan_and_a_single_negative_value_are_padding_in_volumes(head: NDArray[np.int16]) -> None:
    outside = corners(head.shape)
    results = []
    for value, kind in ((np.nan, np.float32), (-2000, np.int16), (-1, np.float64)):
        volume = np.where(outside, value, head).astype(kind)
        results.append(read_scan("x.nii", nifti(volume.T[:, :, None])).pixels)
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    assert results[0].min() >= 0


@pytest.mark.parametrize("value", [-3024, -2000, -32768, np.nan])
def test_ct_volumes_are_padded_like_ct_slices(chest: NDArray[np.int16], value: float) -> None:
    outside = corners(chest.shape)
    plane = np.where(outside, value, chest).astype(np.float32)
    scan = hounsfield.convert_to_task_units(read_scan("x.nii", nifti(plane.T[::-1, ::-1, None])), "CT")
    expected = np.where(outside, -1024, chest)
    assert scan.units == ValueUnit.HU and scan.padding is not None and scan.padding.sum() == outside.sum()
    np.testing.assert_array_equal(scan.pixels[0], expected)


def test_scans_without_padding_are_unchanged(chest: NDArray[np.int16], head: NDArray[np.int16]) -> None:
    noisy = (head - 40).astype("<i2")  # negative noise
    cold = np.where(chest < -950, chest - 200, chest).astype("<i2")  # air of -1200, possible by noise
    values, labels = np.random.default_rng(0).normal(0, 1, head.shape), np.digitize(head, (100, 300, 500)) - 1
    for content, expected in (
        (dicom(noisy, **RAW), noisy),
        (dicom(cold, **HU), cold),
        (nifti(values.T[:, :, None]), values),
        (dicom(head.astype("<i2"), PixelPaddingValue=-2000, **RAW), head),
        (dicom((chest * 10).astype("<i2"), **HU), chest * 10),  # a wrong slope, which the slice rules refuse
        (nifti(labels.T[:, :, None].astype(np.int16)), labels),
        (nifti(np.where(head > 300, 1, -1).T[:, :, None].astype(np.int16)), np.where(head > 300, 1, -1)),
    ):
        scan = read_scan("x", content)
        np.testing.assert_allclose(np.sort(scan.pixels.ravel()), np.sort(np.ravel(expected)), rtol=1e-5)
        assert scan.padding is None


def test_the_background_of_a_segmentation_and_colours_are_no_padding() -> None:
    labels = np.pad(np.ones((8, 8), np.uint8), 4)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleSlope": None}
    assert read_scan("x", dicom(labels, Modality="SEG", PixelPaddingValue=0, **eight)).pixels.min() == 0


def test_padding_declared_as_a_value_of_the_picture_is_refused(chest: NDArray[np.int16]) -> None:
    with pytest.raises(
        Fault, match=r"a\.dcm: declares the stored value 30 as padding .* itself is made of such values"
    ):
        read_scan("a.dcm", dicom(chest.astype("<i2"), PixelPaddingValue=30, **HU))
    with pytest.raises(Fault, match=r"a\.dcm: declares the stored value -2000 to 0 as padding"):
        read_scan("a.dcm", dicom(chest.astype("<i2"), PixelPaddingValue=-2000, PixelPaddingRangeLimit=0, **HU))
    with pytest.raises(Fault, match="PixelPaddingValue is not one number"):
        read_scan("a.dcm", dicom(chest.astype("<i2"), PixelPaddingValue=[1, 2], **HU))


def test_text_in_padding_is_detected(head: NDArray[np.int16]) -> None:
    ink = draw_text(np.eye(128, dtype=np.float32), 10, "top left", "DOE JANE") > 0.5
    ink[np.eye(128, dtype=bool)] = False
    stored = np.where(ink, np.int16(-2000), head).astype("<i2")
    for declare in (-2000, None):
        scan = read_scan("x", dicom(stored, PixelPaddingValue=declare, **RAW))
        assert scan.units == ValueUnit.RAW and burned_in_text.burned_in_fact(scan) == {"burned_in": "detected"}
    assert burned_in_text.burned_in_fact(read_scan("x", padded(head, -2000, **RAW))) == {}
