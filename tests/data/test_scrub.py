from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from data import codestream, pixel_data, scrub
from data.anonymise import anonymise
from data.read import read
from tests.data.test_anonymise import dicom, opened

GREY = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)


def picture(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, kind, **options)
    return stream.getvalue()


def test_xmp_icc_and_text_of_pictures_are_gone() -> None:
    xmp, profile = b"<x:xmpmeta>Quillfeather</x:xmpmeta>", b"Quillfeather icc profile".ljust(200)
    jpeg = picture("JPEG", icc_profile=profile, xmp=xmp, comment=b"Quillfeather")
    png = picture("PNG", icc_profile=profile)
    assert jpeg.count(b"Quillfeather") == 3 and b"iCCP" in png
    assert b"Quill" not in scrub.jpeg("a", jpeg) and b"iCCP" not in scrub.png("a", png)
    for clean in (scrub.jpeg("a", jpeg), scrub.png("a", png)):
        assert Image.open(io.BytesIO(clean)).size == (50, 40)


def test_a_frame_of_jpeg_2000_loses_its_comment_and_no_pixel() -> None:
    stream = picture("JPEG2000", no_jp2=True)
    comment = b"\x00\x01Quillfeather"
    at = 4 + int.from_bytes(stream[4:6])
    told = stream[:at] + b"\xff\x64" + (len(comment) + 2).to_bytes(2) + comment + stream[at:]
    clean = codestream.frame(told)
    assert b"Quill" in told and b"Quill" not in clean
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(clean))), np.asarray(Image.open(io.BytesIO(told))))


@pytest.mark.usefixtures("home")
def test_comments_in_the_frames_of_a_dicom_file_are_gone() -> None:
    header = opened(dicom())
    frame = picture("JPEG", comment=b"Quillfeather", quality=95)
    header.Rows, header.Columns, header.PixelRepresentation = 40, 50, 0
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    header.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    header.PixelData = encapsulate([frame])
    header["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    header.save_as(stream)
    ending, clean = anonymise("a.dcm", stream.getvalue(), {"patient_id": "x"})
    assert b"Quill" in stream.getvalue() and b"Quill" not in clean
    np.testing.assert_array_equal(read("a", stream.getvalue()).pixels, read(ending, clean).pixels)


def test_bytes_under_eighty_after_ff_are_picture_in_jpeg_ls() -> None:
    scan = b"\xff\xd8\xff\xf7\x00\x05abc\xff\xda\x00\x04ab" + b"\xff\x64 data \xff\x01\xff\x7f" + b"\xff\xd9"
    assert codestream.frame(scan) == scan


@pytest.mark.usefixtures("home")
def test_what_lies_behind_the_last_pixel_or_in_spare_bits_is_gone() -> None:
    header = opened(dicom())
    header.PixelData += b"Quillfeather"
    assert b"Quill" not in pixel_data.clean(header, "PixelData")
    plain = opened(dicom())
    stored = np.frombuffer(plain.PixelData, "<i2").reshape(plain.Rows, plain.Columns)
    plain.BitsStored, plain.HighBit = 12, 11
    hidden = (stored & 0x0FFF) | np.int16(0x1000)
    plain.PixelData, plain.PixelRepresentation = hidden.tobytes(), 0
    plain.add_new((0x6000, 0x0102), "US", 12)
    stream = io.BytesIO()
    plain.save_as(stream)
    clean = np.frombuffer(opened(anonymise("a.dcm", stream.getvalue(), {"patient_id": "x"})[1]).PixelData, "<u2")
    np.testing.assert_array_equal(clean, (stored & 0x0FFF).astype("<u2").ravel())


def test_unused_numbers_of_nifti_headers_are_zero() -> None:
    import nibabel

    for kind, spots in ((nibabel.Nifti1Image, (34, 142)), (nibabel.Nifti2Image, (528,))):
        plain = bytearray(kind(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)).to_bytes())
        for spot in spots:
            plain[spot : spot + 2] = b"MR"
        clean = scrub.nifti("a", bytes(plain))
        assert b"MR" not in clean[:540]
        np.testing.assert_array_equal(read("a", clean).pixels, read("a", bytes(plain)).pixels)
