from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data.core_types import Scan, Task, ValueUnit
from data.deidentify import burned_in_text
from data.phantom import scanner as phantom_scanner
from data.phantom import study
from data.scan.read import read_scan

Picture = NDArray[np.float32]
TEXTS = ("DOE JANE", "MRN 4711-0815", "1963-07-17 F")


def draw_text(picture: Picture, size: int, corner: str, text: str, share: float = 1.0) -> Picture:
    """A picture with a text in a corner such as `top left`, at brightness `share` of its range."""
    sheet = Image.new("L", picture.shape[::-1])
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    y = 3 if "top" in corner else picture.shape[0] - (bottom - top) - 4
    x = 3 if "left" in corner else picture.shape[1] - (right - left) - 4
    draw.text((x - left, y - top), text, font=font, fill=255)
    ink = np.asarray(sheet, np.float32) / 255
    bright = picture.min() + share * (picture.max() - picture.min())
    return np.asarray(picture * (1 - ink) + bright * ink, np.float32)


@pytest.fixture(scope="module")
def clean(lung: Task, brain: Task) -> list[Picture]:
    """Phantoms of every usual scanner, 128 × 128."""
    return [
        study.make_study(task, scanner, 3, number, task.classes[number % 2]).slice(0, 1)[0].astype(np.float32)
        for task in (lung, brain)
        for scanner in phantom_scanner.SCANNERS.values()
        if scanner.modality == task.modality
        for number in range(3)
    ]


def test_no_text_is_detected_in_clean_phantoms(clean: list[Picture]) -> None:
    assert [number for number, picture in enumerate(clean) if burned_in_text.find_lines(picture)] == []


@pytest.mark.parametrize(("size", "recall"), [(8, 0.9), (9, 0.85), (10, 0.9), (12, 0.8)])
def test_text_in_a_corner_of_a_phantom_is_detected(clean: list[Picture], size: int, recall: float) -> None:
    is_detected = [
        bool(burned_in_text.find_lines(draw_text(picture, size, f"{edge} {side}", TEXTS[number % 3], share)))
        for number, picture in enumerate(clean)
        for edge in ("top", "bottom")
        for side in ("left", "right")
        for share in (1.0, 0.8)
    ]
    assert np.mean(is_detected) >= recall


def test_the_box_encloses_the_text() -> None:
    lines = burned_in_text.find_lines(
        draw_text(np.zeros((256, 256), np.float32) + np.eye(256, dtype=np.float32), 16, "top left", "DOEJANE")
    )
    assert len(lines) == 1 and lines[0].letters >= 4
    assert lines[0].top < 8 and lines[0].bottom < 22 and lines[0].left < 20 and lines[0].right < 90


def test_a_marker_a_scale_bar_and_a_flat_picture_are_no_text() -> None:
    picture = np.random.default_rng(0).normal(0, 1, (256, 256)).astype(np.float32)
    picture[60:200, 60:200] += 100
    assert burned_in_text.find_lines(draw_text(picture, 16, "top left", "R")) == []
    picture[40:216:16, 5:12] = 150
    assert burned_in_text.find_lines(picture) == []
    assert (
        burned_in_text.find_lines(np.zeros((256, 256), np.float32))
        == []
        == burned_in_text.find_lines(np.ones((3, 3), np.float32))
    )


def test_one_slice_with_text_marks_the_scan(clean: list[Picture]) -> None:
    plain, marked = clean[0], draw_text(clean[0], 10, "top left", TEXTS[0])
    assert burned_in_text.burned_in_fact(Scan("x", np.stack([plain, plain]), ValueUnit.RAW, None, None)) == {}
    assert burned_in_text.burned_in_fact(Scan("x", np.stack([plain, marked]), ValueUnit.RAW, None, None)) == {
        "burned_in": "detected"
    }


def test_text_is_detected_in_real_files_with_text_and_in_no_others(real_data: Path) -> None:
    """Chest CT and brain MR have no text; an ultrasound file of the zoo has text."""
    chest = sorted((real_data / "chest-ct-tcga-luad-dicom").rglob("*.dcm"))
    brain = sorted(path for path in (real_data / "brain-mr-tumor-progression").rglob("*T1*.nii.gz"))[:3]
    slices = sorted((real_data / "lung-ct-iq-oth-nccd").rglob("*.jpg"))[::10]
    for path in (*chest, *brain, *slices):
        assert not burned_in_text.burned_in_fact(read_scan(path.name, path.read_bytes())), path.name
    ultrasound = [path for path in (real_data / "dicom-zoo/decodes").iterdir() if "US1_J2KI" in path.name]
    assert burned_in_text.burned_in_fact(read_scan("x", ultrasound[0].read_bytes())) == {"burned_in": "detected"}


def test_touching_letters_count_as_two() -> None:
    """Small letters merge: DOE is two marks, DOE JANE five. Five blocks of different heights are no line."""
    picture = np.random.default_rng(0).normal(0, 1, (128, 128)).astype(np.float32)
    picture[40:90, 40:90] += 100
    assert burned_in_text.find_lines(draw_text(picture, 9, "top left", "DOE JANE"))
    for number in range(5):
        picture[4 : 10 + 3 * number, 4 + 20 * number : 4 + 20 * number + 12] = 110
    assert burned_in_text.find_lines(picture) == []


def test_the_grey_opening_equals_that_of_scipy() -> None:
    """Grey opening by a square, at the border too (Serra 1982)."""
    band = np.random.default_rng(0).normal(size=(23, 41)).astype(np.float32)
    assert (
        burned_in_text._grey_opening(band)
        == ndimage.grey_opening(band, size=(burned_in_text.STROKE, burned_in_text.STROKE))
    ).all()


def test_a_slice_is_searched_within_five_milliseconds() -> None:
    """A picture of 512 × 512 pixels without steep rows takes about 1 ms; slow machines get 5 ms."""
    rows, columns = np.mgrid[-1:1:512j, -1:1:512j]
    picture = np.exp(-3 * (rows**2 + columns**2)).astype(np.float32)
    burned_in_text.find_lines(picture)
    seconds = []
    for _ in range(20):
        start = time.process_time()
        assert burned_in_text.find_lines(picture) == []
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 0.005
