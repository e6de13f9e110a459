from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.core_types import Modality, ValueUnit
from data.scan import size_limits
from data.scan.read import read_scan
from data.scan.series import join_series
from lineage.errors import Fault

STORED = np.arange(12, dtype="<u2").reshape(3, 4)


def dicom(stored: np.ndarray[Any, Any] = STORED, pixel_data: bytes = b"", **attributes: Any) -> bytes:
    """A small CT file; keyword arguments set attributes, None omits one."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    plain = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3",
        "Modality": "CT",
        "PatientID": "MRN000123456",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": "2",
        "RescaleIntercept": "-1000",
        "PixelSpacing": ["0.5", "0.7"],
        "SliceThickness": "3",
        "BodyPartExamined": "CHEST",
        "PatientAge": "061Y",
    }
    image = FileDataset(None, {}, preamble=b"\0" * 128)
    for keyword, value in (plain | attributes).items():
        if value is not None:
            setattr(image, keyword, value)
    image.PixelData = pixel_data or stored.tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def nifti(volume: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None = None) -> bytes:
    import nibabel

    return bytes(nibabel.Nifti1Image(volume, np.diag([2.0, 3.0, 5.0, 1.0]) if affine is None else affine).to_bytes())


def picture(grey: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, kind)
    return stream.getvalue()


def test_ct_is_in_hounsfield_units_with_its_facts() -> None:
    scan = read_scan("a.dcm", dicom())
    assert scan.units == ValueUnit.HU and scan.modality == Modality.CT and scan.pixels.dtype == np.float32
    np.testing.assert_array_equal(scan.pixels[0], STORED * 2.0 - 1000)
    assert scan.spacing == (3.0, 0.5, 0.7)
    assert scan.header["body_part"] == "CHEST" and scan.header["age"] == "061Y"
    assert scan.patient_id == "MRN000123456" and "MRN000123456" not in "".join(scan.header.values())


def test_signed_pixels_and_ct_without_rescale() -> None:
    signed = read_scan("a.dcm", dicom(np.array([[-5, 7]], "<i2"), PixelRepresentation=1, RescaleSlope="1"))
    np.testing.assert_array_equal(signed.pixels[0], [[-1005, -993]])
    assert read_scan("a.dcm", dicom(RescaleSlope=None)).units == ValueUnit.RAW


def test_monochrome1_is_inverted() -> None:
    scan = read_scan("a.dcm", dicom(Modality="CR", PhotometricInterpretation="MONOCHROME1", RescaleSlope=None))
    np.testing.assert_array_equal(scan.pixels[0], 11 - STORED)
    assert scan.units == ValueUnit.RAW and scan.modality is None and scan.header["modality"] == "CR"


def test_frames_become_slices() -> None:
    frames = np.arange(24, dtype="<u2").reshape(2, 3, 4)
    assert read_scan("a.dcm", dicom(frames, NumberOfFrames=2)).pixels.shape == (2, 3, 4)


@pytest.mark.parametrize("frames", [1, 2])
def test_more_frames_than_the_header_declares_are_refused(frames: int) -> None:
    pixels = np.arange(60, dtype="<u2").reshape(5, 3, 4)
    with pytest.raises(Fault, match=f"^a: holds more frames than the {frames} of its header; correct NumberOfFrames"):
        read_scan("a", dicom(pixels, NumberOfFrames=frames if frames > 1 else None))


def test_each_frame_of_an_enhanced_object_has_its_own_rescale() -> None:
    from pydicom.dataset import Dataset

    groups = []
    for intercept in ("-10", "-20"):
        values, group = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", intercept, "HU"
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    frames = np.zeros((2, 3, 4), "<u2")
    content = dicom(frames, NumberOfFrames=2, RescaleSlope=None, PerFrameFunctionalGroupsSequence=groups)
    assert read_scan("a.dcm", content).pixels[:, 0, 0].tolist() == [-10, -20]
    groups[1].PixelValueTransformationSequence[0].RescaleType = "MGML"
    mixed = dicom(frames, NumberOfFrames=2, RescaleSlope=None, PerFrameFunctionalGroupsSequence=groups)
    assert read_scan("a.dcm", mixed).units is ValueUnit.RAW
    del groups[1].PixelValueTransformationSequence
    mixed = dicom(frames, NumberOfFrames=2, RescaleSlope=None, PerFrameFunctionalGroupsSequence=groups)
    with pytest.raises(Fault, match="frame 2 and frame 1 do not both have a rescale slope"):
        read_scan("a.dcm", mixed)


def test_nifti_slices_run_along_the_last_axis_and_are_upright() -> None:
    volume = np.zeros((4, 6, 3), np.int16)
    volume[3, 5, 1] = 9  # the affine is RAS+: the last x is the patient's right, the last y the front
    plain = nifti(volume)
    scan = read_scan("a.nii", plain)
    assert scan.pixels.shape == (3, 6, 4) and scan.pixels[1, 0, 0] == 9 and scan.pixels.sum() == 9
    assert scan.spacing == (5.0, 3.0, 2.0) and scan.modality is None and scan.units == ValueUnit.RAW
    np.testing.assert_array_equal(read_scan("a.nii.gz", gzip.compress(plain)).pixels, scan.pixels)


def test_nan_in_nifti_is_replaced_and_only_nan_is_refused() -> None:
    volume = np.ones((4, 4, 1), np.float32)
    volume[0, 0] = np.nan
    assert read_scan("a.nii", nifti(volume)).pixels.min() == 1
    with pytest.raises(Fault, match="finite"):
        read_scan("a.nii", nifti(np.full((4, 4, 1), np.nan, np.float32)))


def test_time_series_and_truncated_volumes_are_refused() -> None:
    with pytest.raises(Fault, match="one grey volume"):
        read_scan("f.nii", nifti(np.zeros((4, 4, 2, 5), np.int16)))
    plain = nifti(np.ones((8, 8, 8), np.int16))
    for content in (plain[:-9], gzip.compress(plain[:-9])):
        with pytest.raises(Fault, match=r"f\.nii: ends after"):
            read_scan("f.nii", content)


def test_pictures_are_grey_of_0_to_255() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(read_scan("a.png", picture(grey)).pixels[0], grey)
    deep = read_scan("a.png", picture(grey.astype(np.uint16) * 257)).pixels[0]
    np.testing.assert_allclose(deep, grey, atol=0.01)
    assert read_scan("a.jpg", picture(grey, "JPEG")).units == ValueUnit.DISPLAY


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"GIF89a" + b"\0" * 200, b"\x1f\x8bnonsense", b"\x89PNG\r\n\x1a\nxx"]
)
def test_a_file_that_is_no_scan_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(Fault, match=r"^strange\.bin: "):
        read_scan("strange.bin", content)


def test_a_header_that_declares_gigabytes_is_refused() -> None:
    for content in (
        dicom(Rows=60000, Columns=60000),
        dicom(NumberOfFrames=2**30),
        _png_header(100_000, 100_000),
        _nifti_header(30000, 30000, 30000),
    ):
        with pytest.raises(Fault, match=r"huge: .*(512 MiB|decoded|exceeds|pixels)"):
            read_scan("huge", content)


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def _nifti_header(*shape: int) -> bytes:
    content = bytearray(nifti(np.zeros((2, 2, 2), np.int16)))
    content[42:48] = struct.pack("<3h", *shape)
    return gzip.compress(bytes(content))


def test_a_codestream_that_declares_gigabytes_is_refused() -> None:
    frame = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 60000, 60000) + b"\x01" * 12
    with pytest.raises(Fault, match="60000×60000"):
        size_limits.check_codestream_size("f", frame)
    size_limits.check_codestream_size("f", frame.replace(struct.pack(">HH", 60000, 60000), struct.pack(">HH", 60, 60)))


def test_a_gzip_bomb_is_inflated_only_as_far_as_its_header_needs() -> None:
    bomb = gzip.compress(nifti(np.ones((4, 4, 2), np.int16)) + bytes(50_000_000))
    assert read_scan("b.nii.gz", bomb).pixels.shape == (2, 4, 4)


def test_a_deflated_dicom_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "DECODED_BYTES", 10_000)
    content = dicom()
    end = 144 + int.from_bytes(content[140:144], "little")
    compressor = zlib.compressobj(wbits=-15)
    meta = content[:end].replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.1.99")
    meta = meta[:140] + (end - 144 + 2).to_bytes(4, "little") + meta[144:]
    position = meta.index(b"1.2.840.10008.1.2.1.99") - 2
    meta = meta[:position] + (22).to_bytes(2, "little") + meta[position + 2 :]
    with pytest.raises(Fault, match="inflates beyond"):
        read_scan("bomb.dcm", meta + compressor.compress(content[end:] + bytes(100_000)) + compressor.flush())


def test_a_series_is_ordered_by_geometry() -> None:
    def slice_file(z: float, value: int, **attributes: Any) -> bytes:
        plane = {"ImagePositionPatient": ["0", "0", str(z)], "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}
        return dicom(np.full((3, 4), value, "<u2"), RescaleIntercept="0", RescaleSlope="1", **(plane | attributes))

    scans = [read_scan(f"{z}.dcm", slice_file(z, value)) for z, value in ((10, 3), (0, 1), (5, 2))]
    scan = join_series(scans)
    assert scan.pixels[:, 0, 0].tolist() == [1, 2, 3] and scan.spacing == (5.0, 0.5, 0.7)
    assert scan.header["geometry"] == "even"
    with_gap = join_series([*scans, read_scan("20.dcm", slice_file(20, 4))])
    assert with_gap.header["geometry"] == "missing slices"
    with pytest.raises(Fault, match="shares its position"):
        join_series([*scans, read_scan("duplicate.dcm", slice_file(5, 9))])
    turned = read_scan("turned.dcm", slice_file(15, 9, ImageOrientationPatient=["0", "1", "0", "0", "0", "1"]))
    assert join_series([*scans, turned]).left_out == (("turned.dcm", "of another orientation than the other slices"),)
    with pytest.raises(Fault, match=r"turned\.dcm: differs .* orientation"):
        join_series([scans[0], turned])
    with pytest.raises(Fault, match="no image orientation"):
        join_series([read_scan("a.dcm", dicom()), read_scan("b.dcm", dicom(STORED + 1))])


def test_every_file_of_the_zoo_is_read_or_refused_by_name(real_data: Path) -> None:
    files = [path for path in sorted((real_data / "dicom-zoo").rglob("*")) if path.is_file() and path.suffix != ".csv"]
    counts = {"decodes": 0, "series": 0}
    for path in files:
        try:
            scan = read_scan(path.name, path.read_bytes())
        except Fault as fault:
            assert str(fault).startswith(f"{path.name}: ") and "\n" not in str(fault)
            assert path.parent.name in ("fails", "nonimage"), fault
            continue
        assert scan.pixels.ndim == 3 and np.isfinite(scan.pixels).all()
        group = path.relative_to(real_data / "dicom-zoo").parts[0]
        counts[group] = counts.get(group, 0) + 1
    assert counts["decodes"] > 100 and counts["series"] > 50


def test_real_chest_ct_is_plausible(real_data: Path) -> None:
    path = sorted((real_data / "chest-ct-tcga-luad-dicom").glob("*.dcm"))[0]
    scan = read_scan(path.name, path.read_bytes())
    assert scan.units == ValueUnit.HU and scan.header["body_part"] == "CHEST"
    lung, soft = (((scan.pixels > low) & (scan.pixels < high)).mean() for low, high in ((-970, -600), (-50, 120)))
    assert lung > 0.03 and soft > 0.1 and scan.pixels.max() > 300


def test_the_gantry_tilt_of_a_zoo_series_is_reported(real_data: Path) -> None:
    folder = real_data / "dicom-zoo/series/failing_gantrytilting_001"
    scan = join_series([read_scan(path.name, path.read_bytes()) for path in sorted(folder.iterdir())])
    assert "gantry tilt" in scan.header["geometry"]


@pytest.mark.parametrize("value", [3e38, -3e38, 1e13, np.inf])
def test_absurd_values_are_refused_and_infinite_values_replaced(value: float) -> None:
    """The squares of absurd values overflow, so the description of such a slice would not be finite."""
    import nibabel

    pixels = np.ones((4, 4, 1), np.float32)
    pixels[0, 0, 0] = value
    content = nibabel.Nifti1Image(pixels, np.eye(4)).to_bytes()
    if np.isinf(value):
        assert read_scan("x.nii", content).pixels.max() == 1
    else:
        with pytest.raises(Fault, match=r"x\.nii: holds pixel values beyond 1e\+12"):
            read_scan("x.nii", content)
