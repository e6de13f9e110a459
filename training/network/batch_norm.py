"""Batch normalisation statistics, recomputed on slices without augmentation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

MAX_UNITS = 256  # enough: each layer's mean and variance are over thousands of positions


class RecomputeStatistics(keras.callbacks.Callback):  # type: ignore[misc]
    """Recomputes the statistics before every validation, so that the validation loss is of the stored weights."""

    def __init__(self, network: Any, pixels: NDArray[np.float32]) -> None:
        super().__init__()
        self.network, self.pixels = network, pixels

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """Recompute the statistics (see the class)."""
        recompute_statistics(self.network, self.pixels)


def recompute_statistics(network: Any, pixels: NDArray[np.float32]) -> None:
    """Set the statistics of every trainable batch normalisation from these slices (n, h, w, 1), in one pass.

    In training a network normalises each batch by its own statistics; in use by averages over the training batches.
    Those batches are augmented. If augmentation changes the texture, the averages do not fit unaugmented slices, and
    validation loss and answers get worse (train-test discrepancy: Touvron et al., NeurIPS 2019; recomputed statistics:
    Wu and Johnson, arXiv:2105.07576, section 3).
    """
    trainable_layers = [layer for layer in _batch_norm_layers(network) if layer.trainable]
    momenta = [layer.momentum for layer in trainable_layers]
    try:
        for layer in trainable_layers:
            layer.momentum = 0.0
        network(pixels, training=True)
    finally:
        for layer, momentum in zip(trainable_layers, momenta, strict=True):
            layer.momentum = momentum


def _batch_norm_layers(network: Any) -> list[Any]:
    """The batch normalisation layers of a network and of the networks nested in it."""
    inner_networks = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    outer_layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return outer_layers + [layer for inner_network in inner_networks for layer in _batch_norm_layers(inner_network)]
