"""Keras layers that the networks are built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

MIN_SPREAD = 0.02  # of the grey range: a smaller local spread is noise and must not be amplified


class Scaled(layers.Layer):  # type: ignore[misc]
    """Grey values times `scale` plus `offset`, one value or one for each channel.

    It replaces keras.layers.Rescaling, which imports TensorFlow on every backend.
    """

    def __init__(self, scale: Sequence[float], offset: Sequence[float]) -> None:
        super().__init__(name="scaled")
        self.scale, self.offset = np.array(scale, np.float32), np.array(offset, np.float32)

    def call(self, pixels: Any) -> Any:
        """Scaled pixels in the shape of the input."""
        return pixels * self.scale + self.offset


class BatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Keras' layer with TensorFlow's fused kernel in training.

    Keras computes the moments in separate operations, which makes a step of a small network a fifth slower.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalised maps (n, h, w, d); updates the moving averages in training unless the layer is frozen."""
        if not (training and self.trainable) or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        maps, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
        )
        for average, batch_value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + batch_value * (1.0 - self.momentum))
        return maps


class LocalContrast(layers.Layer):  # type: ignore[misc]
    """Each pixel minus the mean of a square `window` around it, divided by the window's spread (n, h, w, 1).

    This removes overall brightness and contrast, and most of the effect of a scanner's window (subtractive and divisive
    normalisation: Jarrett et al., ICCV 2009, section 2.1, with a square instead of a Gaussian).
    """

    def __init__(self, window: int) -> None:
        super().__init__(name="local_contrast", dtype="float32")
        self.window = window

    def call(self, pixels: Any) -> Any:
        """Local contrast in the shape of the input; a flat neighbourhood gives 0."""
        deviation = pixels - self._mean(pixels)
        return deviation / (ops.sqrt(self._mean(ops.square(deviation))) + MIN_SPREAD)

    def _mean(self, pixels: Any) -> Any:
        return ops.average_pool(pixels, self.window, 1, padding="same")
