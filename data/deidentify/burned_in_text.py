"""Writing burned into the border of a picture: letter-like marks of one brightness, side by side on one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.record import Scan

ROWS, SIDES = 0.22, 0.34  # shares of height and width that count as border, from each edge
CONTRAST = 0.35  # of the range (0.5th to 99.5th percentile): a stroke stands out from what is around it by this
STROKE = 9  # pixels: strokes are thinner; what is wider is anatomy and is taken away (white top-hat, Serra 1982)
HEIGHTS = (5, 0.12)  # of a letter: pixels, share of the picture's height
NARROW, WIDEST = 1.4, 6.0  # width of a letter, and of several that touch, in heights
TOUCHING = 6  # letters of which a line is made if some marks are wide; a wide mark counts as two
LETTERS = 4  # marks of which a line is made at least; three are a scale bar, a marker or chance
ALIKE = 0.12  # of the range: by which the brightest points of the letters of one line differ
APART = 1.1  # gap between neighbours in heights of a letter
GROUND, EVEN = 50, 0.35  # half of a line's box is ground, and varies by less than this share of what strokes rise
SAMPLE = 128 * 128  # pixels that the range is taken from
GAP = 4  # rows of a band that need not rise steeply
BLOCK = 64  # rows looked at together: what a processor's cache holds
LEVEL = 0.2  # of a height: by which lower edges and heights of the capitals of one line differ


@dataclass(frozen=True)
class Line:
    """A line of writing: the box around it (rows from top to bottom, columns from left to right) and its letters."""

    top: int
    bottom: int
    left: int
    right: int
    letters: int


class _Mark(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int
    height: int
    peak: float

    @property
    def is_narrow(self) -> bool:
        return self.right - self.left <= NARROW * self.height


def facts(scan: Scan) -> dict[str, str]:
    """`burned_in: detected` if any slice shows writing and the header does not say so by itself; else nothing.

    Padding is searched by itself: its pixels have been filled, but the stored file still has them.
    """
    if scan.header.get("burned_in", "").upper() == "YES":
        return {}
    padded = () if scan.padding is None else (mask for mask in scan.padding if _is_ragged(mask))
    shows = any(lines(picture) for picture in scan.pixels)
    return {"burned_in": "detected"} if shows or any(lines(mask.astype(np.float32), (0, 1)) for mask in padded) else {}


def _is_ragged(mask: NDArray[np.bool_]) -> bool:
    """Whether a row of a mask changes as often as a line of letters does; every second row speaks for the next one."""
    rows = mask[::2]
    return bool((np.count_nonzero(rows[:, 1:] != rows[:, :-1], axis=1) >= 2 * LETTERS).any())


def lines(picture: NDArray[np.float32], extremes: tuple[float, float] | None = None) -> list[Line]:
    """The lines of writing near the border of one slice (rows × columns, any units), brighter or darker than around.

    `extremes` are its black and white, by default its 0.5th and 99.5th percentile. Text over anatomy in the middle of a
    picture is not looked for, nor is writing of fewer than four letters.
    """
    if min(picture.shape) < 2 * STROKE:
        return []
    low, high = extremes or _range(picture)
    if not high > low:
        return []
    zone, found = _zone(*picture.shape), list[Line]()
    for sign, often in zip((1, -1), _rises(picture, CONTRAST * (high - low)), strict=True):  # brighter, then darker
        for rows in _busy(often):
            band = np.clip((picture[rows] - low) * (sign / (high - low)), -2.0, 2.0)
            found += [
                replace(line, top=line.top + rows.start, bottom=line.bottom + rows.start)
                for line in _bright(band, zone[rows], HEIGHTS[1] * len(picture))
            ]
    return found


def _range(picture: NDArray[np.float32]) -> tuple[float, float]:
    """The 0.5th and the 99.5th percentile (nearest rank) of about 16,000 pixels on a regular grid."""
    step = max(1, int(np.sqrt(picture.size / SAMPLE)))
    sample = picture[::step, ::step].ravel()
    ranks = np.rint(np.array((0.005, 0.995)) * (sample.size - 1)).astype(int)
    low, high = np.partition(sample, ranks)[ranks]
    return float(low), float(high)


def _bright(band: NDArray[np.float32], zone: NDArray[np.bool_], highest: float) -> Iterator[Line]:
    for letters in _lines(_letters(band, (band - _opened(band) > CONTRAST) & zone, max(highest, HEIGHTS[0] + 1))):
        line = Line(
            min(mark.top for mark in letters),
            max(mark.bottom for mark in letters),
            letters[0].left,
            max(mark.right for mark in letters),
            len(letters),
        )
        if _stands_out(band, line):
            yield line


def _opened(band: NDArray[np.float32]) -> NDArray[np.float32]:
    """The grey opening by a square of `STROKE` pixels, cut off at the border."""
    return _extreme(_extreme(band, np.minimum, np.inf), np.maximum, -np.inf)


def _extreme(band: NDArray[np.float32], either: np.ufunc, outside: float) -> NDArray[np.float32]:
    """The least or greatest value in the square around each pixel: of 2, 4, 8, then 9 in a row, along both axes."""
    for _ in range(2):
        padded = np.full((len(band) + STROKE - 1, band.shape[1]), outside, np.float32)
        padded[STROKE // 2 : STROKE // 2 + len(band)] = band
        reach = 1
        while reach < STROKE:
            step = min(reach, STROKE - reach)
            padded = either(padded[:-step], padded[step:])
            reach += step
        band = np.ascontiguousarray(padded.T)
    return band


def _letters(band: NDArray[np.float32], strokes: NDArray[np.bool_], highest: float) -> list[_Mark]:
    """The connected strokes of the size of a letter."""
    from scipy import ndimage

    labelled, _ = ndimage.label(strokes, structure=np.ones((3, 3)))
    letters = []
    for number, box in enumerate(ndimage.find_objects(labelled), 1):
        (top, bottom), (left, right) = ((side.start, side.stop) for side in box)
        if HEIGHTS[0] <= bottom - top <= highest and right - left <= WIDEST * (bottom - top):
            peak = float(band[box][labelled[box] == number].max())
            letters.append(_Mark(top, bottom, left, right, bottom - top, peak))
    return letters


def _stands_out(band: NDArray[np.float32], line: Line) -> bool:
    """Whether the ground of a line is even: its strokes rise far above what the rest of the box varies by."""
    box = band[line.top : line.bottom, line.left : line.right]
    ground, upper, peak = np.percentile(box, (10, GROUND, 99))
    return bool(upper - ground < EVEN * (peak - ground))


@lru_cache(maxsize=16)
def _zone(height: int, width: int) -> NDArray[np.bool_]:
    """Where the border is; not to be written to."""
    rows, columns = round(ROWS * height), round(SIDES * width)
    zone = np.ones((height, width), bool)
    zone[rows:-rows, columns:-columns] = False
    return zone


def _rises(picture: NDArray[np.float32], limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each row of the border rises by more than `limit` over two columns, and how often it falls.

    Every second row is looked at and speaks for the next one.
    """
    height, width = picture.shape
    zone, seen = _zone(height, width)[::2, 2:], picture[::2]
    often = np.zeros((2, len(seen)), np.int64)
    steps, steep = np.empty((2, BLOCK, width - 2), np.float32)
    for top in range(0, len(seen), BLOCK):
        rows = seen[top : top + BLOCK]
        step = np.subtract(rows[:, 2:], rows[:, :-2], out=steps[: len(rows)])
        beyond = np.abs(step, out=steep[: len(rows)]) > np.float32(limit)
        beyond &= zone[top : top + BLOCK]
        places = np.flatnonzero(beyond)
        row, rising = places // (width - 2), step.ravel()[places] > 0
        for sign, which in enumerate((rising, ~rising)):
            often[sign, top : top + len(rows)] = np.bincount(row[which], minlength=len(rows))
    up, down = often.repeat(2, 1)[:, :height]
    return up, down


def _busy(often: NDArray[np.int64]) -> Iterator[slice]:
    """The bands of neighbouring rows that rise steeply often enough for a line of letters: a quick look."""
    steep = np.flatnonzero(often >= 2 * LETTERS)
    if not steep.size:
        return
    for rows in np.split(steep, np.flatnonzero(np.diff(steep) > GAP + 1) + 1):
        top, bottom = max(int(rows[0]), GAP // 2), min(int(rows[-1]) + 1, len(often) - GAP // 2)
        if bottom - top >= HEIGHTS[0] - 1:
            yield slice(max(top - STROKE, 0), bottom + STROKE)


def _lines(letters: list[_Mark]) -> Iterator[list[_Mark]]:
    """Marks that follow each other on one base line, of one height and brightness."""
    left = sorted(letters, key=lambda mark: mark.left)
    farthest = APART * max((mark.height for mark in letters), default=0)
    while left:
        line = [left.pop(0)]
        for mark in list(left):
            if mark.left - line[-1].right > farthest:
                break
            if _follows(line[-1], mark):
                line.append(mark)
                left.remove(mark)
        narrow = sum(mark.is_narrow for mark in line)
        if narrow >= LETTERS or (len(line) >= LETTERS and 2 * len(line) - narrow >= TOUCHING):
            yield line


def _follows(one: _Mark, next_one: _Mark) -> bool:
    if abs(one.peak - next_one.peak) > ALIKE:
        return False
    height = max(one.height, next_one.height)
    tolerance = max(1.0, LEVEL * height)
    return (
        abs(one.bottom - next_one.bottom) <= tolerance
        and -1 <= next_one.left - one.right <= APART * height
        and abs(one.height - next_one.height) <= tolerance
    )
