"""Every backbone is fitted, exported, agrees with its graph, and answers from a release as it is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.batches import Units
from serving.graph import Graph
from training import export, fit, model

pytestmark = pytest.mark.usefixtures("home")
SIZE = 64  # what is left of it behind VGG-16 and ResNet-50 is 2 by 2


def grown(units: Units) -> Units:
    """The same units, each pixel four."""
    return Units(units.table, units.pixels.repeat(2, axis=1).repeat(2, axis=2), units.labels)


@pytest.mark.parametrize("backbone", model.BACKBONES)
def test_a_backbone_is_fitted_exported_and_served(samples: Any, backbone: str, tmp_path: Path) -> None:
    units = samples.units(24)
    units = grown(units)
    task = replace(samples.TASK, pixels=replace(samples.TASK.pixels, size=SIZE))
    settings = replace(samples.FIT, backbone=backbone, epochs=1, batch_size=24, learning_rate=1e-4)
    report = fit.fit(units, task, settings, tmp_path / "model")
    assert report.parity is not None and report.parity < export.PARITY
    graph = Graph.load(tmp_path / "model" / "graph.onnx")
    with np.load(tmp_path / "model" / "head.npz") as head:
        kernel, bias = head["kernel"], head["bias"]
    logits, features = graph.run(units.pixels[:3])
    assert features.shape[1:3] == ((8, 8) if backbone == "small" else (2, 2))
    assert np.allclose(features.mean(axis=(1, 2)) @ kernel + bias, logits, atol=1e-3)
    other = Graph.load(tmp_path / "model" / "graph.onnx", "onnxruntime").run(units.pixels[:3])[0]
    assert np.allclose(other, logits, atol=1e-3)
