"""The exported graph: one input, two outputs, both engines, any batch size, no augmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lineage.errors import Fault
from serving.inference.graph import Graph
from serving.inference.heatmap import class_activation_map
from training.network import onnx_export

pytestmark = pytest.mark.usefixtures("home")


def test_both_engines_give_the_networks_logits_and_features(trained: Any) -> None:
    from training.network.model import with_features

    outputs = with_features(onnx_export.rebuild(trained.models))(trained.units.pixels[:5])
    for engine in ("openvino", "onnxruntime"):
        logits, features = Graph.load(trained.models / "graph.onnx", engine).run(trained.units.pixels[:5])
        assert np.allclose(logits, np.asarray(outputs["logits"]), atol=1e-4)
        assert np.allclose(features, np.asarray(outputs["features"]), atol=1e-4)


def test_the_head_maps_features_to_logits(samples: Any, trained: Any) -> None:
    logits, features = Graph.load(trained.models / "graph.onnx", "onnxruntime").run(trained.units.pixels[:3])
    with np.load(trained.models / "head.npz") as head:
        assert head["kernel"].shape == (features.shape[-1], 3)
        assert np.allclose(features.mean(axis=(1, 2)) @ head["kernel"] + head["bias"], logits, atol=1e-4)
        assert class_activation_map(features[0], head["kernel"], 2).shape == (samples.SIZE // 8, samples.SIZE // 8)


def test_names_shapes_and_no_randomness(trained: Any) -> None:
    graph = onnx.load(trained.models / "graph.onnx").graph
    assert [port.name for port in graph.input] == ["pixels"]
    assert [port.name for port in graph.output] == ["logits", "features"]
    assert not [node.op_type for node in graph.node if node.op_type.startswith("Random")]


def test_a_batch_gives_the_logits_of_its_slices(trained: Any) -> None:
    graph = Graph.load(trained.models / "graph.onnx")
    batch = graph.run(trained.units.pixels[:7])[0]
    single = np.concatenate([graph.run(trained.units.pixels[index : index + 1])[0] for index in range(7)])
    assert np.allclose(batch, single, atol=1e-5)


def test_parity_detects_other_probabilities(trained: Any) -> None:
    pixels = trained.units.pixels[:10]
    wrong = np.full((10, 3), 1 / 3, np.float32)
    assert onnx_export.parity(trained.models / "graph.onnx", pixels, wrong) > 0.01


def test_exporting_again_gives_the_same_bytes(trained: Any, tmp_path: Path) -> None:
    for name in ("weights.weights.h5", "fit.json"):
        (tmp_path / name).write_bytes((trained.models / name).read_bytes())
    onnx_export.export(tmp_path)
    assert (tmp_path / "graph.onnx").read_bytes() == (trained.models / "graph.onnx").read_bytes()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text(json.dumps({}))
    with pytest.raises(Fault, match="fit the task again"):
        onnx_export.export(tmp_path)
