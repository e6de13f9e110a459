from __future__ import annotations

import io
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from data.deidentify import other_formats
from data.deidentify.deidentify_file import deidentify_file
from data.scan.dicom import clean_pixel_data, codestream
from data.scan.read import read_scan
from lineage.errors import Fault
from tests.data.deidentify.test_deidentify_file import dicom, opened

GREY = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)


def picture(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, kind, **options)
    return stream.getvalue()


def test_xmp_icc_and_text_of_pictures_are_removed() -> None:
    xmp, profile = b"<x:xmpmeta>Quillfeather</x:xmpmeta>", b"Quillfeather icc profile".ljust(200)
    jpeg = picture("JPEG", icc_profile=profile, xmp=xmp, comment=b"Quillfeather")
    png = picture("PNG", icc_profile=profile)
    assert jpeg.count(b"Quillfeather") == 3 and b"iCCP" in png
    assert b"Quill" not in other_formats.clean_jpeg("a", jpeg) and b"iCCP" not in other_formats.clean_png("a", png)
    for clean in (other_formats.clean_jpeg("a", jpeg), other_formats.clean_png("a", png)):
        assert Image.open(io.BytesIO(clean)).size == (50, 40)


def test_the_comment_of_a_jpeg_2000_frame_is_removed_and_pixels_are_unchanged() -> None:
    stream = picture("JPEG2000", no_jp2=True)
    comment = b"\x00\x01Quillfeather"
    position = 4 + int.from_bytes(stream[4:6])
    planted = stream[:position] + b"\xff\x64" + (len(comment) + 2).to_bytes(2) + comment + stream[position:]
    clean = codestream.clean_frame(planted)
    assert b"Quill" in planted and b"Quill" not in clean
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(clean))), np.asarray(Image.open(io.BytesIO(planted)))
    )


@pytest.mark.usefixtures("home")
def test_comments_in_the_frames_of_a_dicom_file_are_removed() -> None:
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
    suffix, clean = deidentify_file("a.dcm", stream.getvalue(), {"patient_id": "x"})
    assert b"Quill" in stream.getvalue() and b"Quill" not in clean
    np.testing.assert_array_equal(read_scan("a", stream.getvalue()).pixels, read_scan(suffix, clean).pixels)


def test_bytes_below_80_after_ff_are_pixel_data_in_jpeg_ls() -> None:
    scan = b"\xff\xd8\xff\xf7\x00\x05abc\xff\xda\x00\x04ab" + b"\xff\x64 data \xff\x01\xff\x7f" + b"\xff\xd9"
    assert codestream.clean_frame(scan) == scan


@pytest.mark.usefixtures("home")
def test_bytes_after_the_last_pixel_and_spare_bits_are_removed() -> None:
    header = opened(dicom())
    header.PixelData += b"Quillfeather"
    assert b"Quill" not in clean_pixel_data.clean_pixel_data(header, "PixelData")
    plain = opened(dicom())
    stored = np.frombuffer(plain.PixelData, "<i2").reshape(plain.Rows, plain.Columns)
    plain.BitsStored, plain.HighBit = 12, 11
    with_overlay = (stored & 0x0FFF) | np.int16(0x1000)
    plain.PixelData, plain.PixelRepresentation = with_overlay.tobytes(), 0
    plain.add_new((0x6000, 0x0102), "US", 12)
    stream = io.BytesIO()
    plain.save_as(stream)
    clean = np.frombuffer(opened(deidentify_file("a.dcm", stream.getvalue(), {"patient_id": "x"})[1]).PixelData, "<u2")
    np.testing.assert_array_equal(clean, (stored & 0x0FFF).astype("<u2").ravel())


def test_unused_numbers_of_nifti_headers_are_zero() -> None:
    import nibabel

    for image_class, offsets in ((nibabel.Nifti1Image, (34, 142)), (nibabel.Nifti2Image, (528,))):
        plain = bytearray(image_class(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)).to_bytes())
        for offset in offsets:
            plain[offset : offset + 2] = b"MR"
        clean = other_formats.clean_nifti("a", bytes(plain))
        assert b"MR" not in clean[:540]
        np.testing.assert_array_equal(read_scan("a", clean).pixels, read_scan("a", bytes(plain)).pixels)


SECRET = b"Quillfeather"


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png_with(*, trailing: bytes = b"", before: bytes = b"", after: bytes = b"", end: bytes = b"") -> bytes:
    """A grey PNG with bytes after its compressed rows, chunks before and after them, and data in its end chunk."""
    plain = picture("PNG")
    start = plain.index(b"IDAT")
    data = plain[start + 4 : start + 4 + int.from_bytes(plain[start - 4 : start])]
    return plain[: start - 4] + before + chunk(b"IDAT", data + trailing) + after + chunk(b"IEND", end)


@pytest.mark.parametrize(
    "content",
    [
        png_with(trailing=SECRET),
        png_with(after=chunk(b"IDAT", SECRET)),
        png_with(before=chunk(b"PLTE", SECRET)),
        png_with(before=chunk(b"tRNS", SECRET)),
        png_with(end=SECRET),
    ],
)
def test_hidden_bytes_among_the_pixels_of_a_png_are_removed(content: bytes) -> None:
    clean = other_formats.clean_png("a", content)
    assert SECRET in content and SECRET not in clean
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(clean))), GREY)


def test_a_png_with_more_rows_than_it_declares_is_refused() -> None:
    plain = picture("PNG")
    start = plain.index(b"IHDR") + 4
    fewer_rows = plain[start : start + 4] + (20).to_bytes(4) + plain[start + 8 : start + 13]
    with pytest.raises(Fault, match="more pixels than it declares"):
        other_formats.clean_png("a", plain[: start - 8] + chunk(b"IHDR", fewer_rows) + plain[start + 17 :])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("side", [1, 5, 8, 33])
def test_pixels_of_every_kind_of_png_are_unchanged(mode: str, side: int) -> None:
    grey = np.random.default_rng(1).integers(0, 255, (side, 50), dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 3) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    clean = Image.open(io.BytesIO(other_formats.clean_png("a", stream.getvalue())))
    assert clean.mode == Image.open(io.BytesIO(stream.getvalue())).mode
    np.testing.assert_array_equal(np.asarray(clean), np.asarray(Image.open(io.BytesIO(stream.getvalue()))))


def test_rows_of_an_interlaced_png_are_counted() -> None:
    for width, height in ((1, 1), (3, 5), (8, 8), (17, 9)):
        sizes = [len(range(x, width, dx)) * bool(len(range(y, height, dy))) for x, y, dx, dy in other_formats.ADAM7]
        rows = [len(range(y, height, dy)) * bool(len(range(x, width, dx))) for x, y, dx, dy in other_formats.ADAM7]
        header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 1])
        assert other_formats._raw_size(header) == sum(rows) + sum(a * b for a, b in zip(sizes, rows, strict=True))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (1, 0)])
def test_unused_numbers_of_a_nifti_header_are_removed(version: int, codes: tuple[int, int]) -> None:
    image_class = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = image_class(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.set_sform(image.affine, codes[0])
    image.set_qform(image.affine, codes[1])
    content = bytearray(image.to_bytes())
    fields = np.frombuffer(memoryview(content)[: 348 if version == 1 else 540], image.header.structarr.dtype)
    secret = SECRET.ljust(64, b"!")
    unused = (
        [*other_formats.NIFTI_UNUSED]
        + other_formats.NIFTI_SFORM * (not codes[0])
        + other_formats.NIFTI_QFORM * (not codes[1])
    )
    for name in unused:
        fields[name] = np.frombuffer(secret[: fields[name].nbytes], fields[name].dtype).reshape(fields[name].shape)
    for name in ("dim", "pixdim"):
        fields[name][0, 4:] = np.frombuffer(secret[: fields[name][0, 4:].nbytes], fields[name].dtype)
    clean = other_formats.clean_nifti("a", bytes(content))
    assert content.count(b"Qu") > 5 and b"Qu" not in clean and b"!!" not in clean
    before, after = read_scan("a", bytes(content)), read_scan("a", clean)
    np.testing.assert_array_equal(before.pixels, after.pixels)
    assert before.spacing == after.spacing and before.header == after.header
