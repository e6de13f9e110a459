"""What a network sees while it is fitted: the units in a new order each epoch, as another visit might show them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.fitting import image_transforms
from training.fitting.sampling import Places, full
from training.settings import AugmentSettings

# pixels (n, h, w, 1), labels (n), weights (n) and masks (n, g, g, 1) of the units of an epoch
Shown = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[Any], NDArray[np.float32] | None]
ABSENT = -1.0  # everywhere in the mask of a unit without one: no transform changes it


class Feed(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (pixels, labels, weights), all of one size; with `masks` the pixels come as {"pixels", "masks"}.

    `draw` says which units an epoch shows (by default each once, by `seed`), and a last batch is filled up from the
    first; `show`, where given, what they are in that epoch. All of it follows from the seed and the epoch's number
    alone, on every backend, so that an interrupted fit goes on as it would have.
    """

    def __init__(
        self,
        pixels: NDArray[np.float32],
        labels: NDArray[np.int64],
        weights: NDArray[np.float64],
        size: int,
        seed: int,
        masks: NDArray[np.float32] | None = None,
        draw: Callable[[int], Places] | None = None,
        show: Callable[[int], Shown] | None = None,
    ) -> None:
        super().__init__()
        self.size, self.show = size, show
        self._take((pixels, labels, weights, masks))
        self.held: dict[str, Any] = {}  # what TensorFlow holds of it, once it feeds a fit
        self.draw = draw or (lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(labels)))
        self.deal(0)

    def deal(self, epoch: int) -> None:
        """Take the order of that epoch (from 0), and what it shows."""
        self.order = full(self.draw(epoch), self.size)
        if self.show is not None:
            self._take(self.show(epoch))
        for name in self.held:
            if name == "order" or self.show is not None:
                self.held[name].assign(getattr(self, name))

    def _take(self, shown: Shown) -> None:
        pixels, labels, weights, masks = shown
        self.pixels, self.labels, self.weights = pixels, labels, weights.astype(np.float32)
        self.masks = None if masks is None else np.nan_to_num(masks, nan=ABSENT)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __getitem__(self, place: int) -> tuple[Any, Any, Any]:
        chosen = self.order[place * self.size : (place + 1) * self.size]
        return self._batch(lambda name: getattr(self, name)[chosen])

    def source(self) -> Any:
        """What `fit` of Keras takes: on TensorFlow the same batches put together without Python, else this feed."""
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        with tf.device("cpu"):
            for name in ("order", "pixels", "labels", "weights", "masks"):
                whole = getattr(self, name)
                if whole is not None:
                    kept = tf.Variable if name == "order" or self.show is not None else tf.constant
                    self.held[name] = kept(whole)

        def batch(place: Any) -> Any:
            chosen = self.held["order"][place * self.size : (place + 1) * self.size]
            chosen = tf.ensure_shape(chosen, (self.size,))
            return self._batch(lambda name: tf.gather(self.held[name], chosen))

        return tf.data.Dataset.range(len(self)).map(batch).prefetch(2)

    def _batch(self, take: Callable[[str], Any]) -> tuple[Any, Any, Any]:
        seen = take("pixels")
        both = seen if self.masks is None else {"pixels": seen, "masks": take("masks")}
        return both, take("labels"), take("weights")


class Augment(keras.layers.Layer):  # type: ignore[misc]
    """Rotation, shift, zoom and mirror in one resampling, then contrast, brightness and noise; each slice its own.

    Takes and gives (n, h, w, 1) in [0, 1]; outside of training it gives what it took. Anatomy is mirrored left to
    right alone: no patient lies upside down. A share of the slices then loses a rectangle. Given masks too,
    (n, g, g, 1) over the same square, it moves them as it moves the pixels, leaves their values alone, and gives both.
    """

    def __init__(self, settings: AugmentSettings, seed: int) -> None:
        super().__init__(name="augment")
        self.settings = settings
        self.generator = keras.random.SeedGenerator(seed)
        self.grains = image_transforms.grains(seed)

    def call(self, pixels: Any, masks: Any = None, training: bool = False) -> Any:
        """Augmented pixels in training, else the pixels; a pair with the masks where there are any."""
        if not training:
            return pixels if masks is None else (pixels, masks)
        lie, light, patch = self._lie(pixels), self._light(pixels), self._patch(pixels)

        def look(pixels: Any, masks: Any) -> Any:
            seen = image_transforms.lit(image_transforms.moved(pixels, lie), light, self.grains)
            seen = seen if patch is None else image_transforms.hidden(seen, patch, light.start, self.grains)
            return seen if masks is None else (seen, image_transforms.moved(masks, lie))

        return _fused(look)(pixels, masks)

    def compute_output_shape(self, pixels_shape: Any, masks_shape: Any = None) -> Any:
        """The shapes that came in."""
        return pixels_shape if masks_shape is None else (pixels_shape, masks_shape)

    def _lie(self, pixels: Any) -> Any:
        """How each slice lies this time: turn and zoom (four numbers a slice), then shifts as shares of a side."""
        turn, wide, side, across, down = self._dice(pixels, 5)
        angle, zoom = turn * math.radians(self.settings.rotation), 1.0 + wide * self.settings.zoom
        mirror = ops.where(side < 0, -1.0, 1.0) if self.settings.flip else ops.ones_like(angle)
        cos, sin = ops.cos(angle) * zoom, ops.sin(angle) * zoom
        return cos * mirror, -sin, sin * mirror, cos, across * self.settings.shift, down * self.settings.shift

    def _light(self, pixels: Any) -> image_transforms.Light:
        contrast, brightness, start = self._dice(pixels, 3)
        begin = ops.cast((start + 1) / 2 * image_transforms.GRAINS, "int32")
        told = self.settings
        return image_transforms.Light(1.0 + contrast * told.contrast, brightness * told.brightness, begin, told.noise)

    def _patch(self, pixels: Any) -> image_transforms.Patch | None:
        """A rectangle of 2 to 20 % of the picture, its sides at most 1 : 3, for the share that loses one."""
        if not self.settings.erase:
            return None
        chance, size, form, across, down = (part / 2 + 0.5 for part in self._dice(pixels, 5))
        side = ops.sqrt(0.02 + 0.18 * size) * ops.cast(chance < self.settings.erase, "float32")
        longer = ops.exp((form - 0.5) * math.log(3.0))
        return image_transforms.Patch(across, down, side * longer, side / longer)

    def _dice(self, pixels: Any, count: int) -> list[Any]:
        """`count` numbers for each picture, from -1 to 1."""
        drawn = keras.random.uniform((count, ops.shape(pixels)[0]), -1.0, 1.0, seed=self.generator)
        return [drawn[place] for place in range(count)]


def _fused(look: Any) -> Any:
    """The same arithmetic in one compiled loop over the pixels. JAX compiles a whole step at once anyway."""
    if keras.backend.backend() != "tensorflow":
        return look
    import tensorflow as tf

    return tf.function(look, jit_compile=True, autograph=False)
