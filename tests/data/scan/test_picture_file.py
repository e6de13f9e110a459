"""Pictures are read, stored and outlined upright, as viewers show them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.batch import lesion_grid
from data.core_types import Modality
from data.deidentify.deidentify_file import deidentify_file
from data.scan.dicom import image_type
from data.scan.hounsfield import convert_to_task_units
from data.scan.read import read_scan
from lineage.errors import Fault

GREY = np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8)
# The stored form of an upright picture for each orientation (CIPA DC-008, table 6).
STORED = {
    1: lambda grey: grey,
    2: lambda grey: grey[:, ::-1],
    3: lambda grey: grey[::-1, ::-1],
    4: lambda grey: grey[::-1],
    5: lambda grey: grey.T,
    6: lambda grey: np.rot90(grey),
    7: lambda grey: grey[::-1, ::-1].T,
    8: lambda grey: np.rot90(grey, -1),
}


def picture(pixels: NDArray[np.generic], orientation: int, kind: str = "PNG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = orientation, "Quillfeather"
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if mode := options.pop("mode", ""):
        image = image.convert(str(mode))
    image.save(stream, kind, exif=exif, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "I;16"])
@pytest.mark.usefixtures("home")
def test_every_orientation_gives_the_same_pixels_and_an_upright_copy(orientation: int, mode: str) -> None:
    pixels = GREY.astype(np.uint16) * 257 if mode == "I;16" else GREY
    content = picture(STORED[orientation](pixels), orientation, mode="" if mode in ("L", "I;16") else mode)
    scan = read_scan("a.png", content)
    np.testing.assert_allclose(scan.pixels[0], GREY, atol=0.01)
    np.testing.assert_array_equal(
        scan.pixels, read_scan("b.png", picture(pixels, 1, mode="" if mode in ("L", "I;16") else mode)).pixels
    )
    suffix, clean = deidentify_file("a.png", content, {"patient_id": "x"})
    with Image.open(io.BytesIO(clean)) as copy:
        assert suffix == ".png" and copy.size == (56, 40) and not copy.getexif()
    assert b"Quill" in content and b"Quill" not in clean
    np.testing.assert_array_equal(read_scan("c.png", clean).pixels, scan.pixels)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.usefixtures("home")
def test_a_turned_jpeg_is_stored_without_loss(orientation: int, mode: str) -> None:
    content = picture(STORED[orientation](GREY), orientation, "JPEG", mode=mode, quality=95)
    scan = read_scan("a.jpg", content)
    assert scan.pixels.shape == (1, 40, 56) and np.abs(scan.pixels[0] - GREY).mean() < 10
    suffix, clean = deidentify_file("a.jpg", content, {"patient_id": "x"})
    assert suffix == (".jpg" if orientation == 1 else ".png") and b"Quill" not in clean
    np.testing.assert_array_equal(read_scan("b", clean).pixels, scan.pixels)


@pytest.mark.usefixtures("home")
def test_a_turned_and_an_upright_copy_of_a_picture_have_the_same_pixels(real_data: Path) -> None:
    folder = real_data / "intake-faults/exif-orientation"
    turned, upright = (
        read_scan("a.jpg", (folder / f"contradiction-{name}.jpg").read_bytes()).pixels for name in ("exif", "upright")
    )
    assert np.abs(turned - upright).max() <= 8


def test_a_turned_mask_picture_is_turned_upright_too() -> None:
    mask = np.zeros((40, 56), np.uint8)
    mask[3:9, 5:20] = 255
    scan = read_scan("a.png", picture(STORED[6](GREY), 6))
    np.testing.assert_array_equal(
        lesion_grid.read_lesion_mask("m.png", picture(STORED[8](mask), 8), scan).lesion[0], mask > 0
    )


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x01\x01"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG", exif=exif)
    np.testing.assert_array_equal(read_scan("a.png", stream.getvalue()).pixels[0], GREY)


def test_an_animated_picture_is_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG", save_all=True, append_images=[Image.fromarray(GREY.T[:40, :40].copy())])
    with pytest.raises(Fault, match="animated"):
        read_scan("a.png", stream.getvalue())


def saved(pixels: NDArray[np.generic], kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.usefixtures("home")
def test_transparent_parts_are_black_and_hidden_pixels_are_not_stored() -> None:
    alpha = np.zeros_like(GREY)
    alpha[8:32, 8:48] = 255
    for layers in ([GREY] * 3, [GREY]):
        content = saved(np.dstack([*layers, alpha]))
        scan = read_scan("a.png", content)
        np.testing.assert_allclose(scan.pixels[0], np.where(alpha, GREY, 0), atol=0.5)
        suffix, clean = deidentify_file("a.png", content, {"patient_id": "x"})
        with Image.open(io.BytesIO(clean)) as copy:
            assert suffix == ".png" and not copy.has_transparency_data
            assert not np.asarray(copy.convert("L"))[alpha == 0].any()
        np.testing.assert_array_equal(read_scan("b.png", clean).pixels, scan.pixels)
    opaque = saved(np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)]))
    assert deidentify_file("a.png", opaque, {"patient_id": "x"})[1] == opaque


@pytest.mark.parametrize("bits", [12, 13, 14])
def test_a_16_bit_picture_with_scanner_values_is_refused(bits: int) -> None:
    """OpenCV writes such files; DeepLesion adds 32,768 to its Hounsfield units."""
    numbers = GREY.astype(np.uint16) << (bits - 8)
    for pixels in (numbers, numbers + 32768):
        with pytest.raises(Fault, match=r"of 16 bits that uses .* of its greys"):
            convert_to_task_units(read_scan("a.png", saved(pixels)), Modality.MR)
    convert_to_task_units(read_scan("a.png", saved(GREY.astype(np.uint16) * 250)), Modality.MR)
    blank = read_scan("a.png", saved(np.full((9, 9), 7, np.uint16)))
    assert blank.header["image_type"] == ""


@pytest.mark.parametrize(("lesion", "kind"), [(1, "PNG"), (255, "PNG"), (255, "JPEG")])
def test_a_mask_among_the_scans_is_detected_by_its_values(lesion: int, kind: str) -> None:
    disc = np.add.outer(np.arange(-64, 64) ** 2, np.arange(-64, 64) ** 2) < 20**2
    assert read_scan("a", saved((disc * lesion).astype(np.uint8), kind)).header["image_type"] == image_type.MAP
    labels = np.where(disc, 2, 0) + np.where(np.arange(128) < 60, 1, 0)
    assert read_scan("a.png", saved((labels * 60).astype(np.uint8))).header["image_type"] == image_type.MAP
    grey = np.asarray(Image.fromarray(GREY).resize((128, 128)))
    assert read_scan("a", saved(np.where(disc, grey, 0).astype(np.uint8), kind)).header["image_type"] == ""


def test_a_16_bit_mask_has_its_own_label_values() -> None:
    scan = read_scan("scan.png", saved(GREY))
    lesion = np.zeros(GREY.shape, np.uint16)
    lesion[5:12, 5:12] = 2
    outline = lesion_grid.read_lesion_mask("mask", saved(lesion), scan, (2.0,))
    assert outline.lesion.sum() == 49
    organ = lesion.copy()
    organ[20:30, 20:30] = 1
    with pytest.raises(Fault, match="holds the values 1, 2 besides 0"):
        lesion_grid.read_lesion_mask("mask", saved(organ), scan)
    white = lesion_grid.read_lesion_mask("mask", saved(lesion // 2 * np.uint16(65535)), scan)
    assert white.values == {1.0} and white.lesion.sum() == 49


def test_a_file_that_is_no_picture_is_refused_with_a_plain_message() -> None:
    with pytest.raises(Fault, match=r"^a\.jpg: cannot be decoded as PNG or JPEG; copy it again$"):
        read_scan("a.jpg", b"\xff\xd8\xff\xe0")
