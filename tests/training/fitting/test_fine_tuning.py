"""Fine-tuning in stages: the head first, then the backbone from a named layer on, from weights that were there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineage.errors import Fault
from training.fitting import fine_tuning

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def pretrained(samples: Any, trained: Any) -> Any:
    """Settings of a fit that begins with the weights of another one."""
    return replace(
        samples.FIT,
        weights=str(trained.models / "weights.weights.h5"),
        epochs=4,
        head_epochs=2,
        patience=9,
        unfreeze_from="conv4",
    )


def test_stages_are_as_they_are_told(samples: Any, pretrained: Any) -> None:
    both = fine_tuning.stages(pretrained)
    assert [(stage.begin, stage.end, stage.learns) for stage in both] == [(0, 2, "head"), (2, 4, "conv4")]
    assert [stage.rate for stage in both] == pytest.approx([0.004, 0.0004])
    assert fine_tuning.stages(replace(pretrained, head_epochs=4)) == (fine_tuning.Stage(0, 4, "head", 0.004),)
    assert fine_tuning.stages(samples.FIT) == (fine_tuning.Stage(0, 3, "all", 0.004),)
    for wrong, told in (
        ({"weights": "none"}, "but fit.weights is none"),
        ({"head_epochs": 5}, "must lie between 0"),
        ({"unfrozen_rate": 0.0}, "above 0"),
    ):
        with pytest.raises(Fault, match=told):
            fine_tuning.stages(replace(pretrained, **wrong))


def weights_of(folder: Path) -> dict[str, Any]:
    from training.network.onnx_export import rebuild

    return {layer.name: layer.get_weights() for layer in rebuild(folder).layers if layer.weights}


def same(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in one if all(np.array_equal(a, b) for a, b in zip(one[name], other[name], strict=True))}


FIRST = {f"conv{place}{kind}" for place in (1, 2, 3) for kind in ("", "_norm")}
LATER = {f"conv{place}{kind}" for place in (4, 5) for kind in ("", "_norm")}


def test_what_is_frozen_stays_and_what_is_not_learns(
    samples: Any, trained: Any, pretrained: Any, tmp_path: Path
) -> None:
    from training.fitting import fit

    before = weights_of(trained.models)
    fit.fit(samples.units(), samples.TASK, replace(pretrained, epochs=2), tmp_path / "head")
    assert same(before, weights_of(tmp_path / "head")) >= FIRST | LATER, "batch normalisation's averages too"
    fit.fit(samples.units(), samples.TASK, pretrained, tmp_path / "both")
    kept = same(before, weights_of(tmp_path / "both"))
    assert kept >= FIRST and "logits" not in kept
    unfrozen = replace(pretrained, head_epochs=0, unfrozen_rate=1.0, epochs=1)
    fit.fit(samples.units(), samples.TASK, unfrozen, tmp_path / "later")
    assert same(before, weights_of(tmp_path / "later")) == FIRST


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_staged_fit_goes_on_where_it_was(
    samples: Any, pretrained: Any, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within the first stage, between the two, and within the second."""
    from training.fitting import checkpoint, fit

    whole = fit.fit(samples.units(60), samples.TASK, pretrained, tmp_path / "whole")
    save = checkpoint.save

    def interrupted(path: Path, reached: Any) -> None:
        save(path, reached)
        if len(reached.history) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", interrupted)
        fit.fit(samples.units(60), samples.TASK, pretrained, tmp_path / "models")
    again = fit.fit(samples.units(60), samples.TASK, pretrained, tmp_path / "models")
    assert again.resumed_epochs == epochs
    assert again.weights_sha256 == whole.weights_sha256


def test_patience_begins_when_the_backbone_learns(pretrained: Any) -> None:
    from training.fitting import checkpoint

    settings, reached, ended = replace(pretrained, epochs=9, head_epochs=4, patience=2), checkpoint.Progress(), []
    for _ in range(7):
        reached = checkpoint.after(reached, {"loss": 1.0, "val_loss": 1.0}, (), (), settings)
        ended.append(reached.ended(settings))
    assert ended == [False, False, False, False, False, True, True]


def test_a_layer_that_is_none_is_named(samples: Any, pretrained: Any) -> None:
    from training.network import model

    network = model.build(samples.FIT, 3, samples.SIZE)
    with pytest.raises(Fault, match="'conv9' is no layer of small: use all, or one of conv1, conv1_norm, conv2"):
        model.freeze(network, "conv9")
    model.freeze(network, "conv5")
    assert {variable.path.split("/")[0] for variable in network.trainable_variables} == {
        "conv5",
        "conv5_norm",
        "logits",
    }
    model.freeze(network, "all")
    assert len(network.trainable_variables) == 5 * 3 + 2


def test_weights_of_the_bare_application_fit_behind_grey_pictures(samples: Any, tmp_path: Path) -> None:
    import keras

    from training.network import model

    bare = keras.applications.EfficientNetV2B0(include_top=False, weights=None, input_shape=(64, 64, 3))
    path = tmp_path / "bare.weights.h5"
    bare.save_weights(path)
    settings = replace(samples.FIT, backbone="efficientnetv2b0", weights=str(path), head_epochs=1)
    network = model.build(settings, 3, 64)
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    for mine, theirs in zip(inner.get_weights(), bare.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    model.freeze(network, "top_conv")
    frozen = [layer.name for layer in inner.layers if layer.weights and not layer.trainable]
    assert "block6h_project_bn" in frozen and "top_conv" not in frozen and "top_bn" not in frozen
    with pytest.raises(Fault, match=r"do not fit resnet50, nor keras\.applications' resnet50 with include_top=False"):
        model.build(replace(settings, backbone="resnet50"), 3, 64)
