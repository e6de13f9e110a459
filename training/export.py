"""Weights to an ONNX graph that serving runs: `pixels` in, `logits` and `features` out, and the linear layer beside."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineage import places
from lineage.fault import Fault
from training.settings import AugmentSettings, FitSettings

log = logging.getLogger(__name__)

OPSET = 18
WEIGHTS, REPORT, GRAPH, HEAD = "weights.weights.h5", "fit.json", "graph.onnx", "head.npz"


def export(folder: Path, network: Any = None) -> Path:
    """Write `graph.onnx` and `head.npz` from `weights.weights.h5` and `fit.json` of a folder; needs TensorFlow.

    `network` is the fitted network where it is at hand; else it is built again. A process whose Keras runs on another
    backend hands the work to one that runs on TensorFlow, and raises Fault if that is not installed.
    """
    places.set_environment()
    if importlib.util.find_spec("tensorflow") is None:
        raise Fault(f"{folder}: the weights are there, but exporting them needs TensorFlow; run "
                    "training.export.export on this folder where TensorFlow is installed")  # fmt: skip
    import keras

    if keras.backend.backend() != "tensorflow":
        return _elsewhere(folder)
    network = network if network is not None else rebuild(folder)
    _write_head(network, folder / HEAD)
    _write_graph(network, folder / GRAPH)
    return folder / GRAPH


def rebuild(folder: Path) -> Any:
    """The fitted network again, from its report and its weights."""
    from training import model

    if not (folder / REPORT).is_file() or not (folder / WEIGHTS).is_file():
        raise Fault(f"{folder}: {REPORT} or {WEIGHTS} is missing; fit the task again")
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    settings = {**report["settings"], "augment": AugmentSettings(**report["settings"]["augment"]), "weights": "none"}
    network = model.build(FitSettings(**settings), len(report["classes"]), report["size"])
    network.load_weights(str(folder / WEIGHTS))
    return network


def parity(graph: Path, pixels: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest absolute difference of a probability between the exported graph (float32) and Keras' `expected`."""
    from serving.graph import Graph
    from serving.predict import probabilities

    logits, _ = Graph.load(graph, "openvino", "float32").run(pixels)
    return float(np.abs(probabilities(logits, 1.0) - expected).max())


def _write_head(network: Any, path: Path) -> None:
    """The linear layer for the heat maps: `kernel` (d, classes) and `bias` (classes)."""
    kernel, bias = network.get_layer("logits").get_weights()
    np.savez(path, kernel=np.asarray(kernel, np.float32), bias=np.asarray(bias, np.float32))


def _write_graph(network: Any, path: Path) -> None:
    import onnx
    import tensorflow as tf
    import tf2onnx

    from training.model import with_features

    whole = with_features(network)
    whole(np.zeros((1, *network.input_shape[1:]), np.float32))  # an export before the first call misses variables
    signature = [tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="pixels")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def answer(pixels: Any) -> Any:
        outputs = whole(pixels, training=False)
        return tf.identity(outputs["logits"], name="logits"), tf.identity(outputs["features"], name="features")

    graph, _ = tf2onnx.convert.from_function(answer, input_signature=signature, opset=OPSET)
    _name_outputs(graph, ("logits", "features"))
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _name_outputs(graph: Any, names: tuple[str, ...]) -> None:
    """Give the outputs their names in the contract: the tracing calls them Identity, Identity_1."""
    renamed = {old.name: new for old, new in zip(graph.graph.output, names, strict=True)}
    for node in graph.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for output in graph.graph.output:
        output.name = renamed[output.name]


def _elsewhere(folder: Path) -> Path:
    command = "import sys; from pathlib import Path; from training import export; export.export(Path(sys.argv[1]))"
    ran = subprocess.run(
        [sys.executable, "-c", command, str(folder.resolve())],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise Fault(f"{folder}: the export in a TensorFlow process failed: {ran.stderr.strip().splitlines()[-1]}")
    return folder / GRAPH
