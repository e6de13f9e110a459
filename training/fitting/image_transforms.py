"""A slice as another visit might show it: resampled, in another light, noisy, partly hidden. Plain array arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

GRAINS = 1 << 18  # of noise, dealt once: a picture takes a run of them from a place of its own


@dataclass(frozen=True)
class Light:
    """Contrast and brightness (n), where each picture's noise begins among the grains (n), and how strong it is."""

    contrast: Any
    brightness: Any
    start: Any
    noise: float


@dataclass(frozen=True)
class Patch:
    """A rectangle in each picture: its middle and its sides as shares of the picture's (n each); no sides, no patch."""

    across: Any
    down: Any
    width: Any
    height: Any


def grains(seed: int) -> NDArray[np.float32]:
    """Standard normal numbers (GRAINS). Drawing one for each pixel of each visit would take longer than the rest."""
    return np.random.default_rng(seed).standard_normal(GRAINS, np.float32)


def moved(pictures: Any, lie: Any) -> Any:
    """Pictures (n, h, w, 1) in one bilinear resampling, mirrored at their borders.

    `lie` leads from an output to an input position about the middle: a, b, d, e of [[a, b], [d, e]], then the shifts
    across and down as shares of a side, (n) each.
    """
    height, width = pictures.shape[1:3]
    a, b, d, e, across, down = (_wide(part) for part in lie)
    rows = ops.reshape(ops.arange(height, dtype="float32"), (1, height, 1)) - (height - 1) / 2
    columns = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, width)) - (width - 1) / 2
    x = _inside(a * columns + b * rows + (width - 1) / 2 + across * width, width)
    y = _inside(d * columns + e * rows + (height - 1) / 2 + down * height, height)
    left, top = (ops.minimum(ops.floor(at), float(side - 2)) for at, side in ((x, width), (y, height)))
    right, low = x - left, y - top
    count = ops.shape(pictures)[0]
    first = ops.reshape(ops.arange(count, dtype="int32") * (height * width), (-1, 1, 1))
    corner = first + ops.cast(top * width + left, "int32")
    flat = ops.reshape(pictures, (-1,))
    above = ops.take(flat, corner) * (1 - right) + ops.take(flat, corner + 1) * right
    below = ops.take(flat, corner + width) * (1 - right) + ops.take(flat, corner + width + 1) * right
    return ops.expand_dims(above * (1 - low) + below * low, -1)


def lit(pictures: Any, light: Light, dealt: Any) -> Any:
    """Pictures (n, h, w, 1) in that light, with noise of the `dealt` grains, within [0, 1]."""
    contrast, brightness = (ops.expand_dims(_wide(part), -1) for part in (light.contrast, light.brightness))
    noise = _run(pictures, light.start, dealt) * light.noise
    return ops.clip((pictures - 0.5) * contrast + 0.5 + brightness + noise, 0.0, 1.0)


def hidden(pictures: Any, patch: Patch, start: Any, dealt: Any) -> Any:
    """Pictures with a rectangle of noise in place of what was there (random erasing: Zhong et al., AAAI 2020)."""
    height, width = pictures.shape[1:3]
    rows = ops.reshape((ops.arange(height, dtype="float32") + 0.5) / height, (1, height, 1))
    columns = ops.reshape((ops.arange(width, dtype="float32") + 0.5) / width, (1, 1, width))
    within = (ops.abs(rows - _wide(patch.down)) < _wide(patch.height) / 2) & (
        ops.abs(columns - _wide(patch.across)) < _wide(patch.width) / 2
    )
    noise = ops.clip(0.5 + 0.25 * _run(pictures, start, dealt), 0.0, 1.0)
    return ops.where(ops.expand_dims(within, -1), noise, pictures)


def _run(pictures: Any, start: Any, dealt: Any) -> Any:
    """For each picture the grains from its own start on, in its shape."""
    height, width = pictures.shape[1:3]
    steps = ops.reshape(ops.arange(height * width, dtype="int32"), (1, height, width))
    return ops.expand_dims(ops.take(dealt, (_wide(start) + steps) % GRAINS), -1)


def _inside(positions: Any, side: int) -> Any:
    """Positions mirrored at the borders of a picture: -1 is 0, -2 is 1, `side` is `side` - 1."""
    turned = (positions + 0.5) % (2.0 * side)
    return ops.clip(side - ops.abs(side - turned) - 0.5, 0.0, side - 1.0)


def _wide(values: Any) -> Any:
    return ops.reshape(values, (-1, 1, 1))
