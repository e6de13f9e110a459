"""Batch normalisation takes the statistics of slices as they are, where it learns, and the fit goes on untouched."""

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

    found = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [np.array(value) for layer in found for value in (layer.moving_mean, layer.moving_variance)]


def test_the_statistics_are_those_of_the_slices(samples: Any) -> None:
    import keras

    from training.network.batch_norm import recount
    from training.network.model import build

    network = build(samples.FIT, 3, samples.SIZE)
    pixels = samples.units(20).pixels
    before = [layer.momentum for layer in network.layers if hasattr(layer, "momentum")]
    recount(network, pixels)
    first = network.get_layer("conv1_norm")
    maps = np.asarray(keras.Model(network.input, first.input)(pixels))
    assert np.allclose(first.moving_mean, maps.mean(axis=(0, 1, 2)), atol=1e-4)
    assert np.allclose(first.moving_variance, maps.var(axis=(0, 1, 2)), rtol=1e-2)
    assert [layer.momentum for layer in network.layers if hasattr(layer, "momentum")] == before
    recounted = averages(network)
    recount(network, pixels)
    assert all(np.array_equal(one, other) for one, other in zip(averages(network), recounted, strict=True))
    assert np.allclose(np.asarray(network(pixels, training=True)), np.asarray(network(pixels)), atol=1e-2)


def test_what_is_frozen_keeps_its_own(samples: Any) -> None:
    from training.network.batch_norm import recount
    from training.network.model import build, freeze

    network = build(samples.FIT, 3, samples.SIZE)
    freeze(network, "head")
    before = averages(network)
    recount(network, samples.units(20).pixels)
    assert all(np.array_equal(one, other) for one, other in zip(averages(network), before, strict=True))


def test_those_of_a_network_within_are_found(samples: Any) -> None:
    from training.network.batch_norm import recount
    from training.network.model import build

    network = build(replace(samples.FIT, backbone="efficientnetv2b0"), 2, 32)
    (inner,) = [layer for layer in network.layers if hasattr(layer, "layers")]
    before = averages(inner)
    recount(network, samples.units(4).pixels)
    changed = [not np.array_equal(one, other) for one, other in zip(averages(inner), before, strict=True)]
    assert len(changed) > 50 and all(changed)


def test_a_fitted_network_is_as_sure_of_a_slice_as_its_batch_makes_it(samples: Any, tmp_path: Path) -> None:
    """Noise that only augmentation brings would else be taken for what every slice has."""
    from training.fitting import fit
    from training.network import onnx_export

    noisy = replace(samples.FIT, epochs=3, augment=replace(samples.FIT.augment, noise=0.3))
    units = samples.units(60)
    fit.fit(units, samples.TASK, noisy, tmp_path)
    network = onnx_export.rebuild(tmp_path)
    pixels = units.pixels[(units.table["side"] == "training").to_numpy()]
    alone, together = np.asarray(network(pixels)), np.asarray(network(pixels, training=True))
    assert np.abs(alone - together).mean() < 0.1 * np.abs(together).mean()
    assert json.loads((tmp_path / "fit.json").read_text())["epochs"] == 3
