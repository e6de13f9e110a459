"""Preprocessing of a scan into the network's input (window, square, resize), the same for training and serving."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.core_types import PixelSettings, Scan, ValueUnit

PERCENTILES = (1.0, 99.5)  # of a slice in arbitrary units: its black and its white
DISPLAY_WHITE = 255.0
MIN_RANGE = 1e-30  # between black and white; a smaller range has no finite inverse in float32


def unit_pixels(pixels: NDArray[np.float32], units: ValueUnit, settings: PixelSettings) -> NDArray[np.float32]:
    """One slice (height × width, in `units`) as size × size × 1 in [0, 1], float32, with its aspect ratio kept.

    HU are scaled by the task's window (centre, width in HU), display grey by 0 to 255, other units by the slice's own
    1st to 99.5th percentile. A slice of one value becomes black. The resize uses sums only and no library, so that
    every machine computes the same bits.
    """
    low, high = _range(pixels, units, settings)
    if high - low < MIN_RANGE:
        return np.zeros((settings.size, settings.size, 1), np.float32)
    clipped = np.clip(pixels, np.float32(low), np.float32(high))
    grey = resize_by_area(_square(clipped, float(clipped.min())), settings.size, settings.size)
    unit = np.ascontiguousarray(grey - np.float32(low))  # clipped at full size, scaled at the small one
    unit *= np.float32(1 / (high - low))
    return np.clip(unit, 0, 1, out=unit)[:, :, None]


def mask_shares(mask: NDArray[np.bool_], cells: int) -> NDArray[np.float32]:
    """The share of each cell that the mask covers, `cells` × `cells` over the square that `unit_pixels` makes."""
    return resize_by_area(_square(mask.astype(np.float32), 0.0), cells, cells)


def scan_pixels(scan: Scan, settings: PixelSettings) -> NDArray[np.float32]:
    """Every slice of a scan: slices × size × size × 1 in [0, 1]."""
    return np.stack([unit_pixels(plane, scan.units, settings) for plane in scan.pixels])


def resize_by_area(picture: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Resize by exact area: each new pixel is the mean of the patch that it covers, including parts of pixels."""
    if picture.shape == (rows, columns):
        return picture
    return _shrink(_shrink(picture, rows).T, columns).T


def _shrink(picture: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Resize along the first axis. Sums run in a fixed order, so that the result does not depend on a BLAS."""
    rows_per_patch, remainder = divmod(len(picture), rows)
    if rows_per_patch and not remainder:  # the same sums, without a list of positions
        mean: NDArray[np.float32] = picture[0::rows_per_patch] * np.float32(1 / rows_per_patch)
        for offset in range(1, rows_per_patch):
            mean += picture[offset::rows_per_patch] * np.float32(1 / rows_per_patch)
        return mean
    sources, shares = _patches(len(picture), rows)
    shrunk: NDArray[np.float32] = picture[sources[0]] * shares[0]
    for source, share in zip(sources[1:], shares[1:], strict=True):
        shrunk += picture[source] * share
    return shrunk


@lru_cache(maxsize=64)
def _patches(length: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The old pixels of each of `count` patches (steps × patches), and the share of the patch that each pixel has."""
    borders = np.arange(count + 1) * (length / count)
    first, last = borders[:-1], borders[1:]
    start = np.floor(first + 1e-9).astype(np.int64)
    steps = int(np.max(np.ceil(last - 1e-9) - start))
    positions = start + np.arange(steps)[:, None]
    shares = np.clip(np.minimum(positions + 1, last) - np.maximum(positions, first), 0, None) * (count / length)
    return np.minimum(positions, length - 1), shares.astype(np.float32)[:, :, None]


def _range(pixels: NDArray[np.float32], units: ValueUnit, settings: PixelSettings) -> tuple[float, float]:
    if units == ValueUnit.DISPLAY:
        return 0.0, DISPLAY_WHITE
    if units == ValueUnit.HU and settings.window is not None:
        centre, width = settings.window
        return centre - width / 2, centre + width / 2
    return _percentile(pixels, PERCENTILES[0]), _percentile(pixels, PERCENTILES[1])


def _percentile(pixels: NDArray[np.float32], percent: float) -> float:
    """The value below which `percent` of the pixels lie (nearest rank), by partition: no sorting of the slice."""
    flat = pixels.ravel()
    rank = round(percent / 100 * (flat.size - 1))
    return float(np.partition(flat, rank)[rank])


def _square(grey: NDArray[np.float32], border: float) -> NDArray[np.float32]:
    """The picture centred in a square whose border has the value `border`."""
    height, width = grey.shape
    if height == width:
        return grey
    side = max(height, width)
    square = np.full((side, side), border, np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = grey
    return square
