"""Two small pictures laid over each other: scale and shift are found, then their detail is compared.

A crop moves and stretches a picture; standard anatomy makes two people alike in the large. What tells a copy from
another person is fine detail, compared after the one has been laid over the other (Lucas and Kanade 1981, with one
scale and two shifts, both pictures' gradients as in Malis 2004). Height and width scale alike, as a crop's do: two
people of different girth are not stretched into each other.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
BLOCK = 256  # pairs at once: what a processor's cache holds
COARSE, FINE = 2, 1  # steps at half size, then at full size
PROMISING = 0.95  # likeness at half size, under which no full size is tried
CLOSE = 0.7  # likeness at the first guess, under which it is not improved: cropped copies had 0.78 and more
FARTHEST = np.array([0.13, 0.1, 0.1], np.float32)  # scale - 1, and shift in sides along rows and along columns
DETAIL = 2.5  # pixels: what changes more slowly than this is left out of the comparison


def likeness(left: NDArray[np.uint8], right: NDArray[np.uint8], start: Array, promising: float = PROMISING) -> Array:
    """How alike each pair of thumbnails is, at most 1, after `right` has been laid over `left`; n numbers.

    Thumbnails are n × side × side greys, side even. `start` (n × 3: scale - 1, shift in sides along rows and along
    columns) is a first guess. The number is the correlation of the fine detail where both pictures show something, so
    that neither brightness nor contrast matters; pairs under `promising` at half size get the correlation at half size.
    """
    blocks = [slice(at, at + BLOCK) for at in range(0, len(left), BLOCK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda block: _block(left[block], right[block], start[block], promising), blocks))
    return np.concatenate([np.zeros(0, np.float32), *found])


def _block(left: NDArray[np.uint8], right: NDArray[np.uint8], start: Array, promising: float) -> Array:
    a, b, guess = _shrinking(left.astype(np.float32), right.astype(np.float32), start)
    alike, guess = _laid(_detail(_half(a)), _detail(_half(b)), np.clip(guess, -FARTHEST, FARTHEST), COARSE)
    near = np.flatnonzero(alike >= promising)
    if near.size:
        alike[near], _ = _laid(_detail(a[near]), _detail(b[near]), guess[near], FINE)
    return alike


def _shrinking(left: Array, right: Array, start: Array) -> tuple[Array, Array, Array]:
    """The pairs turned so that `right` is made smaller and not larger, which would blur it."""
    turned = start[:, :1] < 0
    scale = 1 + start[:, :1]
    back = np.concatenate([1 / scale - 1, -start[:, 1:] / scale], 1)
    either = turned[:, :, None]
    return np.where(either, right, left), np.where(either, left, right), np.where(turned, back, start)


def _half(pictures: Array) -> Array:
    rows = pictures[:, 0::2] + pictures[:, 1::2]
    return np.asarray((rows[:, :, 0::2] + rows[:, :, 1::2]) / 4, np.float32)


def _detail(pictures: Array) -> Array:
    """Slightly smoothed, without what changes slowly."""
    smooth, slow = _filters(pictures.shape[1])
    smoothed = smooth @ pictures @ smooth.T
    return np.asarray(smoothed - slow @ smoothed @ slow.T, np.float32)


@lru_cache(maxsize=4)
def _filters(side: int) -> tuple[Array, Array]:
    """Matrices that smooth along an axis: by a quarter, half, a quarter; and by a Gaussian of `DETAIL` pixels."""
    apart = np.abs(np.arange(side)[:, None] - np.arange(side))
    smooth = np.select([apart == 0, apart == 1], [0.5, 0.25], 0.0)
    slow = np.exp(-0.5 * (apart / DETAIL) ** 2)
    return _shares(smooth), _shares(slow)


def _shares(kernel: NDArray[np.float64]) -> Array:
    """Rows that sum to one."""
    shares: Array = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
    return shares


def _laid(left: Array, right: Array, guess: Array, steps: int) -> tuple[Array, Array]:
    """Improve the guesses by Gauss-Newton steps; the best correlation met on the way, and the guess that gave it."""
    best, kept, going = np.full(len(left), -1.0, np.float32), guess.copy(), np.arange(len(left))
    for step in range(steps + 1):
        a, b, shown = _over(left[going], right[going], guess)
        alike = np.einsum("nij,nij->n", a, b)
        better = alike > best[going]
        best[going[better]], kept[going[better]] = alike[better], guess[better]
        if step < steps:
            close = alike >= CLOSE
            if not close.any():
                break
            guess = np.clip(guess[close] + _step(a[close], b[close], shown[close]), -FARTHEST, FARTHEST)
            going = going[close]
    return best, kept


def _over(left: Array, right: Array, guess: Array) -> tuple[Array, Array, Array]:
    """Both pictures where both show something, of zero mean and unit length, and where that is (0 or 1)."""
    rows, in_rows = _sampler(left.shape[1], guess[:, 0], guess[:, 1])
    columns, in_columns = _sampler(left.shape[1], guess[:, 0], guess[:, 2])
    shown = in_rows[:, :, None] * in_columns[:, None, :]
    count = np.maximum(shown.sum((1, 2), keepdims=True), 1)
    a, b = left * shown, (rows @ right @ columns.transpose(0, 2, 1)) * shown
    a -= a.sum((1, 2), keepdims=True) / count * shown
    b -= b.sum((1, 2), keepdims=True) / count * shown
    for picture in (a, b):
        length = np.sqrt(np.einsum("nij,nij->n", picture, picture))
        picture /= np.maximum(length, np.float32(1e-6))[:, None, None]
    return a, b, shown


def _sampler(side: int, scale: Array, shift: Array) -> tuple[Array, Array]:
    """Linear interpolation along one axis as matrices, n × side × side, and which samples lie inside, n × side."""
    centre = (side - 1) / 2
    at = (1 + scale)[:, None] * (np.arange(side, dtype=np.float32) - centre) + (shift * side)[:, None] + centre
    matrix = np.maximum(0, 1 - np.abs(at[:, :, None] - np.arange(side, dtype=np.float32)))
    inside = (at > -0.01) & (at < side - 0.99)
    return matrix.astype(np.float32, copy=False), inside.astype(np.float32)


def _step(a: Array, b: Array, shown: Array) -> Array:
    """One Gauss-Newton step of scale, shift along rows and shift along columns, n × 3."""
    n, side, _ = a.shape
    both = (a + b) / 2
    slope = np.zeros((n, 3, side, side), np.float32)
    slope[:, 1, 1:-1] = (both[:, 2:] - both[:, :-2]) / 2
    slope[:, 2, :, 1:-1] = (both[:, :, 2:] - both[:, :, :-2]) / 2
    slope[:, 1:] *= shown[:, None]
    place = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    slope[:, 0] = slope[:, 1] * place[:, None] + slope[:, 2] * place
    flat = slope.reshape(n, 3, -1)
    normal = flat @ flat.transpose(0, 2, 1) + np.diag(np.array([1e-2, 1e-4, 1e-4], np.float32))
    step = np.linalg.solve(normal, flat @ (a - b).reshape(n, -1, 1))[:, :, 0]
    step[:, 1:] /= side
    limited: Array = np.clip(step, -FARTHEST / 3, FARTHEST / 3).astype(np.float32)
    return limited
