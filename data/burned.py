"""Writing burned into the border of a picture: letter-like marks of one brightness, side by side on one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data.record import Scan

ROWS, SIDES = 0.22, 0.34  # shares of height and width that count as border, from each edge
CONTRAST = 0.35  # of the range (0.5th to 99.5th percentile): a stroke stands out from what is around it by this
STROKE = 9  # pixels: strokes are thinner; what is wider is anatomy and is taken away (white top-hat, Serra 1982)
HEIGHTS = (5, 0.12)  # of a letter: pixels, share of the picture's height
NARROW, WIDEST = 1.4, 2.2  # width of a letter, and of two that touch, in heights
TOUCHING = 6  # marks of which a line is made if some are wide
LETTERS = 4  # marks of which a line is made; three are a scale bar, a marker or chance
ALIKE = 0.12  # of the range: by which the brightest points of the letters of one line differ
APART = 1.1  # gap between neighbours in heights of a letter
GROUND, EVEN = 50, 0.35  # half of a line's box is ground, and varies by less than this share of what strokes rise
LEVEL = 0.2  # of a height: by which lower edges and heights of the capitals of one line differ


@dataclass(frozen=True)
class Line:
    """A line of writing: the box around it (rows from top to bottom, columns from left to right) and its letters."""

    top: int
    bottom: int
    left: int
    right: int
    letters: int


@dataclass(frozen=True)
class _Mark:
    top: int
    bottom: int
    left: int
    right: int
    peak: float

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def is_narrow(self) -> bool:
        return self.right - self.left <= NARROW * self.height

    def is_letter(self, highest: float) -> bool:
        return HEIGHTS[0] <= self.height <= highest and self.right - self.left <= WIDEST * self.height


def facts(scan: Scan) -> dict[str, str]:
    """`burned_in: detected` if any slice shows writing and the header does not say so by itself; else nothing."""
    if scan.header.get("burned_in", "").upper() == "YES" or not any(lines(picture) for picture in scan.pixels):
        return {}
    return {"burned_in": "detected"}


def lines(picture: NDArray[np.float32]) -> list[Line]:
    """The lines of writing near the border of one slice (rows × columns, any units), brighter or darker than around.

    Text over anatomy in the middle of a picture is not looked for, nor is writing of fewer than four letters.
    """
    low, high = np.percentile(picture[::3, ::3], (0.5, 99.5))
    if not high > low or min(picture.shape) < 2 * STROKE:
        return []
    zone, steps = _zone(picture.shape), picture[:, 2:] - picture[:, :-2]
    limit, found = CONTRAST * (high - low), list[Line]()
    for sign in (1, -1):  # brighter and darker than around
        for rows in _busy(steps > limit if sign > 0 else steps < -limit, zone):
            band = np.clip((picture[rows] - low) * (sign / (high - low)), -2.0, 2.0)
            found += [replace(line, top=line.top + rows.start, bottom=line.bottom + rows.start)
                      for line in _bright(band, zone[rows], HEIGHTS[1] * len(picture))]  # fmt: skip
    return found


def _bright(band: NDArray[np.float32], zone: NDArray[np.bool_], highest: float) -> Iterator[Line]:
    from scipy import ndimage

    strokes = band - ndimage.grey_opening(band, size=(STROKE, STROKE))
    marks = [mark for mark in _marks(band, (strokes > CONTRAST) & zone) if mark.is_letter(max(highest, HEIGHTS[0] + 1))]
    for letters in _lines(marks):
        line = Line(
            min(mark.top for mark in letters), max(mark.bottom for mark in letters),
            letters[0].left, max(mark.right for mark in letters), len(letters),
        )  # fmt: skip
        if _stands_out(band, line):
            yield line


def _marks(band: NDArray[np.float32], strokes: NDArray[np.bool_]) -> list[_Mark]:
    from scipy import ndimage

    labelled, count = ndimage.label(strokes, structure=np.ones((3, 3)))
    if not count:
        return []
    peaks = ndimage.maximum(band, labelled, np.arange(1, count + 1))
    return [
        _Mark(rows.start, rows.stop, columns.start, columns.stop, float(peak))
        for (rows, columns), peak in zip(ndimage.find_objects(labelled), peaks, strict=True)
    ]


def _stands_out(band: NDArray[np.float32], line: Line) -> bool:
    """Whether the ground of a line is even: its strokes rise far above what the rest of the box varies by."""
    box = band[line.top : line.bottom, line.left : line.right]
    ground, upper, peak = np.percentile(box, (10, GROUND, 99))
    return bool(upper - ground < EVEN * (peak - ground))


def _zone(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    rows, columns = (round(share * length) for share, length in zip((ROWS, SIDES), shape, strict=True))
    zone = np.ones(shape, bool)
    zone[rows:-rows, columns:-columns] = False
    return zone


def _busy(rises: NDArray[np.bool_], zone: NDArray[np.bool_]) -> list[slice]:
    """The bands of neighbouring rows that rise steeply often enough for a line of letters: a quick look."""
    from scipy import ndimage

    often = np.count_nonzero(rises & zone[:, 2:], axis=1) >= 2 * LETTERS
    if not often.any():
        return []
    bands = ndimage.find_objects(ndimage.label(ndimage.binary_closing(often, iterations=2))[0])
    return [
        slice(max(rows.start - STROKE, 0), rows.stop + STROKE)
        for (rows,) in bands
        if rows.stop - rows.start >= HEIGHTS[0] - 1
    ]


def _lines(letters: list[_Mark]) -> Iterator[list[_Mark]]:
    """Marks that follow each other on one base line, of one height and brightness."""
    left = sorted(letters, key=lambda mark: mark.left)
    while left:
        line = [left.pop(0)]
        for mark in list(left):
            if _follows(line[-1], mark):
                line.append(mark)
                left.remove(mark)
        if sum(mark.is_narrow for mark in line) >= LETTERS or len(line) >= TOUCHING:
            yield line


def _follows(one: _Mark, next_one: _Mark) -> bool:
    height = max(one.height, next_one.height)
    tolerance = max(1.0, LEVEL * height)
    return (
        -1 <= next_one.left - one.right <= APART * height
        and abs(one.bottom - next_one.bottom) <= tolerance
        and abs(one.height - next_one.height) <= tolerance
        and abs(one.peak - next_one.peak) <= ALIKE
    )
