"""The networks: every one ends in pooling and one linear layer; weights that can't be had are told in one sentence."""

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


def test_resnet50_has_the_same_ends(samples: Any) -> None:
    from training.network.model import build

    network = build(replace(samples.FIT, backbone="resnet50"), 2, 64)
    assert network.input_shape == (None, 64, 64, 1)
    assert network.get_layer("features").output.shape == (None, 2, 2, 2048)
    assert network.get_layer("logits").get_weights()[0].shape == (2048, 2)


def test_an_unknown_backbone_is_named(samples: Any) -> None:
    from training.network.model import build

    with pytest.raises(Fault, match=r"'resnet9000' is unknown: use one of small"):
        build(replace(samples.FIT, backbone="resnet9000"), 2, 32)


def test_weights_come_from_a_file_that_fits(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.network.model import build
    from training.network.onnx_export import rebuild

    path = str(trained.models / "weights.weights.h5")
    warm = build(replace(samples.FIT, weights=path), 3, samples.SIZE)
    for mine, theirs in zip(warm.get_weights(), rebuild(trained.models).get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
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
    assert keras.config.dtype_policy().name == "float32", "what is built next is not touched"
    report = fit.fit(samples.units(), samples.TASK, replace(samples.FIT, precision="bfloat16"), tmp_path / "models")
    assert report.settings["precision"] == "bfloat16" and report.parity is not None and report.parity < 1e-4
    with pytest.raises(Fault, match="'float8' is unknown: use one of float32, bfloat16"):
        build(replace(samples.FIT, precision="float8"), 3, samples.SIZE)


def test_the_ordered_loss_is_the_squared_distance_of_cumulative_shares(samples: Any) -> None:
    from training.network.model import loss

    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 3, 0])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = ((np.cumsum(shares, axis=1) - np.cumsum(np.eye(4)[labels], axis=1)) ** 2).mean(axis=1)
    assert np.allclose(loss(ordered=True)(labels, logits), expected, atol=1e-6)
    sure = 20 * np.eye(4, dtype=np.float32)
    distances = np.asarray(loss(ordered=True)(np.zeros(4, int), sure))
    assert np.allclose(distances, [0, 0.25, 0.5, 0.75], atol=1e-4), "a step further off costs a step more"


def test_an_ordered_task_is_fitted_with_it(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    ordered = replace(samples.TASK, ordered=True)
    report = fit.fit(samples.units(), ordered, replace(samples.FIT, epochs=2), tmp_path / "models")
    assert report.best_validation_loss < 0.3  # the mean of squares of gaps below 1; the cross-entropy starts at 1.1
    assert (
        report.weights_sha256
        != fit.fit(samples.units(), samples.TASK, replace(samples.FIT, epochs=2), tmp_path / "plain").weights_sha256
    )


def test_local_contrast_is_blind_to_light_and_sees_what_differs(home: Any) -> None:
    from training.network.layers import LocalContrast

    picture = np.random.default_rng(0).uniform(0.2, 0.6, (1, 24, 24, 1)).astype(np.float32)
    told = np.asarray(LocalContrast(7)(picture))
    around = picture[0, 5:12, 5:12, 0]
    means = np.array([[picture[0, y - 3 : y + 4, x - 3 : x + 4, 0].mean() for x in range(5, 12)] for y in range(5, 12)])
    spread = np.sqrt(np.mean(np.square(around - means)))
    assert told[0, 8, 8, 0] == pytest.approx((around - means)[3, 3] / (spread + 0.02), abs=1e-4)
    assert np.abs(np.asarray(LocalContrast(7)(picture + 0.3)) - told).max() < 1e-4
    assert np.abs(np.asarray(LocalContrast(7)(1.5 * picture)) - told).max() < 0.25 * np.abs(told).max()
    assert not np.asarray(LocalContrast(7)(np.full((1, 9, 9, 1), 0.5, np.float32))).any()


def test_local_contrast_goes_through_fit_and_export(samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    units = samples.units(60)
    report = fit.fit(units, samples.TASK, replace(samples.FIT, epochs=1, local_contrast=5), tmp_path)
    assert report.parity is not None and report.parity < 1e-4


@pytest.mark.parametrize(("backbone", "window"), [("small", 4), ("small", 1), ("small", 33), ("resnet50", 5)])
def test_a_window_that_can_not_be_is_told(samples: Any, backbone: str, window: int) -> None:
    from training.network.model import build

    with pytest.raises(Fault, match=rf"fit\.local_contrast {window} must be 0"):
        build(replace(samples.FIT, backbone=backbone, local_contrast=window), 2, 32)
