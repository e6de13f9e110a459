"""Trainable batch normalisation gets the statistics of unaugmented slices, without other changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("home")


def averages(network: Any) -> list[np.ndarray]:
    import keras

    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [np.array(value) for layer in layers for value in (layer.moving_mean, layer.moving_variance)]


def test_the_statistics_are_those_of_the_slices(samples: Any) -> None:
    import keras

    from training.network.batch_norm import recompute_statistics
    from training.network.model import build

    network = build(samples.FIT, 3, samples.SIZE)
    pixels = samples.units(20).pixels
    before = [layer.momentum for layer in network.layers if hasattr(layer, "momentum")]
    recompute_statistics(network, pixels)
    first_norm = network.get_layer("conv1_norm")
    maps = np.asarray(keras.Model(network.input, first_norm.input)(pixels))
    assert np.allclose(first_norm.moving_mean, maps.mean(axis=(0, 1, 2)), atol=1e-4)
    assert np.allclose(first_norm.moving_variance, maps.var(axis=(0, 1, 2)), rtol=1e-2)
    assert [layer.momentum for layer in network.layers if hasattr(layer, "momentum")] == before
    recomputed = averages(network)
    recompute_statistics(network, pixels)
    assert all(np.array_equal(value, expected) for value, expected in zip(averages(network), recomputed, strict=True))
    assert np.allclose(np.asarray(network(pixels, training=True)), np.asarray(network(pixels)), atol=1e-2)


def test_frozen_layers_keep_their_statistics(samples: Any) -> None:
    from training.network.batch_norm import recompute_statistics
    from training.network.model import build, set_trainable

    network = build(samples.FIT, 3, samples.SIZE)
    set_trainable(network, "head")
    before = averages(network)
    recompute_statistics(network, samples.units(20).pixels)
    assert all(np.array_equal(value, expected) for value, expected in zip(averages(network), before, strict=True))


def test_statistics_of_a_nested_network_are_recomputed(samples: Any) -> None:
    from training.network.batch_norm import recompute_statistics
    from training.network.model import build

    network = build(replace(samples.FIT, backbone="efficientnetv2b0"), 2, 32)
    (inner,) = [layer for layer in network.layers if hasattr(layer, "layers")]
    before = averages(inner)
    recompute_statistics(network, samples.units(4).pixels)
    changed = [not np.array_equal(value, expected) for value, expected in zip(averages(inner), before, strict=True)]
    assert len(changed) > 50 and all(changed)


def test_a_fitted_network_gives_similar_logits_in_training_and_inference_mode(samples: Any, tmp_path: Path) -> None:
    """Otherwise the statistics would include the noise of the augmentation."""
    from training.fitting import fit
    from training.network import onnx_export

    noisy = replace(samples.FIT, epochs=3, augment=replace(samples.FIT.augment, noise=0.3))
    units = samples.units(60)
    fit.fit(units, samples.TASK, noisy, tmp_path)
    network = onnx_export.rebuild(tmp_path)
    pixels = units.pixels[(units.table["side"] == "training").to_numpy()]
    inference_logits, training_logits = np.asarray(network(pixels)), np.asarray(network(pixels, training=True))
    assert np.abs(inference_logits - training_logits).mean() < 0.1 * np.abs(training_logits).mean()
    assert json.loads((tmp_path / "fit.json").read_text())["epochs"] == 3
