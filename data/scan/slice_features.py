"""Numbers that describe one slice, for the data checks, the journal and monitoring.

They are computed in the slice's own units, before any window of a task, so that another gain, kernel or noise of a
scanner is visible. They contain no identity.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.core_types import FieldOfView, Scan, ValueUnit
from data.scan.preprocess import resize_by_area

Array = NDArray[np.float32]
DESCRIPTION = (
    "mean",
    "std",
    "p01",
    "p05",
    "p25",
    "p50",
    "p75",
    "p95",
    "p99",
    "entropy",
    "sharpness",
    "noise",
    "border_mean",
    "blank_share",
    "saturated_share",
    "rows",
    "columns",
    "row_spacing",
    "column_spacing",
    "thickness",
)
FACTS = (
    "modality",
    "body_part",
    "units",
    "manufacturer",
    "model",
    "kernel",
    "laterality",
    "burned_in",
    "format",
    "plane",
    "geometry",
    "image_type",
    "field_of_view",
)
RULE_ONLY = ("corner_mean",)  # used by the rules only: older reference tables do not have it
PLANES = ("sagittal", "coronal", "axial")  # by the patient axis nearest to the slice normal
SMALLEST_BODY = 250.0  # mm; no adult trunk fits into less, a head or a child does and has fewer rules
CORNER = 16  # a corner is a square of one sixteenth of the side
EMBEDDING = 32
LOW, BANDS, GRID = 5, 12, 64  # of the embedding: triangle of low frequencies, rings of energy, side in pixels
SAMPLE = 128 * 128  # pixels on a regular grid, or up to four times as many, for all figures but the border
GREYS = 64


def describe(pixels: Array, scan: Scan) -> dict[str, float | str]:
    """The columns of `DESCRIPTION` and `RULE_ONLY`, and the texts of `FACTS`, of one slice.

    A figure is 0 if the format does not say it. `noise` is the standard deviation of Gaussian noise, estimated from the
    median of the pixel-to-pixel cross difference (Donoho 1994, on the finest diagonal detail). `sharpness` is the
    variance of the Laplacian. `blank_share` and `saturated_share` are the shares of pixels at the slice's own minimum
    and maximum. For a large slice every figure but `border_mean` and `corner_mean` uses a regular sample (`SAMPLE`).
    """
    sample = np.sort(_sample(pixels), axis=None)
    ranks = np.rint(np.array([1, 5, 25, 50, 75, 95, 99]) / 100 * (sample.size - 1)).astype(int)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    distance, row, column = scan.spacing or (0.0, 0.0, 0.0)
    values = [
        float(sample.mean()),
        float(sample.std()),
        *map(float, sample[ranks]),
        _entropy(sample),
        _sharpness(pixels),
        _noise(pixels),
        float(border.mean()),
        int(np.searchsorted(sample, sample[0], "right")) / sample.size,
        1 - int(np.searchsorted(sample, sample[-1])) / sample.size,
        float(pixels.shape[0]),
        float(pixels.shape[1]),
        row,
        column,
        distance,
    ]
    facts = scan.header | {"units": scan.units.value, "plane": _plane(scan.header.get("orientation", ""))}
    facts |= {"field_of_view": field_of_view(scan).value}
    description = dict(zip(DESCRIPTION, values, strict=True)) | {"corner_mean": _corners(pixels)}
    return description | {name: facts.get(name, "") for name in FACTS}


def field_of_view(scan: Scan) -> FieldOfView:
    """A crop if the shorter side of CT slices is below `SMALLEST_BODY` in mm; a body if the size is unknown."""
    if scan.spacing is None or scan.units is not ValueUnit.HU:
        return FieldOfView.BODY
    side = min(length * step for length, step in zip(scan.pixels.shape[1:], scan.spacing[1:], strict=True))
    return FieldOfView.CROP if 0 < side < SMALLEST_BODY else FieldOfView.BODY


def _corners(pixels: Array) -> float:
    """The mean of the four corners, which are air in a cross-section of a body."""
    rows, columns = (max(1, length // CORNER) for length in pixels.shape)
    return float(
        np.mean(
            [
                pixels[y, x].mean()
                for y in (slice(rows), slice(-rows, None))
                for x in (slice(columns), slice(-columns, None))
            ]
        )
    )


def _plane(orientation: str) -> str:
    """The plane that the direction cosines of rows and columns span (PS3.3 C.7.6.2.1.1); "" without cosines."""
    try:
        a, b, c, d, e, f = (float(part) for part in orientation.split("\\"))
    except ValueError:
        return ""
    normal = (abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d))
    return PLANES[normal.index(max(normal))]


def _sample(pixels: Array) -> Array:
    step = _step(pixels)
    return pixels[::step, ::step]


def _step(pixels: Array) -> int:
    return max(1, int(np.sqrt(pixels.size / SAMPLE)))


def _entropy(sample: Array) -> float:
    """Bits of a 64-grey histogram between minimum and maximum."""
    low, high = sample[0], sample[-1]
    if high <= low:
        return 0.0
    counts = np.bincount(((sample - low) * (GREYS / (high - low))).astype(int).clip(0, GREYS - 1))
    shares = counts[counts > 0] / sample.size
    return float(-(shares * np.log2(shares)).sum())


def _sharpness(pixels: Array) -> float:
    if min(pixels.shape) < 3:
        return 0.0
    step = _step(pixels)
    rows, columns = (slice(1, length - 1, step) for length in pixels.shape)
    above, below = pixels[:-2:step, columns], pixels[2::step, columns]
    left, right = pixels[rows, :-2:step], pixels[rows, 2::step]
    return float((above + below + left + right - 4 * pixels[rows, columns]).var())


def _noise(pixels: Array) -> float:
    if min(pixels.shape) < 2:
        return 0.0
    step = _step(pixels)
    a, b, c, d = (
        pixels[y:end:step, x:stop:step] for y, end in ((0, -1), (1, None)) for x, stop in ((0, -1), (1, None))
    )
    detail = np.abs(a - b - c + d).ravel()
    return float(np.partition(detail, detail.size // 2)[detail.size // 2] / 2 / 0.6745)  # far faster than a median


def embed(unit_pixels: Array) -> Array:
    """The frozen descriptor `dct-1` of a slice of the network's input (size × size, in [0, 1]): 32 numbers, float32.

    The first 20 are low frequencies of the cosine transform of 64 × 64 pixels (shape and brightness). The other 12 are
    the logarithm of the energy in rings of increasing frequency (texture, blur, noise). Distances within a task are
    Euclidean.
    """
    basis, low, ring = _cosines()
    small = resize_by_area(unit_pixels.reshape(unit_pixels.shape[:2]), GRID, GRID).astype(np.float64)
    transform = basis @ small @ basis.T
    energy = np.bincount(ring, weights=(transform**2).ravel(), minlength=BANDS + 1)[1:]
    shape = transform[low] / GRID * 4
    return np.concatenate([shape, np.log(energy / GRID**2 + 1e-8) / 4]).astype(np.float32)


@lru_cache(maxsize=1)
def _cosines() -> tuple[NDArray[np.float64], tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """Orthonormal cosine basis, the positions of the 20 low frequencies, the ring of every frequency (0: the mean)."""
    index = np.arange(GRID)
    basis = np.sqrt(2 / GRID) * np.cos(np.pi * (2 * index[None] + 1) * index[:, None] / (2 * GRID))
    basis[0] /= np.sqrt(2)
    order = [(row, total - row) for total in range(LOW + 1) for row in range(total + 1)][: EMBEDDING - BANDS]
    rows, columns = np.array(order).T
    radius = np.hypot(index[:, None], index[None]) / np.hypot(GRID - 1, GRID - 1)
    ring = np.where(radius > 0, 1 + np.minimum((radius * BANDS).astype(int), BANDS - 1), 0).ravel()
    return basis, (rows, columns), ring
