"""Batches of training units in a new order each epoch, and the augmentation layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.fitting import image_transforms
from training.fitting.sampling import Positions, fill_batches
from training.settings import AugmentSettings

# of the units of an epoch: pixels (n, h, w, 1), labels (n), weights (n) and masks (n, g, g, 1)
EpochData = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[Any], NDArray[np.float32] | None]
ABSENT = -1.0  # fills the mask of a unit without one: no transform changes it


class Feed(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (pixels, labels, weights), all of one size; with `masks` the pixels become {"pixels", "masks"}.

    `draw` gives the positions of an epoch's units (by default every unit once, shuffled by `seed`). The last batch is
    filled with the first units. `show`, if any, gives the data of an epoch. All depends only on the seed and the
    epoch's number, on every backend, so that a resumed fit equals an uninterrupted one.
    """

    def __init__(
        self,
        pixels: NDArray[np.float32],
        labels: NDArray[np.int64],
        weights: NDArray[np.float64],
        size: int,
        seed: int,
        masks: NDArray[np.float32] | None = None,
        draw: Callable[[int], Positions] | None = None,
        show: Callable[[int], EpochData] | None = None,
    ) -> None:
        super().__init__()
        self.size, self.show = size, show
        self._set_units((pixels, labels, weights, masks))
        self.tensors: dict[str, Any] = {}  # TensorFlow's copies, once it feeds a fit
        self.draw = draw or (lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(labels)))
        self.deal(0)

    def deal(self, epoch: int) -> None:
        """Set the order and the data of that epoch (from 0)."""
        self.order = fill_batches(self.draw(epoch), self.size)
        if self.show is not None:
            self._set_units(self.show(epoch))
        for name in self.tensors:
            if name == "order" or self.show is not None:
                self.tensors[name].assign(getattr(self, name))

    def _set_units(self, units: EpochData) -> None:
        pixels, labels, weights, masks = units
        self.pixels, self.labels, self.weights = pixels, labels, weights.astype(np.float32)
        self.masks = None if masks is None else np.nan_to_num(masks, nan=ABSENT)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __getitem__(self, batch_number: int) -> tuple[Any, Any, Any]:
        positions = self.order[batch_number * self.size : (batch_number + 1) * self.size]
        return self._batch(lambda name: getattr(self, name)[positions])

    def source(self) -> Any:
        """The input of Keras' `fit`: on TensorFlow a tf.data pipeline with the same batches, else this feed."""
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        with tf.device("cpu"):
            for name in ("order", "pixels", "labels", "weights", "masks"):
                array = getattr(self, name)
                if array is not None:
                    make_tensor = tf.Variable if name == "order" or self.show is not None else tf.constant
                    self.tensors[name] = make_tensor(array)

        def batch(batch_number: Any) -> Any:
            positions = self.tensors["order"][batch_number * self.size : (batch_number + 1) * self.size]
            positions = tf.ensure_shape(positions, (self.size,))
            return self._batch(lambda name: tf.gather(self.tensors[name], positions))

        return tf.data.Dataset.range(len(self)).map(batch).prefetch(2)

    def _batch(self, gather: Callable[[str], Any]) -> tuple[Any, Any, Any]:
        pixels = gather("pixels")
        inputs = pixels if self.masks is None else {"pixels": pixels, "masks": gather("masks")}
        return inputs, gather("labels"), gather("weights")


class Augment(keras.layers.Layer):  # type: ignore[misc]
    """Rotation, shift, zoom and mirror in one resampling, then contrast, brightness and noise, drawn for each slice.

    Pixels are (n, h, w, 1) in [0, 1], before and after; outside of training they pass unchanged. The mirror is left to
    right only, because no patient is scanned upside down. A share of the slices then loses a rectangle. Masks
    (n, g, g, 1) over the same square are resampled like the pixels, without changes of intensity, and returned too.
    """

    def __init__(self, settings: AugmentSettings, seed: int) -> None:
        super().__init__(name="augment")
        self.settings = settings
        self.generator = keras.random.SeedGenerator(seed)
        self.noise_pool = image_transforms.draw_noise_pool(seed)

    def call(self, pixels: Any, masks: Any = None, training: bool = False) -> Any:
        """Augmented pixels in training, else the pixels; with masks a pair of both."""
        if not training:
            return pixels if masks is None else (pixels, masks)
        affine = self._draw_affine(pixels)
        intensity = self._draw_intensity(pixels)
        rectangle = self._draw_rectangle(pixels)

        def transform(pixels: Any, masks: Any) -> Any:
            resampled = image_transforms.apply_affine(pixels, affine)
            augmented = image_transforms.apply_intensity(resampled, intensity, self.noise_pool)
            if rectangle is not None:
                augmented = image_transforms.erase_rectangle(augmented, rectangle, intensity.start, self.noise_pool)
            return augmented if masks is None else (augmented, image_transforms.apply_affine(masks, affine))

        return _compile_with_xla(transform)(pixels, masks)

    def compute_output_shape(self, pixels_shape: Any, masks_shape: Any = None) -> Any:
        """The shapes of the inputs."""
        return pixels_shape if masks_shape is None else (pixels_shape, masks_shape)

    def _draw_affine(self, pixels: Any) -> Any:
        """The affine transform of each slice: a 2 × 2 matrix (four values), then shifts as shares of a side."""
        rotation, zoom_share, mirror_draw, across, down = self._draw_uniform(pixels, 5)
        angle, zoom = rotation * math.radians(self.settings.rotation), 1.0 + zoom_share * self.settings.zoom
        mirror = ops.where(mirror_draw < 0, -1.0, 1.0) if self.settings.flip else ops.ones_like(angle)
        cos, sin = ops.cos(angle) * zoom, ops.sin(angle) * zoom
        return cos * mirror, -sin, sin * mirror, cos, across * self.settings.shift, down * self.settings.shift

    def _draw_intensity(self, pixels: Any) -> image_transforms.Intensity:
        contrast, brightness, offset = self._draw_uniform(pixels, 3)
        noise_start = ops.cast((offset + 1) / 2 * image_transforms.NOISE_POOL_SIZE, "int32")
        settings = self.settings
        return image_transforms.Intensity(
            1.0 + contrast * settings.contrast, brightness * settings.brightness, noise_start, settings.noise
        )

    def _draw_rectangle(self, pixels: Any) -> image_transforms.ErasedRectangle | None:
        """A rectangle of 2 to 20 % of the image with sides of at most 1 : 3; empty for slices that lose none."""
        if not self.settings.erase:
            return None
        probability, size, aspect, across, down = (number / 2 + 0.5 for number in self._draw_uniform(pixels, 5))
        side = ops.sqrt(0.02 + 0.18 * size) * ops.cast(probability < self.settings.erase, "float32")
        longer = ops.exp((aspect - 0.5) * math.log(3.0))
        return image_transforms.ErasedRectangle(across, down, side * longer, side / longer)

    def _draw_uniform(self, pixels: Any, count: int) -> list[Any]:
        """`count` uniform numbers in [-1, 1) for each image."""
        numbers = keras.random.uniform((count, ops.shape(pixels)[0]), -1.0, 1.0, seed=self.generator)
        return [numbers[row] for row in range(count)]


def _compile_with_xla(transform: Any) -> Any:
    """Compile the transform into one loop over the pixels on TensorFlow; JAX compiles the whole step anyway."""
    if keras.backend.backend() != "tensorflow":
        return transform
    import tensorflow as tf

    return tf.function(transform, jit_compile=True, autograph=False)
