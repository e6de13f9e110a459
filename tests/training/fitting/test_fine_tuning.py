"""Fine-tuning in stages: first the head, then the backbone from a named layer on, with pretrained weights."""

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
    """Settings of a fit that starts with the weights of another one."""
    return replace(
        samples.FIT,
        weights=str(trained.models / "weights.weights.h5"),
        epochs=4,
        head_epochs=2,
        patience=9,
        unfreeze_from="conv4",
    )


def test_stages_follow_the_settings(samples: Any, pretrained: Any) -> None:
    two_stages = fine_tuning.stages(pretrained)
    assert [(stage.begin, stage.end, stage.trainable) for stage in two_stages] == [(0, 2, "head"), (2, 4, "conv4")]
    assert [stage.learning_rate for stage in two_stages] == pytest.approx([0.004, 0.0004])
    assert fine_tuning.stages(replace(pretrained, head_epochs=4)) == (fine_tuning.Stage(0, 4, "head", 0.004),)
    assert fine_tuning.stages(samples.FIT) == (fine_tuning.Stage(0, 3, "all", 0.004),)
    for changes, message in (
        ({"weights": "none"}, "but fit.weights is none"),
        ({"head_epochs": 5}, "must be between 0"),
        ({"unfrozen_rate": 0.0}, "above 0"),
    ):
        with pytest.raises(Fault, match=message):
            fine_tuning.stages(replace(pretrained, **changes))


def read_weights(folder: Path) -> dict[str, Any]:
    from training.network.onnx_export import rebuild

    return {layer.name: layer.get_weights() for layer in rebuild(folder).layers if layer.weights}


def equal_layers(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {name for name in first if all(np.array_equal(a, b) for a, b in zip(first[name], second[name], strict=True))}


EARLY_LAYERS = {f"conv{number}{kind}" for number in (1, 2, 3) for kind in ("", "_norm")}
LATE_LAYERS = {f"conv{number}{kind}" for number in (4, 5) for kind in ("", "_norm")}


def test_frozen_layers_keep_their_weights_and_others_change(
    samples: Any, trained: Any, pretrained: Any, tmp_path: Path
) -> None:
    from training.fitting import fit

    before = read_weights(trained.models)
    fit.fit(samples.units(), samples.TASK, replace(pretrained, epochs=2), tmp_path / "head")
    assert equal_layers(before, read_weights(tmp_path / "head")) >= EARLY_LAYERS | LATE_LAYERS, (
        "including the averages of batch normalisation"
    )
    fit.fit(samples.units(), samples.TASK, pretrained, tmp_path / "both")
    unchanged = equal_layers(before, read_weights(tmp_path / "both"))
    assert unchanged >= EARLY_LAYERS and "logits" not in unchanged
    unfrozen = replace(pretrained, head_epochs=0, unfrozen_rate=1.0, epochs=1)
    fit.fit(samples.units(), samples.TASK, unfrozen, tmp_path / "later")
    assert equal_layers(before, read_weights(tmp_path / "later")) == EARLY_LAYERS


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_an_interrupted_staged_fit_resumes(
    samples: Any, pretrained: Any, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the first stage, between the stages, and in the second stage."""
    from training.fitting import checkpoint, fit

    uninterrupted = fit.fit(samples.units(60), samples.TASK, pretrained, tmp_path / "whole")
    save = checkpoint.save

    def save_and_interrupt(path: Path, progress: Any) -> None:
        save(path, progress)
        if len(progress.history) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", save_and_interrupt)
        fit.fit(samples.units(60), samples.TASK, pretrained, tmp_path / "models")
    resumed = fit.fit(samples.units(60), samples.TASK, pretrained, tmp_path / "models")
    assert resumed.resumed_epochs == epochs
    assert resumed.weights_sha256 == uninterrupted.weights_sha256


def test_patience_starts_with_the_backbone(pretrained: Any) -> None:
    from training.fitting import checkpoint

    settings, progress, is_finished = (
        replace(pretrained, epochs=9, head_epochs=4, patience=2),
        checkpoint.Progress(),
        [],
    )
    for _ in range(7):
        progress = checkpoint.add_epoch(progress, {"loss": 1.0, "val_loss": 1.0}, (), (), settings)
        is_finished.append(progress.is_finished(settings))
    assert is_finished == [False, False, False, False, False, True, True]


def test_an_unknown_layer_is_refused(samples: Any, pretrained: Any) -> None:
    from training.network import model

    network = model.build(samples.FIT, 3, samples.SIZE)
    with pytest.raises(Fault, match="'conv9' is no layer of small: use all, or one of conv1, conv1_norm, conv2"):
        model.set_trainable(network, "conv9")
    model.set_trainable(network, "conv5")
    assert {variable.path.split("/")[0] for variable in network.trainable_variables} == {
        "conv5",
        "conv5_norm",
        "logits",
    }
    model.set_trainable(network, "all")
    assert len(network.trainable_variables) == 5 * 3 + 2


def test_weights_of_the_plain_application_can_be_loaded(samples: Any, tmp_path: Path) -> None:
    import keras

    from training.network import model

    application = keras.applications.EfficientNetV2B0(include_top=False, weights=None, input_shape=(64, 64, 3))
    path = tmp_path / "bare.weights.h5"
    application.save_weights(path)
    settings = replace(samples.FIT, backbone="efficientnetv2b0", weights=str(path), head_epochs=1)
    network = model.build(settings, 3, 64)
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    for loaded, expected in zip(inner.get_weights(), application.get_weights(), strict=True):
        assert np.array_equal(loaded, expected)
    model.set_trainable(network, "top_conv")
    frozen = [layer.name for layer in inner.layers if layer.weights and not layer.trainable]
    assert "block6h_project_bn" in frozen and "top_conv" not in frozen and "top_bn" not in frozen
    with pytest.raises(Fault, match=r"do not fit resnet50, nor keras\.applications' resnet50 with include_top=False"):
        model.build(replace(settings, backbone="resnet50"), 3, 64)
