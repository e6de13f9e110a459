"""Thumbnails of slices for the manifest, and the vectors that find similar ones.

A thumbnail has 40 × 40 pixels in 64 greys, enough to distinguish a copy from another person
(data/duplicates/image_alignment.py). The vector selects the pairs that are worth comparing. It is computed in the frame
of the body: the picture is stretched so that the quartiles of its brightness along rows and columns have fixed
positions. So a crop or another field of view changes the vector only a little.
"""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.compression import gzipped
from data.scan.preprocess import resize_by_area

Array = NDArray[np.float32]
SIDE, GREYS = 40, 64
WBITS = 47  # zlib's `wbits` for gzip and, in manifests from before 2026-12, zlib
FRAME, SPAN = 32, 0.45  # pixels of the body's frame; position of the quartiles as a share of its half
WAVES = 8  # half waves along an axis of the highest frequency in the vector
DARK = 0.2  # share of a picture's white; less counts as air
LENGTH = 51  # numbers of a vector
BLOCK = 256  # pictures at once, which a processor's cache holds


def thumbnail(unit_pixels: Array) -> str:
    """The thumbnail of one slice of the network's input (size × size × 1 in [0, 1]) as text, about 1,000 characters."""
    small = resize_by_area(unit_pixels.reshape(unit_pixels.shape[:2]), SIDE, SIDE)
    return encode_thumbnail(np.rint(np.clip(small, 0, 1) * (GREYS - 1)).astype(np.uint8))


def encode_thumbnail(greys: NDArray[np.uint8]) -> str:
    """The greys of a thumbnail (side × side) as text."""
    return base64.b64encode(gzipped(greys.tobytes(), level=6)).decode()


def decode_thumbnails(column: pd.Series[str]) -> NDArray[np.uint8]:
    """The thumbnails of a manifest column, n × 40 × 40; black for an empty cell."""
    empty = bytes(SIDE * SIDE)
    raw = b"".join(zlib.decompress(base64.b64decode(text), WBITS) if text else empty for text in column)
    return np.frombuffer(raw, np.uint8).reshape(len(column), SIDE, SIDE)


def body_frames(pictures: NDArray[np.uint8]) -> Array:
    """The frame of the body in each picture, n × 4: (half height, row, half width, column) as shares of the side.

    The half sizes run between the quartiles of brightness. The picture's centre is at row 0 and column 0.
    """
    ordered = np.sort(pictures.reshape(len(pictures), -1), 1, kind="stable")  # bytes: far faster than a quantile
    white = ordered[:, round(0.95 * (ordered.shape[1] - 1)), None, None].astype(np.float32)
    mass = np.maximum(pictures.astype(np.float32) - np.float32(DARK) * white, 0)
    columns = []
    for axis in (2, 1):
        low, high = _quartiles(mass.sum(axis))
        columns += [np.maximum(high - low, 2) / 2 / SIDE, (low + high) / 2 / SIDE - 0.5]
    return np.stack(columns, 1).astype(np.float32)


def initial_alignment(left: Array, right: Array) -> Array:
    """Scale (minus 1) and shifts that map the frames `right` to `left`, n × 3.

    data/duplicates/image_alignment.py starts from them.
    """
    scale = np.sqrt((right[:, 0] * right[:, 2]) / (left[:, 0] * left[:, 2]))
    shift = right[:, 1::2] - scale[:, None] * left[:, 1::2]
    return np.concatenate([scale[:, None] - 1, shift], 1).astype(np.float32)


def thumbnail_vectors(pictures: NDArray[np.uint8]) -> Array:
    """Unit vectors of the low frequencies in the body's frame, n × 51; zero for a blank picture."""
    blocks = [_vectors(pictures[first : first + BLOCK]) for first in range(0, len(pictures), BLOCK)]
    return np.concatenate([np.zeros((0, LENGTH), np.float32), *blocks])


def _vectors(pictures: NDArray[np.uint8]) -> Array:
    body = body_frames(pictures)
    positions = ((np.arange(FRAME, dtype=np.float32) + 0.5) / FRAME * 2 - 1) / np.float32(SPAN)
    rows, columns = (
        _sampler(((body[:, column + 1] + 0.5) * SIDE)[:, None] + (body[:, column] * SIDE)[:, None] * positions - 0.5)
        for column in (0, 2)
    )
    basis, weight = _cosines()
    framed = (basis @ rows) @ pictures.astype(np.float32) @ (basis @ columns).transpose(0, 2, 1)
    weighted = (framed * weight)[:, weight > 0]
    length = np.linalg.norm(weighted, axis=1, keepdims=True)
    unit: Array = np.where(length > 1e-3, weighted / np.maximum(length, np.float32(1e-6)), 0).astype(np.float32)
    return unit


def _quartiles(mass: Array) -> tuple[Array, Array]:
    """The positions of the first and the third quartile of the mass along an axis, in pixels; n values each."""
    total = np.cumsum(mass, 1, dtype=np.float64)
    total = np.concatenate([np.zeros((len(total), 1)), total], 1) / np.maximum(total[:, -1:], 1e-9)
    row, quartiles = np.arange(len(total)), []
    for share in (0.25, 0.75):
        index = (total < share).sum(1).clip(1, mass.shape[1])
        low, high = total[row, index - 1], total[row, index]
        quartiles.append((index - 1 + (share - low) / np.maximum(high - low, 1e-9)).astype(np.float32))
    return quartiles[0], quartiles[1]


def _sampler(positions: NDArray[Any]) -> Array:
    """Linear interpolation along one axis as matrices, n × FRAME × SIDE; outside, the border value is repeated."""
    positions = np.clip(positions, 0, SIDE - 1)
    matrix = np.maximum(0, 1 - np.abs(positions[:, :, None] - np.arange(SIDE, dtype=np.float32)))
    return np.asarray(matrix, np.float32)


@lru_cache(maxsize=1)
def _cosines() -> tuple[Array, Array]:
    """Orthonormal cosines, WAVES × FRAME, and the weight of each pair of frequencies: increasing, 0 for the mean."""
    index, wave = np.arange(FRAME), np.arange(WAVES)
    basis = np.sqrt(2 / FRAME) * np.cos(np.pi * (2 * index + 1) * wave[:, None] / (2 * FRAME))
    basis[0] /= np.sqrt(2)
    frequency = np.hypot(wave[:, None], wave)
    weight = np.where(frequency <= WAVES - 0.5, np.sqrt(frequency), 0)
    return basis.astype(np.float32), weight.astype(np.float32)
