"""Detection of text burned into the border of a picture: letter-like marks of one brightness on one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.core_types import Scan

ROWS, SIDES = 0.22, 0.34  # shares of height and width that count as border, from each edge
CONTRAST = 0.35  # of a stroke to its surroundings, as a share of the range (0.5th to 99.5th percentile)
STROKE = 9  # pixels; strokes are thinner, wider shapes are anatomy and are removed (white top-hat, Serra 1982)
HEIGHTS = (5, 0.12)  # of a letter: minimum in pixels, maximum as a share of the picture's height
MAX_NARROW, MAX_WIDTH = 1.4, 6.0  # width of one letter, and of several that touch, in heights
MIN_TOUCHING = 6  # letters of a line with wide marks; a wide mark counts as two
MIN_LETTERS = 4  # marks of a line; three are a scale bar, a marker or chance
MAX_PEAK_DIFFERENCE = 0.12  # of the range, between the brightest points of letters of one line
MAX_GAP = 1.1  # between neighbours, in heights of a letter
GROUND, MAX_VARIATION = 50, 0.35  # percentile of a box that is ground; its variation as a share of the strokes' rise
SAMPLE = 128 * 128  # pixels for the range
ROW_GAP = 4  # rows within a band that need not be steep
BLOCK = 64  # rows processed together, which a processor's cache holds
MAX_OFFSET = 0.2  # of a height, between the lower edges and the heights of capitals of one line


@dataclass(frozen=True)
class Line:
    """A line of text: its bounding box (rows from top to bottom, columns from left to right) and number of letters."""

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
        return self.right - self.left <= MAX_NARROW * self.height


def burned_in_fact(scan: Scan) -> dict[str, str]:
    """`burned_in: detected` if any slice shows text and the header does not already say so; else nothing.

    The padding mask is searched separately: its pixels are filled in the scan, but the stored file still has them.
    """
    if scan.header.get("burned_in", "").upper() == "YES":
        return {}
    masks = () if scan.padding is None else (mask for mask in scan.padding if _is_ragged(mask))
    has_text = any(find_lines(picture) for picture in scan.pixels)
    has_text = has_text or any(find_lines(mask.astype(np.float32), (0, 1)) for mask in masks)
    return {"burned_in": "detected"} if has_text else {}


def _is_ragged(mask: NDArray[np.bool_]) -> bool:
    """Whether a row of a mask changes as often as a line of letters; only every second row is checked."""
    rows = mask[::2]
    return bool((np.count_nonzero(rows[:, 1:] != rows[:, :-1], axis=1) >= 2 * MIN_LETTERS).any())


def find_lines(picture: NDArray[np.float32], extremes: tuple[float, float] | None = None) -> list[Line]:
    """The lines of text near the border of one slice (rows × columns, any units), brighter or darker than around.

    `extremes` are its black and white, by default its 0.5th and 99.5th percentile. Text over anatomy in the middle of
    a picture is not detected, nor is text of fewer than four letters.
    """
    if min(picture.shape) < 2 * STROKE:
        return []
    low, high = extremes or _range(picture)
    if not high > low:
        return []
    border, detected = _border(*picture.shape), list[Line]()
    steep_counts = _steep_counts(picture, CONTRAST * (high - low))
    for sign, counts in zip((1, -1), steep_counts, strict=True):  # brighter text, then darker text
        for rows in _steep_bands(counts):
            band = np.clip((picture[rows] - low) * (sign / (high - low)), -2.0, 2.0)
            detected += [
                replace(line, top=line.top + rows.start, bottom=line.bottom + rows.start)
                for line in _bright_lines(band, border[rows], HEIGHTS[1] * len(picture))
            ]
    return detected


def _range(picture: NDArray[np.float32]) -> tuple[float, float]:
    """The 0.5th and the 99.5th percentile (nearest rank) of about 16,000 pixels on a regular grid."""
    step = max(1, int(np.sqrt(picture.size / SAMPLE)))
    sample = picture[::step, ::step].ravel()
    ranks = np.rint(np.array((0.005, 0.995)) * (sample.size - 1)).astype(int)
    low, high = np.partition(sample, ranks)[ranks]
    return float(low), float(high)


def _bright_lines(band: NDArray[np.float32], border: NDArray[np.bool_], max_height: float) -> Iterator[Line]:
    strokes = (band - _grey_opening(band) > CONTRAST) & border
    for letters in _lines(_letters(band, strokes, max(max_height, HEIGHTS[0] + 1))):
        line = Line(
            min(mark.top for mark in letters),
            max(mark.bottom for mark in letters),
            letters[0].left,
            max(mark.right for mark in letters),
            len(letters),
        )
        if _stands_out(band, line):
            yield line


def _grey_opening(band: NDArray[np.float32]) -> NDArray[np.float32]:
    """The grey opening by a square of `STROKE` pixels, cropped at the border."""
    return _extreme(_extreme(band, np.minimum, np.inf), np.maximum, -np.inf)


def _extreme(band: NDArray[np.float32], extremum: np.ufunc, outside: float) -> NDArray[np.float32]:
    """The least or greatest value in the square around each pixel: over 2, 4, 8, then 9 in a row, along both axes."""
    for _ in range(2):
        padded = np.full((len(band) + STROKE - 1, band.shape[1]), outside, np.float32)
        padded[STROKE // 2 : STROKE // 2 + len(band)] = band
        reach = 1
        while reach < STROKE:
            step = min(reach, STROKE - reach)
            padded = extremum(padded[:-step], padded[step:])
            reach += step
        band = np.ascontiguousarray(padded.T)
    return band


def _letters(band: NDArray[np.float32], strokes: NDArray[np.bool_], max_height: float) -> list[_Mark]:
    """The connected strokes that have the size of a letter."""
    from scipy import ndimage

    labelled, _ = ndimage.label(strokes, structure=np.ones((3, 3)))
    letters = []
    for number, box in enumerate(ndimage.find_objects(labelled), 1):
        (top, bottom), (left, right) = ((side.start, side.stop) for side in box)
        if HEIGHTS[0] <= bottom - top <= max_height and right - left <= MAX_WIDTH * (bottom - top):
            peak = float(band[box][labelled[box] == number].max())
            letters.append(_Mark(top, bottom, left, right, bottom - top, peak))
    return letters


def _stands_out(band: NDArray[np.float32], line: Line) -> bool:
    """Whether the ground of a line is even: its strokes rise far above the variation of the rest of the box."""
    box = band[line.top : line.bottom, line.left : line.right]
    ground, upper, peak = np.percentile(box, (10, GROUND, 99))
    return bool(upper - ground < MAX_VARIATION * (peak - ground))


@lru_cache(maxsize=16)
def _border(height: int, width: int) -> NDArray[np.bool_]:
    """The mask of the border; the cached array must not be modified."""
    rows, columns = round(ROWS * height), round(SIDES * width)
    border = np.ones((height, width), bool)
    border[rows:-rows, columns:-columns] = False
    return border


def _steep_counts(picture: NDArray[np.float32], limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each row of the border rises by more than `limit` over two columns, and how often it falls.

    Every second row is counted; the next row gets the same counts.
    """
    height, width = picture.shape
    border, sampled = _border(height, width)[::2, 2:], picture[::2]
    counts = np.zeros((2, len(sampled)), np.int64)
    steps, steep = np.empty((2, BLOCK, width - 2), np.float32)
    for top in range(0, len(sampled), BLOCK):
        rows = sampled[top : top + BLOCK]
        step = np.subtract(rows[:, 2:], rows[:, :-2], out=steps[: len(rows)])
        is_steep = np.abs(step, out=steep[: len(rows)]) > np.float32(limit)
        is_steep &= border[top : top + BLOCK]
        positions = np.flatnonzero(is_steep)
        row, is_rising = positions // (width - 2), step.ravel()[positions] > 0
        for sign, mask in enumerate((is_rising, ~is_rising)):
            counts[sign, top : top + len(rows)] = np.bincount(row[mask], minlength=len(rows))
    rising, falling = counts.repeat(2, 1)[:, :height]
    return rising, falling


def _steep_bands(counts: NDArray[np.int64]) -> Iterator[slice]:
    """The bands of neighbouring rows that are steep often enough for a line of letters: a fast first check."""
    steep = np.flatnonzero(counts >= 2 * MIN_LETTERS)
    if not steep.size:
        return
    for rows in np.split(steep, np.flatnonzero(np.diff(steep) > ROW_GAP + 1) + 1):
        top, bottom = max(int(rows[0]), ROW_GAP // 2), min(int(rows[-1]) + 1, len(counts) - ROW_GAP // 2)
        if bottom - top >= HEIGHTS[0] - 1:
            yield slice(max(top - STROKE, 0), bottom + STROKE)


def _lines(letters: list[_Mark]) -> Iterator[list[_Mark]]:
    """Marks of one height and brightness that follow each other on one base line."""
    remaining = sorted(letters, key=lambda mark: mark.left)
    max_distance = MAX_GAP * max((mark.height for mark in letters), default=0)
    while remaining:
        line = [remaining.pop(0)]
        for mark in list(remaining):
            if mark.left - line[-1].right > max_distance:
                break
            if _follows(line[-1], mark):
                line.append(mark)
                remaining.remove(mark)
        narrow = sum(mark.is_narrow for mark in line)
        if narrow >= MIN_LETTERS or (len(line) >= MIN_LETTERS and 2 * len(line) - narrow >= MIN_TOUCHING):
            yield line


def _follows(mark: _Mark, next_mark: _Mark) -> bool:
    if abs(mark.peak - next_mark.peak) > MAX_PEAK_DIFFERENCE:
        return False
    height = max(mark.height, next_mark.height)
    tolerance = max(1.0, MAX_OFFSET * height)
    return (
        abs(mark.bottom - next_mark.bottom) <= tolerance
        and -1 <= next_mark.left - mark.right <= MAX_GAP * height
        and abs(mark.height - next_mark.height) <= tolerance
    )
