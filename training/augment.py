"""What a network sees while it is fitted: the units in a new order each epoch, as another visit might show them."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.settings import AugmentSettings

ABSENT = -1.0  # everywhere in the mask of a unit without one: no transform changes it


class Feed(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (pixels, labels, weights); with `masks` the pixels come as {"pixels", "masks"}. The order of an epoch
    follows from the seed and its number alone, on every backend, so that an interrupted fit goes on as it would have.
    """

    def __init__(
        self, pixels: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], size: int,
        seed: int, masks: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pixels, self.labels, self.weights = pixels, labels, weights.astype(np.float32)
        self.masks = None if masks is None else np.nan_to_num(masks, nan=ABSENT)
        self.size, self.seed = size, seed
        self.deal(0)

    def deal(self, epoch: int) -> None:
        """Take the order of that epoch (from 0)."""
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.labels))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __getitem__(self, place: int) -> tuple[Any, Any, Any]:
        chosen = self.order[place * self.size : (place + 1) * self.size]
        seen = self.pixels[chosen]
        both = seen if self.masks is None else {"pixels": seen, "masks": self.masks[chosen]}
        return both, self.labels[chosen], self.weights[chosen]


class Augment(keras.layers.Layer):  # type: ignore[misc]
    """Rotation, shift, zoom and mirror in one resampling, then contrast, brightness and noise; each slice its own.

    Takes and gives (n, h, w, 1) in [0, 1]; outside of training it gives what it took. Anatomy is mirrored left to
    right alone: no patient lies upside down. Given masks too, (n, g, g, 1) over the same square, it moves them as it
    moves the pixels, leaves their values alone, and gives both.
    """

    def __init__(self, settings: AugmentSettings, seed: int) -> None:
        super().__init__(name="augment")
        self.settings = settings
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, pixels: Any, masks: Any = None, training: bool = False) -> Any:
        """Augmented pixels in training, else the pixels; a pair with the masks where there are any."""
        if not training:
            return pixels if masks is None else (pixels, masks)
        visit = self._visit(pixels)
        seen = self._grey(_moved(pixels, visit))
        return seen if masks is None else (seen, _moved(masks, visit))

    def compute_output_shape(self, pixels_shape: Any, masks_shape: Any = None) -> Any:
        """The shapes that came in."""
        return pixels_shape if masks_shape is None else (pixels_shape, masks_shape)

    def _visit(self, pixels: Any) -> Any:
        """How each slice lies this time: turn and zoom (four numbers a slice), then shifts as shares of a side."""
        angle = self._uniform(pixels, math.radians(self.settings.rotation))
        zoom = 1.0 + self._uniform(pixels, self.settings.zoom)
        mirror = ops.sign(self._uniform(pixels, 1.0)) if self.settings.flip else ops.ones_like(angle)
        cos, sin = ops.cos(angle) * zoom, ops.sin(angle) * zoom
        across, down = self._uniform(pixels, self.settings.shift), self._uniform(pixels, self.settings.shift)
        return cos * mirror, -sin, sin * mirror, cos, across, down

    def _grey(self, pixels: Any) -> Any:
        contrast = self._wide(1.0 + self._uniform(pixels, self.settings.contrast))
        brightness = self._wide(self._uniform(pixels, self.settings.brightness))
        noise = keras.random.normal(ops.shape(pixels), stddev=self.settings.noise, seed=self.generator)
        return ops.clip((pixels - 0.5) * contrast + 0.5 + brightness + noise, 0.0, 1.0)

    def _uniform(self, pixels: Any, reach: float) -> Any:
        return keras.random.uniform((ops.shape(pixels)[0],), -reach, reach, seed=self.generator)

    def _wide(self, values: Any) -> Any:
        return ops.reshape(values, (-1, 1, 1, 1))


def _moved(pictures: Any, visit: Any) -> Any:
    """Pictures of any size in one resampling. What affine_transform takes leads from an output to an input position."""
    height, width = pictures.shape[1:3]
    x, y = (width - 1) / 2, (height - 1) / 2
    a, b, d, e, across, down = visit
    across, down, nought = x + across * width, y + down * height, ops.zeros_like(a)
    rows = ops.stack([a, b, across - a * x - b * y, d, e, down - d * x - e * y, nought, nought], axis=1)
    return ops.image.affine_transform(pictures, rows, interpolation="bilinear", fill_mode="reflect")
