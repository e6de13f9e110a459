"""The networks: pooling and one linear layer at the end; unusable weights give one clear error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineage.errors import Fault

pytestmark = pytest.mark.usefixtures("home")


def test_logits_are_linear_in_the_pooled_features(samples: Any, trained: Any) -> None:
    from training.network.model import with_features
    from training.network.onnx_export import rebuild

    network = rebuild(trained.models)
    outputs = with_features(network)(trained.units.pixels[:4])
    logits, features = np.asarray(outputs["logits"]), np.asarray(outputs["features"])
    kernel, bias = network.get_layer("logits").get_weights()
    assert features.shape[1:3] == (samples.SIZE // 8, samples.SIZE // 8)
    assert np.allclose(features.mean(axis=(1, 2)) @ kernel + bias, logits, atol=1e-5)


def test_resnet50_has_the_same_inputs_and_outputs(samples: Any) -> None:
    from training.network.model import build

    network = build(replace(samples.FIT, backbone="resnet50"), 2, 64)
    assert network.input_shape == (None, 64, 64, 1)
    assert network.get_layer("features").output.shape == (None, 2, 2, 2048)
    assert network.get_layer("logits").get_weights()[0].shape == (2048, 2)


def test_an_unknown_backbone_is_refused(samples: Any) -> None:
    from training.network.model import build

    with pytest.raises(Fault, match=r"'resnet9000' is unknown: use one of small"):
        build(replace(samples.FIT, backbone="resnet9000"), 2, 32)


def test_weights_are_loaded_from_a_matching_file(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.network.model import build
    from training.network.onnx_export import rebuild

    path = str(trained.models / "weights.weights.h5")
    network = build(replace(samples.FIT, weights=path), 3, samples.SIZE)
    for loaded, expected in zip(network.get_weights(), rebuild(trained.models).get_weights(), strict=True):
        assert np.array_equal(loaded, expected)
    with pytest.raises(Fault, match="do not fit small"):
        build(replace(samples.FIT, weights=path), 2, samples.SIZE)
    with pytest.raises(Fault, match="is no file"):
        build(replace(samples.FIT, weights=str(tmp_path / "absent.h5")), 3, samples.SIZE)


def test_bfloat16_computes_in_it_and_exports_float32(samples: Any, tmp_path: Path) -> None:
    import keras

    from training.fitting import fit
    from training.network.model import build

    network = build(replace(samples.FIT, precision="bfloat16"), 3, samples.SIZE)
    assert {layer.compute_dtype for layer in network.layers if layer.name.startswith("conv")} == {"bfloat16"}
    assert {variable.dtype for variable in network.variables} == {"float32"}
    assert network.output.dtype == network.get_layer("features").output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32", "later layers keep float32"
    report = fit.fit(samples.units(), samples.TASK, replace(samples.FIT, precision="bfloat16"), tmp_path / "models")
    assert report.settings["precision"] == "bfloat16" and report.parity is not None and report.parity < 1e-4
    with pytest.raises(Fault, match="'float8' is unknown: use one of float32, bfloat16"):
        build(replace(samples.FIT, precision="float8"), 3, samples.SIZE)


def test_the_ordered_loss_is_the_squared_distance_of_cumulative_probabilities(samples: Any) -> None:
    from training.network.model import loss

    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 3, 0])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = ((np.cumsum(probabilities, axis=1) - np.cumsum(np.eye(4)[labels], axis=1)) ** 2).mean(axis=1)
    assert np.allclose(loss(ordered=True)(labels, logits), expected, atol=1e-6)
    certain = 20 * np.eye(4, dtype=np.float32)
    distances = np.asarray(loss(ordered=True)(np.zeros(4, int), certain))
    assert np.allclose(distances, [0, 0.25, 0.5, 0.75], atol=1e-4), "the loss grows with the number of steps"


def test_an_ordered_task_uses_the_ordered_loss(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    ordered = replace(samples.TASK, ordered=True)
    report = fit.fit(samples.units(), ordered, replace(samples.FIT, epochs=2), tmp_path / "models")
    assert report.best_validation_loss < 0.3  # a mean of squares below 1; cross-entropy would start at 1.1
    assert (
        report.weights_sha256
        != fit.fit(samples.units(), samples.TASK, replace(samples.FIT, epochs=2), tmp_path / "plain").weights_sha256
    )


def test_local_contrast_ignores_brightness_and_contrast(home: Any) -> None:
    from training.network.layers import LocalContrast

    image = np.random.default_rng(0).uniform(0.2, 0.6, (1, 24, 24, 1)).astype(np.float32)
    contrast = np.asarray(LocalContrast(7)(image))
    neighbourhood = image[0, 5:12, 5:12, 0]
    means = np.array([[image[0, y - 3 : y + 4, x - 3 : x + 4, 0].mean() for x in range(5, 12)] for y in range(5, 12)])
    spread = np.sqrt(np.mean(np.square(neighbourhood - means)))
    assert contrast[0, 8, 8, 0] == pytest.approx((neighbourhood - means)[3, 3] / (spread + 0.02), abs=1e-4)
    assert np.abs(np.asarray(LocalContrast(7)(image + 0.3)) - contrast).max() < 1e-4
    assert np.abs(np.asarray(LocalContrast(7)(1.5 * image)) - contrast).max() < 0.25 * np.abs(contrast).max()
    assert not np.asarray(LocalContrast(7)(np.full((1, 9, 9, 1), 0.5, np.float32))).any()


def test_local_contrast_is_fitted_and_exported(samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    units = samples.units(60)
    report = fit.fit(units, samples.TASK, replace(samples.FIT, epochs=1, local_contrast=5), tmp_path)
    assert report.parity is not None and report.parity < 1e-4


@pytest.mark.parametrize(("backbone", "window"), [("small", 4), ("small", 1), ("small", 33), ("resnet50", 5)])
def test_an_impossible_window_is_refused(samples: Any, backbone: str, window: int) -> None:
    from training.network.model import build

    with pytest.raises(Fault, match=rf"fit\.local_contrast {window} must be 0"):
        build(replace(samples.FIT, backbone=backbone, local_contrast=window), 2, 32)
