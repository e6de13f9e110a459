"""Layers of our own, of which the networks are built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

FAINT = 0.02  # of the grey range: a local spread below it is noise, and is not blown up


class Scaled(layers.Layer):  # type: ignore[misc]
    """Grey values times `scale` plus `offset`, one of each or one a channel. (keras.layers.Rescaling asks TensorFlow
    what it runs in, on every backend.)"""

    def __init__(self, scale: Sequence[float], offset: Sequence[float]) -> None:
        super().__init__(name="scaled")
        self.scale, self.offset = np.array(scale, np.float32), np.array(offset, np.float32)

    def call(self, pixels: Any) -> Any:
        """Scaled pixels, of the shape that came in."""
        return pixels * self.scale + self.offset


class BatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Keras' own layer, but fitted by one kernel each way where TensorFlow has one. (Keras spells the moments out, and
    the step of a small network is then a fifth longer.)"""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalised maps (n, h, w, d); the moving averages follow while it is fitted and not frozen."""
        if not (training and self.trainable) or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        maps, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
        )
        for kept, fresh in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept.assign(kept * self.momentum + fresh * (1.0 - self.momentum))
        return maps


class LocalContrast(layers.Layer):  # type: ignore[misc]
    """Each pixel against its surroundings: less their mean, by their spread (n, h, w, 1), over a square `window`.

    Brightness and contrast of the whole then say nothing, and a scanner's window less (subtractive and divisive
    normalisation: Jarrett et al., ICCV 2009, section 2.1, with a square in place of a Gaussian).
    """

    def __init__(self, window: int) -> None:
        super().__init__(name="local_contrast", dtype="float32")
        self.window = window

    def call(self, pixels: Any) -> Any:
        """Of the shape that came in; flat surroundings give 0."""
        apart = pixels - self._mean(pixels)
        return apart / (ops.sqrt(self._mean(ops.square(apart))) + FAINT)

    def _mean(self, pixels: Any) -> Any:
        return ops.average_pool(pixels, self.window, 1, padding="same")
