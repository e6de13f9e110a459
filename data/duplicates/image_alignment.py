"""Alignment of thumbnail pairs by scale and shift, and the correlation of their fine detail."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
BLOCK = 256  # pairs at once: fits into the processor cache
COARSE, FINE = 2, 1  # Gauss-Newton steps at half size, then at full size
PROMISING = 0.95  # minimum likeness at half size for a comparison at full size
CLOSE = 0.7  # minimum likeness at the first guess for further steps; cropped copies had 0.78 or more
MAX_CHANGE = np.array([0.13, 0.1, 0.1], np.float32)  # scale - 1, and shift in sides along rows and columns
DETAIL = 2.5  # pixels (Gaussian sigma): slower changes are removed before the comparison


def likeness(left: NDArray[np.uint8], right: NDArray[np.uint8], start: Array, promising: float = PROMISING) -> Array:
    """The likeness of each pair of thumbnails after alignment of `right` to `left`: n numbers of at most 1.

    Thumbnails are n × side × side greys, side even. `start` (n × 3: scale - 1, shift in sides along rows and along
    columns) is a first guess. The likeness is the correlation of the fine detail in the overlap, so brightness and
    contrast do not matter. Pairs under `promising` at half size get their correlation at half size.

    Fine detail tells a copy from another person: standard anatomy makes people alike at coarse scale, and a crop moves
    and scales a picture. The alignment is that of Lucas and Kanade (1981) with one scale and two shifts, and the
    gradients of both pictures as in Malis (2004). One scale for both axes suits crops, and does not fit people of
    different girth to each other.
    """
    blocks = [slice(start_row, start_row + BLOCK) for start_row in range(0, len(left), BLOCK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        likeness_by_block = list(
            pool.map(lambda block: _block_likeness(left[block], right[block], start[block], promising), blocks)
        )
    return np.concatenate([np.zeros(0, np.float32), *likeness_by_block])


def _block_likeness(left: NDArray[np.uint8], right: NDArray[np.uint8], start: Array, promising: float) -> Array:
    a, b, guess = _swap_enlarged(left.astype(np.float32), right.astype(np.float32), start)
    correlation, guess = _align(_detail(_half(a)), _detail(_half(b)), np.clip(guess, -MAX_CHANGE, MAX_CHANGE), COARSE)
    promising_pairs = np.flatnonzero(correlation >= promising)
    if promising_pairs.size:
        correlation[promising_pairs], _ = _align(
            _detail(a[promising_pairs]), _detail(b[promising_pairs]), guess[promising_pairs], FINE
        )
    return correlation


def _swap_enlarged(left: Array, right: Array, start: Array) -> tuple[Array, Array, Array]:
    """Swap pairs where `right` would be enlarged, which blurs it.

    Returns both pictures and the guess for that order.
    """
    is_swapped = start[:, :1] < 0
    scale = 1 + start[:, :1]
    inverse = np.concatenate([1 / scale - 1, -start[:, 1:] / scale], 1)
    is_swapped_pair = is_swapped[:, :, None]
    return (
        np.where(is_swapped_pair, right, left),
        np.where(is_swapped_pair, left, right),
        np.where(is_swapped, inverse, start),
    )


def _half(pictures: Array) -> Array:
    rows = pictures[:, 0::2] + pictures[:, 1::2]
    return np.asarray((rows[:, :, 0::2] + rows[:, :, 1::2]) / 4, np.float32)


def _detail(pictures: Array) -> Array:
    """Slightly smoothed pictures without their slow changes."""
    smooth, gaussian = _filters(pictures.shape[1])
    smoothed = smooth @ pictures @ smooth.T
    return np.asarray(smoothed - gaussian @ smoothed @ gaussian.T, np.float32)


@lru_cache(maxsize=4)
def _filters(side: int) -> tuple[Array, Array]:
    """Matrices that smooth along an axis: with weights 1/4, 1/2, 1/4, and with a Gaussian of `DETAIL` pixels."""
    distance = np.abs(np.arange(side)[:, None] - np.arange(side))
    smooth = np.select([distance == 0, distance == 1], [0.5, 0.25], 0.0)
    gaussian = np.exp(-0.5 * (distance / DETAIL) ** 2)
    return _normalise_rows(smooth), _normalise_rows(gaussian)


def _normalise_rows(kernel: NDArray[np.float64]) -> Array:
    """The kernel with rows that sum to one."""
    normalised: Array = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
    return normalised


def _align(left: Array, right: Array, guess: Array, steps: int) -> tuple[Array, Array]:
    """Improve the guesses by Gauss-Newton steps; returns the best correlation of all steps, and its guess."""
    best, best_guess, remaining = np.full(len(left), -1.0, np.float32), guess.copy(), np.arange(len(left))
    for step in range(steps + 1):
        a, b, overlap = _overlap(left[remaining], right[remaining], guess)
        correlation = np.einsum("nij,nij->n", a, b)
        is_better = correlation > best[remaining]
        best[remaining[is_better]], best_guess[remaining[is_better]] = correlation[is_better], guess[is_better]
        if step < steps:
            is_close = correlation >= CLOSE
            if not is_close.any():
                break
            guess = np.clip(
                guess[is_close] + _gauss_newton_step(a[is_close], b[is_close], overlap[is_close]),
                -MAX_CHANGE,
                MAX_CHANGE,
            )
            remaining = remaining[is_close]
    return best, best_guess


def _overlap(left: Array, right: Array, guess: Array) -> tuple[Array, Array, Array]:
    """Both pictures in their overlap, with zero mean and unit length; and the overlap (0 or 1)."""
    rows, in_rows = _sampler(left.shape[1], guess[:, 0], guess[:, 1])
    columns, in_columns = _sampler(left.shape[1], guess[:, 0], guess[:, 2])
    overlap = in_rows[:, :, None] * in_columns[:, None, :]
    count = np.maximum(overlap.sum((1, 2), keepdims=True), 1)
    a, b = left * overlap, (rows @ right @ columns.transpose(0, 2, 1)) * overlap
    a -= a.sum((1, 2), keepdims=True) / count * overlap
    b -= b.sum((1, 2), keepdims=True) / count * overlap
    for picture in (a, b):
        length = np.sqrt(np.einsum("nij,nij->n", picture, picture))
        picture /= np.maximum(length, np.float32(1e-6))[:, None, None]
    return a, b, overlap


def _sampler(side: int, scale: Array, shift: Array) -> tuple[Array, Array]:
    """Linear interpolation along one axis as matrices, n × side × side; and which samples are inside, n × side."""
    centre = (side - 1) / 2
    position = (1 + scale)[:, None] * (np.arange(side, dtype=np.float32) - centre) + (shift * side)[:, None] + centre
    matrix = np.maximum(0, 1 - np.abs(position[:, :, None] - np.arange(side, dtype=np.float32)))
    is_inside = (position > -0.01) & (position < side - 0.99)
    return matrix.astype(np.float32, copy=False), is_inside.astype(np.float32)


def _gauss_newton_step(a: Array, b: Array, overlap: Array) -> Array:
    """One Gauss-Newton step of scale, shift along rows and shift along columns, n × 3."""
    n, side, _ = a.shape
    mean = (a + b) / 2
    slope = np.zeros((n, 3, side, side), np.float32)
    slope[:, 1, 1:-1] = (mean[:, 2:] - mean[:, :-2]) / 2
    slope[:, 2, :, 1:-1] = (mean[:, :, 2:] - mean[:, :, :-2]) / 2
    slope[:, 1:] *= overlap[:, None]
    offset = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    slope[:, 0] = slope[:, 1] * offset[:, None] + slope[:, 2] * offset
    flat = slope.reshape(n, 3, -1)
    normal = flat @ flat.transpose(0, 2, 1) + np.diag(np.array([1e-2, 1e-4, 1e-4], np.float32))
    step = np.linalg.solve(normal, flat @ (a - b).reshape(n, -1, 1))[:, :, 0]
    step[:, 1:] /= side
    limited: Array = np.clip(step, -MAX_CHANGE / 3, MAX_CHANGE / 3).astype(np.float32)
    return limited
