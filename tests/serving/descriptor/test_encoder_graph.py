"""The encoder's graph computes the first stages of the pretrained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate2d

from lineage.errors import Fault
from serving.descriptor import encoder_graph, pretrained_weights
from serving.inference.descriptor import Descriptor
from tests.serving.conftest import write_graph

SIZE = encoder_graph.SIZE


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "descriptor.onnx"
    encoder_graph.write_graph(path)
    return path


@pytest.fixture(scope="module")
def descriptor(graph: Path) -> Descriptor:
    return Descriptor.load(graph)


def _pixels(count: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(3).random((count, size, size, 1), dtype=np.float32)


def _normalised(image: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    shape = (-1, 1, 1)
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale = weights[f"{name}.weight"] / np.sqrt(variance + 1e-3)
    return (image - mean.reshape(shape)) * scale.reshape(shape) + weights[f"{name}.bias"].reshape(shape)


def test_the_first_stage_is_that_of_the_network(descriptor: Descriptor) -> None:
    """Stem and first block, computed here with SciPy, convolution by convolution."""
    weights, pixels = pretrained_weights.read_weights(), _pixels(1)
    image = np.pad((pixels[0, :, :, 0].astype(np.float64) - 0.498) / 0.502, ((0, 1), (0, 1)))
    kernel = weights["_conv_stem.weight"].sum(axis=1)  # the three colours are the same picture
    stem = np.stack([correlate2d(image, plane, mode="valid")[::2, ::2] for plane in kernel])
    stem = np.clip(_normalised(stem, weights, "_bn0"), 0, 6)
    depthwise = weights["_blocks.0._depthwise_conv.weight"][:, 0]
    inner = np.stack(
        [correlate2d(np.pad(plane, 1), filter_, mode="valid") for plane, filter_ in zip(stem, depthwise, strict=True)]
    )
    inner = np.clip(_normalised(inner, weights, "_blocks.0._bn1"), 0, 6)
    stage = np.tensordot(weights["_blocks.0._project_conv.weight"][:, :, 0, 0], inner, axes=1)
    stage = _normalised(stage, weights, "_blocks.0._bn2")
    expected = np.concatenate([stage.mean(axis=(1, 2)), stage.std(axis=(1, 2))])
    np.testing.assert_allclose(descriptor.vectors(pixels)[0, :32], expected, rtol=1e-3, atol=1e-3)


def test_engines_agree(graph: Path, descriptor: Descriptor) -> None:
    pixels = _pixels(5)
    other = Descriptor.load(graph, "onnxruntime").vectors(pixels)
    assert other.shape == (5, encoder_graph.WIDTH) == (5, 320)
    np.testing.assert_allclose(descriptor.vectors(pixels), other, atol=2e-3)


@pytest.mark.parametrize("size", [32, 96, 256])
def test_slices_of_another_size_are_resized(descriptor: Descriptor, size: int) -> None:
    assert descriptor.vectors(_pixels(2, size)).shape == (2, 320)


def test_the_same_weights_give_the_same_file(graph: Path, tmp_path: Path) -> None:
    encoder_graph.write_graph(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == graph.read_bytes()


def test_another_graph_is_refused(tmp_path: Path) -> None:
    write_graph(tmp_path)
    with pytest.raises(Fault, match="'vector'"):
        Descriptor.load(tmp_path / "graph.onnx")
    with pytest.raises(Fault, match="missing"):
        Descriptor.load(tmp_path / "absent.onnx")
