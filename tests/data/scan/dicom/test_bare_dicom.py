"""DICOM data sets without preamble or file meta information are read by the encoding of their elements."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from data.deidentify.deidentify_file import deidentify_file
from data.scan import size_limits
from data.scan.read import read_scan
from lineage.errors import Fault
from tests.data.scan.dicom.test_stored_bits import ct
from tests.data.scan.test_read import STORED, dicom

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
EIGHT = np.tile(STORED, (16, 16)).astype(np.uint16)


def without_meta(content: bytes) -> bytes:
    """The file without preamble, prefix and file meta information."""
    return content[144 + int.from_bytes(content[140:144], "little") :]


def without_preamble(content: bytes) -> bytes:
    """The file with file meta information, without preamble and prefix."""
    return content[132:]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("before", [b"", b"\0" * 128, b"\0" * 128 + b"DICM", b"RAW!" * 32 + b"DICM"])
@pytest.mark.usefixtures("home")
def test_every_native_encoding_of_a_bare_data_set_is_recognised(syntax: Any, before: bytes) -> None:
    content = ct(EIGHT, syntax)
    scan, expected = read_scan("a.dcm", before + without_meta(content)), read_scan("b.dcm", content)
    np.testing.assert_array_equal(scan.pixels, expected.pixels)
    assert scan.header == expected.header and scan.patient_id == expected.patient_id and scan.units == expected.units
    _, clean = deidentify_file("a.dcm", before + without_meta(content), {"patient_id": "x"})
    image = pydicom.dcmread(io.BytesIO(clean))  # a valid file, read without force
    assert image.file_meta.TransferSyntaxUID == syntax and image.file_meta.MediaStorageSOPClassUID == image.SOPClassUID
    np.testing.assert_array_equal(read_scan("a.dcm", clean).pixels, expected.pixels)


@pytest.mark.parametrize("syntax", [*NATIVE, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("before", [b"", b"\0" * 128])
def test_meta_information_without_a_preamble_is_used(syntax: Any, before: bytes) -> None:
    content = ct(EIGHT, syntax)
    np.testing.assert_array_equal(
        read_scan("a.dcm", before + without_preamble(content)).pixels, read_scan("b.dcm", content).pixels
    )


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_pixels_without_a_transfer_syntax_are_refused(syntax: Any) -> None:
    with pytest.raises(Fault, match=r"a\.dcm: holds compressed pixels but no transfer syntax"):
        read_scan("a.dcm", without_meta(ct(EIGHT, syntax)))


def test_deflated_files_that_inflate_beyond_the_limits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = ct(np.zeros((200, 200), np.uint16), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(size_limits, "DECODED_BYTES", 10_000)
    without_length = content[:132] + content[144:]
    for hostile, reason in (
        (without_preamble(content), "inflates beyond"),
        (content, "inflates beyond"),
        (without_length, "its length"),
    ):
        with pytest.raises(Fault, match=reason):
            read_scan("a.dcm", hostile)


def test_a_file_that_only_begins_like_a_data_set_is_refused_with_one_sentence() -> None:
    for content in (b"\x08\0" + b"\0" * 500, b"\0\x08" + b"x" * 500, b"\x02\0\0\0UL" + b"\xff" * 300, b"\0" * 700):
        with pytest.raises(Fault, match=r"^a\.dcm: ") as caught:
            read_scan("a.dcm", content)
        assert "\n" not in str(caught.value)
    image = pydicom.dcmread(io.BytesIO(dicom()))
    del image.SOPClassUID
    stream = io.BytesIO()
    image.save_as(stream)
    with pytest.raises(Fault, match="names no SOP class"):
        read_scan("a.dcm", without_meta(stream.getvalue()))


@pytest.mark.usefixtures("home")
def test_real_bare_files_are_read_and_de_identified(real_data: Path) -> None:
    for name in ("bare0", "bare1"):
        content = (real_data / f"intake-faults/no-file-meta/{name}.dcm").read_bytes()
        scan = read_scan(name, content)
        assert scan.pixels.min() == -1024 and scan.header["body_part"] == "CHEST"
        _, clean = deidentify_file(name, content, {"patient_id": "x"})
        np.testing.assert_array_equal(pydicom.dcmread(io.BytesIO(clean)).pixel_array - 1024, scan.pixels[0])
