"""Bits outside of BitsStored reach neither the pixels nor the stored copy."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from data.core_types import Task
from data.deidentify.deidentify_file import deidentify_file
from data.phantom import study
from data.scan.read import read_scan
from lineage.errors import Fault
from tests.data.scan.test_read import dicom

Stored = NDArray[Any]
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
)


def text_mask(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask of a name that is written over the picture."""
    sheet = Image.new("L", shape[::-1])
    ImageDraw.Draw(sheet).text((10, 20), "QUILLFEATHER\nMRN77418529", fill=255)
    return np.asarray(sheet) > 127


@pytest.fixture(scope="module")
def anatomy(lung: Task) -> Stored:
    """A slice of a lung phantom, HU + 1024 in 12 bits."""
    pixels, _ = study.make_study(lung, study.usual_scanner(lung), 5, 0, "malignant").slice(0, 2)
    return np.clip(pixels.astype(np.int32) + 1024, 0, 4095)


def ct(stored: Stored, syntax: Any = ExplicitVRLittleEndian, declared: int | None = None, **attributes: Any) -> bytes:
    """A file with these samples (a 2-D array of an unsigned type, unchanged), by default 12 of 16 bits."""
    bits = 8 * stored.dtype.itemsize
    plain = {"BitsAllocated": bits, "BitsStored": 12, "HighBit": 11, "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    image = pydicom.dcmread(
        io.BytesIO(dicom(stored, stored.astype(stored.dtype.newbyteorder("<")).tobytes(), **(plain | attributes)))
    )
    if declared is not None:
        image.add_new((0x6000, 0x0010), "US", stored.shape[0])
        image.add_new((0x6000, 0x0100), "US", bits)
        image.add_new((0x6000, 0x0102), "US", declared)
    if syntax == RLELossless:
        image.compress(RLELossless, generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        from openjpeg.utils import encode_array

        stream = encode_array(stored, bits_stored=bits, photometric_interpretation=2, codec_format=0)
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless
        image.PixelData = encapsulate([stream])
        image["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian:
        image.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    image.file_meta.TransferSyntaxUID = syntax
    copy = pydicom.Dataset({element.tag: element for element in image})
    copy.file_meta = image.file_meta
    stream = io.BytesIO()
    copy.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def samples(content: bytes) -> Stored:
    """All bits of the samples of a file, as unsigned integers."""
    image = pydicom.dcmread(io.BytesIO(content))
    stored = pixel_array(image, correct_unused_bits=False)
    return stored.astype(stored.dtype.newbyteorder("=")).view(f"u{stored.dtype.itemsize}")


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("declared", [15, None])
@pytest.mark.usefixtures("home")
def test_an_overlay_in_spare_bits_is_removed_from_pixels_and_copy(
    anatomy: Stored, syntax: Any, declared: int | None
) -> None:
    stored = anatomy.astype(np.uint16) | text_mask(anatomy.shape).astype(np.uint16) << 15
    content = ct(stored, syntax, declared)
    scan = read_scan("a.dcm", content)
    np.testing.assert_array_equal(scan.pixels[0], anatomy - 1024.0)
    suffix, clean = deidentify_file("a.dcm", content, {"patient_id": "x"})
    np.testing.assert_array_equal(samples(clean), anatomy)
    np.testing.assert_array_equal(read_scan(suffix, clean).pixels, scan.pixels)
    assert not any(tag.group >> 8 == 0x60 for tag in pydicom.dcmread(io.BytesIO(clean)).keys())  # noqa: SIM118


@pytest.mark.parametrize("folder", ["", "batch"])
@pytest.mark.usefixtures("home")
def test_a_name_in_the_spare_bits_of_real_files_is_removed(real_data: Path, folder: str) -> None:
    for path in sorted((real_data / "intake-faults/overlay-in-spare-bits" / folder).glob("*.dcm")):
        content = path.read_bytes()
        assert read_scan(path.name, content).pixels.max() == 585, path.name
        _, clean = deidentify_file(path.name, content, {"patient_id": "x"})
        assert samples(clean).max() < 4096, path.name


@pytest.mark.parametrize(
    ("signed", "bits", "sample_type"), [(1, 12, "u2"), (1, 14, "u2"), (0, 10, "u2"), (1, 20, "u4")]
)
@pytest.mark.usefixtures("home")
def test_the_sign_is_that_of_the_highest_stored_bit(anatomy: Stored, signed: int, bits: int, sample_type: str) -> None:
    values = np.clip(anatomy, 0, 1000) - 500 * signed
    mask = (1 << bits) - 1
    extended = values.astype(sample_type.replace("u", "i")).view(sample_type)
    overlay = text_mask(anatomy.shape).astype(sample_type) << (8 * int(sample_type[1]) - 2)
    for stored in (extended, extended & mask, extended ^ overlay, extended & mask | overlay):
        content = ct(stored, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed)
        np.testing.assert_array_equal(read_scan("a.dcm", content).pixels[0], values - 1024.0)
        suffix, clean = deidentify_file("a.dcm", content, {"patient_id": "x"})
        np.testing.assert_array_equal(read_scan(suffix, clean).pixels[0], values - 1024.0)
        assert set(np.unique(samples(clean) >> bits)) <= {0, ((1 << 8 * int(sample_type[1])) - 1) >> bits}


@pytest.mark.usefixtures("home")
def test_values_may_use_the_high_bits_with_an_overlay_below(anatomy: Stored) -> None:
    stored = anatomy.astype(np.uint16) << 4 | text_mask(anatomy.shape).astype(np.uint16)
    content = ct(stored, HighBit=15)
    np.testing.assert_array_equal(read_scan("a.dcm", content).pixels[0], anatomy - 1024.0)
    np.testing.assert_array_equal(samples(deidentify_file("a.dcm", content, {"patient_id": "x"})[1]), anatomy << 4)


@pytest.mark.usefixtures("home")
def test_an_overlay_in_one_frame_of_eight_bits_is_removed(anatomy: Stored) -> None:
    small = (anatomy // 64).astype(np.uint8)  # 6 bits
    frames = np.stack([small, small | text_mask(anatomy.shape).astype(np.uint8) << 7])
    content = ct(frames, NumberOfFrames=2, BitsStored=6, HighBit=5)
    scan = read_scan("a.dcm", content)
    np.testing.assert_array_equal(scan.pixels, np.stack([small, small]) - 1024.0)
    assert samples(deidentify_file("a.dcm", content, {"patient_id": "x"})[1]).max() < 64


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.usefixtures("home")
def test_pixel_data_of_clean_files_are_unchanged_byte_by_byte(anatomy: Stored, syntax: Any) -> None:
    content = ct(anatomy.astype(np.uint16), syntax)
    _, clean = deidentify_file("a.dcm", content, {"patient_id": "x"})
    before, after = (pydicom.dcmread(io.BytesIO(file)) for file in (content, clean))
    assert before.file_meta.TransferSyntaxUID == after.file_meta.TransferSyntaxUID
    assert before.PixelData == after.PixelData or syntax == JPEG2000Lossless  # its comment is removed


def test_values_that_need_more_bits_than_bits_stored_are_refused(anatomy: Stored) -> None:
    metal = np.kron(anatomy[30:94, 30:94], np.ones((2, 2), np.int32)) + np.arange(128) * 40  # up to more than 6,000
    unsigned = (anatomy - 1024).astype(np.int16).view(np.uint16)  # signed values in a file that declares unsigned ones
    low_bits = anatomy.astype(np.uint16)  # values in the low 12 bits of a file that declares the high 12 bits
    bone = (anatomy - 1024).astype(np.int16).copy()
    rows, columns = np.ogrid[:128, :128]
    bone += np.maximum(0, 3500 - 200 * np.hypot(rows - 64, columns - 64)).astype(np.int16)
    for stored, attributes in (
        (metal.astype(np.uint16), {}),
        (unsigned, {}),
        (low_bits, {"HighBit": 15}),
        (bone.view(np.uint16), {"PixelRepresentation": 1}),
        (metal.astype(np.uint16), {"HighBit": 9}),
    ):
        with pytest.raises(Fault, match=r"a\.dcm: BitsStored and HighBit give a pixel"):
            read_scan("a.dcm", ct(stored, **attributes))


def test_noise_in_all_bits_and_overlays_within_the_value_are_refused(anatomy: Stored) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, anatomy.shape).astype(np.uint16)
    with pytest.raises(Fault, match="BitsStored"):
        read_scan("a.dcm", ct(noise))
    with pytest.raises(Fault, match="overlay in a bit that BitsStored gives"):
        read_scan("a.dcm", ct(anatomy.astype(np.uint16), declared=11))
    with pytest.raises(Fault, match="contradict each other"):
        read_scan("a.dcm", ct(anatomy.astype(np.uint16), BitsStored=17, HighBit=16))


@pytest.mark.usefixtures("home")
def test_overlay_data_elements_are_removed_at_any_depth(anatomy: Stored) -> None:
    image = pydicom.dcmread(io.BytesIO(ct(anatomy.astype(np.uint16))))
    item = pydicom.Dataset()
    for target in (image, item):
        target.add_new((0x6002, 0x0100), "US", 1)
        target.add_new((0x6002, 0x0102), "US", 0)
        target.add_new((0x6002, 0x3000), "OW", b"Quillfeather")
    item.CodeValue, item.CodingSchemeDesignator = "T-D3000", "SRT"
    image.AnatomicRegionSequence = [item]
    stream = io.BytesIO()
    image.save_as(stream)
    _, clean = deidentify_file("a.dcm", stream.getvalue(), {"patient_id": "x"})
    assert stream.getvalue().count(b"Quillfeather") == 2 and b"Quill" not in clean and b"T-D3000" in clean
    np.testing.assert_array_equal(read_scan("a.dcm", clean).pixels[0], anatomy - 1024.0)


@pytest.fixture(scope="module")
def head(brain: Task) -> Stored:
    """A slice of a brain phantom, from 0 to 1."""
    pixels, _ = study.make_study(brain, study.usual_scanner(brain), 5, 0, "tumour").slice(0, 2)
    return np.asarray(pixels / pixels.max())


@pytest.mark.parametrize("bits", [12, 16])
def test_pixels_with_the_wrong_pixel_representation_are_refused(head: Stored, bits: int) -> None:
    """Values that wrap at an end of their range: bright tissue would become black, or noise around zero white."""
    layout = {"BitsStored": bits, "HighBit": bits - 1, "Modality": "MR"}
    bright = (head * ((1 << bits) - 1)).astype("<u2")
    noise = (900 * head - 60).astype("<i2").view("<u2") & np.uint16((1 << bits) - 1)
    np.testing.assert_array_equal(
        read_scan("a", ct(bright, PixelRepresentation=0, **layout)).pixels[0], bright - 1024.0
    )
    for stored, representation, sentence in ((bright, 1, "are unsigned"), (noise, 0, "are signed")):
        with pytest.raises(Fault, match=f"{sentence}, and its header says the opposite|so their values are uncertain"):
            read_scan("a", ct(stored, PixelRepresentation=representation, **layout))


@pytest.mark.parametrize("edge", [0, 65535])
def test_text_and_saturation_at_an_end_of_the_range_are_accepted(head: Stored, edge: int) -> None:
    for peak in (15000, 50000):
        stored = (head * peak).astype("<u2")
        stored[text_mask(stored.shape)] = edge
        scan = read_scan("a", ct(stored, PixelRepresentation=0, BitsStored=16, HighBit=15, Modality="MR"))
        assert scan.pixels.max() == stored.max() - 1024.0
