"""Batch normalisation as a network meets it in use: its statistics are of slices as they are, not as augmented.

While it is fitted, a network normalises each batch by itself; in use by averages over the batches of the fit, whose
slices were resampled, turned and lit anew. Where that changes their texture, the averages do not fit a slice that was
left alone, and neither the validation loss nor an answer is what the weights could give. (The discrepancy: Touvron et
al., NeurIPS 2019. Statistics counted anew after fitting: Wu and Johnson, arXiv:2105.07576, section 3.)
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

UNITS = 256  # at most: each layer's mean and variance are then over thousands of positions


class Recount(keras.callbacks.Callback):  # type: ignore[misc]
    """Counts the statistics anew before every validation, so that what is judged is what will be kept."""

    def __init__(self, network: Any, pixels: NDArray[np.float32]) -> None:
        super().__init__()
        self.network, self.pixels = network, pixels

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """See the class."""
        recount(self.network, self.pixels)


def recount(network: Any, pixels: NDArray[np.float32]) -> None:
    """Let every batch normalisation that learns take the statistics of these slices (n, h, w, 1), in one pass."""
    learning = [layer for layer in _every(network) if layer.trainable]
    before = [layer.momentum for layer in learning]
    try:
        for layer in learning:
            layer.momentum = 0.0
        network(pixels, training=True)
    finally:
        for layer, momentum in zip(learning, before, strict=True):
            layer.momentum = momentum


def _every(network: Any) -> list[Any]:
    """The batch normalisations of a network and of those within it."""
    inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    own = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return own + [layer for part in inner for layer in _every(part)]
