"""Augmentation transforms as array operations: affine resampling, intensity, noise, random erasing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

NOISE_POOL_SIZE = 1 << 18  # noise values, drawn once; an image takes a run of them from a random start


@dataclass(frozen=True)
class Intensity:
    """Contrast and brightness (n), the start of each image's noise in the noise pool (n), and the noise strength."""

    contrast: Any
    brightness: Any
    start: Any
    noise: float


@dataclass(frozen=True)
class ErasedRectangle:
    """A rectangle in each image: centre and sides as shares of the image's sides (n each); sides of 0 erase nothing."""

    across: Any
    down: Any
    width: Any
    height: Any


def draw_noise_pool(seed: int) -> NDArray[np.float32]:
    """Standard normal numbers (NOISE_POOL_SIZE); drawing new ones for each pixel would take most of a step."""
    return np.random.default_rng(seed).standard_normal(NOISE_POOL_SIZE, np.float32)


def apply_affine(images: Any, affine: Any) -> Any:
    """Resample images (n, h, w, 1) bilinearly, with reflection at the borders.

    `affine` maps output to input positions about the centre: a, b, d, e of [[a, b], [d, e]], then the shifts across
    and down as shares of a side, (n) each.
    """
    height, width = images.shape[1:3]
    a, b, d, e, across, down = (_per_image(values) for values in affine)
    rows = ops.reshape(ops.arange(height, dtype="float32"), (1, height, 1)) - (height - 1) / 2
    columns = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, width)) - (width - 1) / 2
    x = _reflect(a * columns + b * rows + (width - 1) / 2 + across * width, width)
    y = _reflect(d * columns + e * rows + (height - 1) / 2 + down * height, height)
    left_column, top_row = (
        ops.minimum(ops.floor(positions), float(side - 2)) for positions, side in ((x, width), (y, height))
    )
    column_fraction, row_fraction = x - left_column, y - top_row
    count = ops.shape(images)[0]
    offset = ops.reshape(ops.arange(count, dtype="int32") * (height * width), (-1, 1, 1))
    index = offset + ops.cast(top_row * width + left_column, "int32")
    flat = ops.reshape(images, (-1,))
    upper = ops.take(flat, index) * (1 - column_fraction) + ops.take(flat, index + 1) * column_fraction
    lower = ops.take(flat, index + width) * (1 - column_fraction) + ops.take(flat, index + width + 1) * column_fraction
    return ops.expand_dims(upper * (1 - row_fraction) + lower * row_fraction, -1)


def apply_intensity(images: Any, intensity: Intensity, noise_pool: Any) -> Any:
    """Images (n, h, w, 1) with changed contrast and brightness and noise from `noise_pool`, within [0, 1]."""
    contrast, brightness = (
        ops.expand_dims(_per_image(values), -1) for values in (intensity.contrast, intensity.brightness)
    )
    noise = _noise_like(images, intensity.start, noise_pool) * intensity.noise
    return ops.clip((images - 0.5) * contrast + 0.5 + brightness + noise, 0.0, 1.0)


def erase_rectangle(images: Any, rectangle: ErasedRectangle, start: Any, noise_pool: Any) -> Any:
    """Replace a rectangle of each image by noise (random erasing: Zhong et al., AAAI 2020)."""
    height, width = images.shape[1:3]
    rows = ops.reshape((ops.arange(height, dtype="float32") + 0.5) / height, (1, height, 1))
    columns = ops.reshape((ops.arange(width, dtype="float32") + 0.5) / width, (1, 1, width))
    is_erased = (ops.abs(rows - _per_image(rectangle.down)) < _per_image(rectangle.height) / 2) & (
        ops.abs(columns - _per_image(rectangle.across)) < _per_image(rectangle.width) / 2
    )
    noise = ops.clip(0.5 + 0.25 * _noise_like(images, start, noise_pool), 0.0, 1.0)
    return ops.where(ops.expand_dims(is_erased, -1), noise, images)


def _noise_like(images: Any, start: Any, noise_pool: Any) -> Any:
    """For each image the noise values from its own start on, in its shape."""
    height, width = images.shape[1:3]
    steps = ops.reshape(ops.arange(height * width, dtype="int32"), (1, height, width))
    return ops.expand_dims(ops.take(noise_pool, (_per_image(start) + steps) % NOISE_POOL_SIZE), -1)


def _reflect(positions: Any, size: int) -> Any:
    """Positions reflected at the borders of an image: -1 becomes 0, -2 becomes 1, `size` becomes `size` - 1."""
    wrapped = (positions + 0.5) % (2.0 * size)
    return ops.clip(size - ops.abs(size - wrapped) - 0.5, 0.0, size - 1.0)


def _per_image(values: Any) -> Any:
    return ops.reshape(values, (-1, 1, 1))
