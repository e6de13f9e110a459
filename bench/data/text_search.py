"""Search for burned-in text: data/deidentify/burned_in_text.py compared with RapidOCR on the same pictures.

    python -m venv OCR && OCR/bin/pip install rapidocr==3.10.0 onnxruntime
    python bench/data/text_search.py --ocr-python OCR/bin/python

The clean pictures are phantoms and the chest CT slices in ONCOLOOP_REAL_DATA. A line of text of 8 to 32 pixels is drawn
into copies of them, in a corner of the border or in the middle of the picture, with a fixed seed. A text counts as
detected if a line of at least `MIN_LETTERS` letters overlaps it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.deidentify import burned_in_text
from data.deidentify.burned_in_text import MIN_LETTERS
from data.phantom import scanner as phantom_scanner
from data.phantom import study
from data.scan.read import read_scan
from pipelines import params

TEXTS = ("DOE JANE", "MRN 4711-0815", "1963-07-17 F")
SIZES = {"phantom": (8, 10, 12), "chest CT": (8, 10, 12, 16, 24, 32)}
BRIGHTNESS = (1.0, 0.8)  # of the text, as a share of the picture's range
MARGIN = 4  # pixels between a text and the edge of the picture
Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # top, bottom, left, right


@dataclass(frozen=True)
class Case:
    """One picture; `size` and `box` of its text, or 0 and None for a clean picture."""

    source: str
    picture: Picture
    size: int = 0
    place: str = "clean"
    box: Box | None = None


def clean_pictures(real_data: Path) -> dict[str, list[Picture]]:
    """Phantoms of every usual scanner, and slices of the real chest CT, as 8-bit pictures."""
    settings = params.load(Path(__file__).resolve().parents[2])
    tasks = [settings.task(name) for name in ("lung-ct", "brain-mr")]
    phantoms = [
        study.make_study(task, scanner, 3, number, task.classes[number % 2]).slice(0, 1)[0].astype(np.float32)
        for task in tasks
        for scanner in phantom_scanner.SCANNERS.values()
        if scanner.modality == task.modality
        for number in range(3)
    ]
    paths = sorted((real_data / "chest-ct-tcga-luad-dicom").rglob("*.dcm"))
    slices = [read_scan(path.name, path.read_bytes()).pixels[0] for path in paths]
    return {"phantom": [to_bytes(picture) for picture in phantoms], "chest CT": [to_bytes(each) for each in slices]}


def to_bytes(picture: NDArray[np.float32]) -> Picture:
    """A picture between its 0.5th and 99.5th percentile as 8 bits."""
    low, high = np.percentile(picture, (0.5, 99.5))
    return np.asarray(np.clip((picture - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def draw_text(picture: Picture, size: int, place: str, random: np.random.Generator) -> tuple[Picture, Box]:
    """A copy with one line of text in a corner (`border`) or in the middle third (`body`), and the box of the text."""
    sheet = Image.new("L", picture.shape[::-1])
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    text = TEXTS[random.integers(len(TEXTS))]
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    height, width = bottom - top, right - left
    rows, columns = picture.shape[0] - height, picture.shape[1] - width
    if place == "border":
        y = (MARGIN, rows - MARGIN)[random.integers(2)]
        x = (MARGIN, columns - MARGIN)[random.integers(2)]
    else:
        y, x = rows * random.uniform(0.4, 0.6), columns * random.uniform(0.4, 0.6)
    draw.text((int(x) - left, int(y) - top), text, font=font, fill=255)
    ink = np.asarray(sheet, np.float32) / 255
    bright = 255 * BRIGHTNESS[random.integers(len(BRIGHTNESS))]
    marked = (picture * (1 - ink) + bright * ink).astype(np.uint8)
    return marked, (int(y), int(y) + height, int(x), int(x) + width)


def make_cases(real_data: Path, count: int) -> list[Case]:
    """Every clean picture, and `count` pictures of each source for each size and place."""
    random, cases = np.random.default_rng(11), list[Case]()
    for source, pictures in clean_pictures(real_data).items():
        cases += [Case(source, picture) for picture in pictures]
        for size in SIZES[source]:
            for place in ("border", "body"):
                for number in random.choice(len(pictures), count, replace=False):
                    marked, box = draw_text(pictures[number], size, place, random)
                    cases.append(Case(source, marked, size, place, box))
    return cases


def search_with_ours(cases: list[Case]) -> list[dict[str, Any]]:
    """The lines of `find_lines` for each picture, and the milliseconds."""
    results = []
    for case in cases:
        start = time.perf_counter()
        lines = burned_in_text.find_lines(case.picture.astype(np.float32))
        milliseconds = 1e3 * (time.perf_counter() - start)
        boxes = [(line.top, line.bottom, line.left, line.right) for line in lines]
        results.append({"boxes": boxes, "ms": milliseconds})
    return results


def search_with_ocr(cases: list[Case], python: str) -> list[dict[str, Any]]:
    """The same of RapidOCR; lines with fewer than `MIN_LETTERS` letters or digits do not count."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, answers = Path(folder) / "pictures.npz", Path(folder) / "lines.json"
        np.savez(pictures, **{f"{number:05}": case.picture for number, case in enumerate(cases)})  # type: ignore[arg-type]
        program = Path(__file__).with_name("rapidocr_lines.py")
        subprocess.run([python, str(program), str(pictures), str(answers)], check=True)
        results = json.loads(answers.read_text(encoding="utf-8"))
    return [
        {
            "boxes": [
                (*line["rows"], *line["columns"])
                for line in result["lines"]
                if sum(letter.isalnum() for letter in line["text"]) >= MIN_LETTERS
            ],
            "ms": result["ms"],
        }
        for result in results
    ]


def overlap(box: Box, other: Box) -> bool:
    """Whether two boxes have a pixel in common."""
    return box[0] < other[1] and other[0] < box[1] and box[2] < other[3] and other[2] < box[3]


def is_detected(case: Case, boxes: list[Box]) -> bool:
    """Whether a line overlaps the text of a picture; of a clean picture: whether there is any line."""
    return bool(boxes) if case.box is None else any(overlap(case.box, box) for box in boxes)


def main() -> None:
    """Search every picture with both; print recall by size and place, false alarms and milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocr-python", required=True, help="a Python with rapidocr 3.10")
    parser.add_argument("--count", type=int, default=12, help="pictures for each source, size and place")
    options = parser.parse_args()
    cases = make_cases(Path(os.environ["ONCOLOOP_REAL_DATA"]), options.count)
    results = {"ours": search_with_ours(cases), "rapidocr": search_with_ocr(cases, options.ocr_python)}
    groups = sorted({(case.source, case.place, case.size) for case in cases})
    sys.stdout.write(
        f"{'source':10} {'place':8} {'size':>4} {'n':>4} {'ours':>8} {'rapidocr':>8}   pictures with text\n"
    )
    for group in groups:
        numbers = [n for n, case in enumerate(cases) if (case.source, case.place, case.size) == group]
        counts = [sum(is_detected(cases[n], rows[n]["boxes"]) for n in numbers) for rows in results.values()]
        sys.stdout.write(f"{group[0]:10} {group[1]:8} {group[2]:4} {len(numbers):4} {counts[0]:8} {counts[1]:8}\n")
    for source in SIZES:
        medians = [
            statistics.median(row["ms"] for row, case in zip(rows, cases, strict=True) if case.source == source)
            for rows in results.values()
        ]
        sys.stdout.write(f"{source:10} milliseconds  ours {medians[0]:.2f}  rapidocr {medians[1]:.0f}\n")


if __name__ == "__main__":
    main()
