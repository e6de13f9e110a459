"""A picture is read, stored and outlined as every viewer shows it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data import outlines
from data.anonymise import anonymise
from data.read import read
from lineage.fault import Fault

GREY = np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8)
# How an upright picture is stored for each orientation (CIPA DC-008, table 6).
STORED = {
    1: lambda grey: grey, 2: lambda grey: grey[:, ::-1], 3: lambda grey: grey[::-1, ::-1], 4: lambda grey: grey[::-1],
    5: lambda grey: grey.T, 6: lambda grey: np.rot90(grey), 7: lambda grey: grey[::-1, ::-1].T,
    8: lambda grey: np.rot90(grey, -1),
}  # fmt: skip


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
    scan = read("a.png", content)
    np.testing.assert_allclose(scan.pixels[0], GREY, atol=0.01)
    np.testing.assert_array_equal(
        scan.pixels, read("b.png", picture(pixels, 1, mode="" if mode in ("L", "I;16") else mode)).pixels
    )
    ending, clean = anonymise("a.png", content, {"patient_id": "x"})
    with Image.open(io.BytesIO(clean)) as copy:
        assert ending == ".png" and copy.size == (56, 40) and not copy.getexif()
    assert b"Quill" in content and b"Quill" not in clean
    np.testing.assert_array_equal(read("c.png", clean).pixels, scan.pixels)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.usefixtures("home")
def test_a_turned_jpeg_is_stored_without_loss(orientation: int, mode: str) -> None:
    content = picture(STORED[orientation](GREY), orientation, "JPEG", mode=mode, quality=95)
    scan = read("a.jpg", content)
    assert scan.pixels.shape == (1, 40, 56) and np.abs(scan.pixels[0] - GREY).mean() < 10
    ending, clean = anonymise("a.jpg", content, {"patient_id": "x"})
    assert ending == (".jpg" if orientation == 1 else ".png") and b"Quill" not in clean
    np.testing.assert_array_equal(read("b", clean).pixels, scan.pixels)


@pytest.mark.usefixtures("home")
def test_the_same_picture_twice_has_one_answer(real_data: Path) -> None:
    folder = real_data / "intake-faults/exif-orientation"
    turned, upright = (
        read("a.jpg", (folder / f"contradiction-{name}.jpg").read_bytes()).pixels for name in ("exif", "upright")
    )
    assert np.abs(turned - upright).max() <= 8


def test_a_mask_that_is_a_turned_picture_is_turned_too() -> None:
    drawn = np.zeros((40, 56), np.uint8)
    drawn[3:9, 5:20] = 255
    scan = read("a.png", picture(STORED[6](GREY), 6))
    np.testing.assert_array_equal(outlines.drawn("m.png", picture(STORED[8](drawn), 8), scan).lesion[0], drawn > 0)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x01\x01"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG", exif=exif)
    np.testing.assert_array_equal(read("a.png", stream.getvalue()).pixels[0], GREY)


def test_an_animated_picture_is_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG", save_all=True, append_images=[Image.fromarray(GREY.T[:40, :40].copy())])
    with pytest.raises(Fault, match="animated"):
        read("a.png", stream.getvalue())
