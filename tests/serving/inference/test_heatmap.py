from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from serving.inference import heatmap
from serving.inference.graph import Graph
from tests.serving.conftest import KERNEL, batch


def test_the_map_marks_the_lesion_and_nothing_else(tiny: Path) -> None:
    _, features = Graph.load(tiny / "graph.onnx").run(batch(True))
    heat = heatmap.class_activation_map(features[0], KERNEL, 1)
    assert heat.shape == (8, 8) and heat.dtype == np.float32
    assert heat.max() == 1 and np.all(heat[1:3, 1:3] > 0.9)
    heat[1:3, 1:3] = 0
    assert not heat.any()


def test_the_map_is_the_class_evidence_whose_mean_is_the_logit(tiny: Path) -> None:
    logits, features = Graph.load(tiny / "graph.onnx").run(batch(True))
    evidence = features[0] @ KERNEL[:, 1]
    np.testing.assert_allclose(evidence.mean(), logits[0, 1], rtol=1e-5)
    np.testing.assert_allclose(
        heatmap.class_activation_map(features[0], KERNEL, 1), evidence / evidence.max(), rtol=1e-6
    )


def test_no_evidence_gives_an_empty_map() -> None:
    assert not heatmap.class_activation_map(np.zeros((4, 4, 2), np.float32), KERNEL, 1).any()
    assert not heatmap.class_activation_map(np.ones((4, 4, 2), np.float32), -np.abs(KERNEL) - 1, 1).any()


def test_the_opacity_of_the_picture_is_the_map() -> None:
    heat = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    opened = Image.open(io.BytesIO(base64.b64decode(heatmap.base64_png(heat))))
    assert opened.mode == "RGBA" and opened.size == (4, 3)
    np.testing.assert_allclose(np.asarray(opened)[..., 3] / 255, heat, atol=0.003)
