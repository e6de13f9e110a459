"""The networks: every one ends in pooling and one linear layer; weights that can't be had are told in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineage.fault import Fault

pytestmark = pytest.mark.usefixtures("home")


def test_logits_are_linear_in_the_pooled_features(samples: Any, trained: Any) -> None:
    from training.export import rebuild
    from training.model import with_features

    network = rebuild(trained.models)
    outputs = with_features(network)(trained.units.pixels[:4])
    logits, features = np.asarray(outputs["logits"]), np.asarray(outputs["features"])
    kernel, bias = network.get_layer("logits").get_weights()
    assert features.shape[1:3] == (samples.SIZE // 8, samples.SIZE // 8)
    assert np.allclose(features.mean(axis=(1, 2)) @ kernel + bias, logits, atol=1e-5)


def test_resnet50_has_the_same_ends(samples: Any) -> None:
    from training.model import build

    network = build(replace(samples.FIT, backbone="resnet50"), 2, 64)
    assert network.input_shape == (None, 64, 64, 1)
    assert network.get_layer("features").output.shape == (None, 2, 2, 2048)
    assert network.get_layer("logits").get_weights()[0].shape == (2048, 2)


def test_an_unknown_backbone_is_named(samples: Any) -> None:
    from training.model import build

    with pytest.raises(Fault, match=r"'resnet9000' is unknown: use one of small"):
        build(replace(samples.FIT, backbone="resnet9000"), 2, 32)


def test_weights_come_from_a_file_that_fits(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.export import rebuild
    from training.model import build

    path = str(trained.models / "weights.weights.h5")
    warm = build(replace(samples.FIT, weights=path), 3, samples.SIZE)
    for mine, theirs in zip(warm.get_weights(), rebuild(trained.models).get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    with pytest.raises(Fault, match="do not fit small"):
        build(replace(samples.FIT, weights=path), 2, samples.SIZE)
    with pytest.raises(Fault, match="is no file"):
        build(replace(samples.FIT, weights=str(tmp_path / "absent.h5")), 3, samples.SIZE)
