"""What a network sees while it is fitted: the units in a new order each epoch, as another visit might show them."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.settings import AugmentSettings


class Feed(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (pixels, labels, weights). The order of an epoch follows from the seed and its number alone, on every
    backend, so that an interrupted fit goes on as it would have."""

    def __init__(
        self, pixels: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], size: int, seed: int
    ) -> None:
        super().__init__()
        self.pixels, self.labels, self.weights = pixels, labels, weights.astype(np.float32)
        self.size, self.seed = size, seed
        self.deal(0)

    def deal(self, epoch: int) -> None:
        """Take the order of that epoch (from 0)."""
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.labels))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __getitem__(self, place: int) -> tuple[Any, Any, Any]:
        chosen = self.order[place * self.size : (place + 1) * self.size]
        return self.pixels[chosen], self.labels[chosen], self.weights[chosen]


class Augment(keras.layers.Layer):  # type: ignore[misc]
    """Rotation, shift, zoom and mirror in one resampling, then contrast, brightness and noise; each slice its own.

    Takes and gives (n, h, w, 1) in [0, 1]; outside of training it gives what it took. Anatomy is mirrored left to
    right alone: no patient lies upside down.
    """

    def __init__(self, settings: AugmentSettings, seed: int) -> None:
        super().__init__(name="augment")
        self.settings = settings
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Augmented pixels in training, else the pixels."""
        if not training:
            return pixels
        moved = ops.image.affine_transform(
            pixels, self._transforms(pixels), interpolation="bilinear", fill_mode="reflect"
        )
        return self._grey(moved)

    def compute_output_shape(self, shape: Any) -> Any:
        """The shape that came in."""
        return shape

    def _transforms(self, pixels: Any) -> Any:
        """Rows of eight, as keras.ops.image.affine_transform takes them: output position to input position."""
        height, width = pixels.shape[1:3]
        angle = self._uniform(pixels, math.radians(self.settings.rotation))
        zoom = 1.0 + self._uniform(pixels, self.settings.zoom)
        mirror = ops.sign(self._uniform(pixels, 1.0)) if self.settings.flip else ops.ones_like(angle)
        cos, sin = ops.cos(angle) * zoom, ops.sin(angle) * zoom
        x, y = (width - 1) / 2, (height - 1) / 2
        across = x + self._uniform(pixels, self.settings.shift) * width
        down = y + self._uniform(pixels, self.settings.shift) * height
        a, b, d, e = cos * mirror, -sin, sin * mirror, cos
        nought = ops.zeros_like(angle)
        return ops.stack([a, b, across - a * x - b * y, d, e, down - d * x - e * y, nought, nought], axis=1)

    def _grey(self, pixels: Any) -> Any:
        contrast = self._wide(1.0 + self._uniform(pixels, self.settings.contrast))
        brightness = self._wide(self._uniform(pixels, self.settings.brightness))
        noise = keras.random.normal(ops.shape(pixels), stddev=self.settings.noise, seed=self.generator)
        return ops.clip((pixels - 0.5) * contrast + 0.5 + brightness + noise, 0.0, 1.0)

    def _uniform(self, pixels: Any, reach: float) -> Any:
        return keras.random.uniform((ops.shape(pixels)[0],), -reach, reach, seed=self.generator)

    def _wide(self, values: Any) -> Any:
        return ops.reshape(values, (-1, 1, 1, 1))
