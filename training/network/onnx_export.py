"""Export of fitted weights to the ONNX graph that serving runs, and to the linear layer for heat maps."""

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

from data.dataset.shards import Units
from lineage import fingerprint, paths
from lineage.child_process import tethered
from lineage.errors import Fault
from training.settings import AugmentSettings, FitSettings, WarmSettings

log = logging.getLogger(__name__)

OPSET = 18
WEIGHTS, REPORT, GRAPH, HEAD = "weights.weights.h5", "fit.json", "graph.onnx", "head.npz"
EXPECTED = "expected.npz"  # validation probabilities of the fitted network: no pixels, no names
PARITY = 1e-3  # of a probability: float32 sums in another order differ by much less


def can_export() -> bool:
    """Whether this machine can export a graph: TensorFlow is installed, whichever backend Keras uses."""
    return importlib.util.find_spec("tensorflow") is not None


def save_expected(folder: Path, validation: Units, probabilities: NDArray[np.float32]) -> None:
    """Save the validation probabilities (n, classes), to check a graph that is exported on another machine."""
    np.savez(folder / EXPECTED, units=np.array(unit_names(validation)), probabilities=probabilities)


def unit_names(units: Units) -> str:
    """One SHA-256 of the names of units in their order."""
    return fingerprint.text_sha256("\n".join(units.table["unit_id"]))


def export_and_verify(folder: Path, validation: Units, network: Any = None) -> tuple[float, str]:
    """Export the weights of a folder, compare the graph with the fitted network, and complete `fit.json`.

    `validation` holds the validation units of that fit. Returns the largest difference of a probability and the
    graph's SHA-256. Raises Fault and removes the graph if a probability differs by more than `PARITY`.
    """
    if not (folder / EXPECTED).is_file():
        raise Fault(f"{folder / EXPECTED} is missing; fit the task again")
    with np.load(folder / EXPECTED, allow_pickle=False) as content:
        stored_units, expected = str(content["units"]), content["probabilities"]
    if stored_units != unit_names(validation):
        raise Fault(f"{folder}: it was fitted with {len(expected)} other validation units; prepare its data version")
    graph = export(folder, network)
    difference = parity(graph, validation.pixels, expected)
    if not difference <= PARITY:
        graph.unlink()
        raise Fault(f"{graph}: the exported graph differs from the network by {difference:.2g} of a probability")
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    report |= {"parity": difference, "graph_sha256": fingerprint.file_sha256(graph)}
    (folder / REPORT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return difference, report["graph_sha256"]


def export(folder: Path, network: Any = None) -> Path:
    """Write `graph.onnx` and `head.npz` from `weights.weights.h5` and `fit.json` of a folder; needs TensorFlow.

    `network` is the fitted network if the caller has it; else it is rebuilt. If Keras uses another backend, a child
    process with TensorFlow does the export. Raises Fault if TensorFlow is not installed.
    """
    paths.set_environment()
    if not can_export():
        raise Fault(
            f"{folder}: the weights are complete, but their export needs TensorFlow; run `oncoloop stage "
            "export` where it is installed"
        )
    import keras

    if keras.backend.backend() != "tensorflow":
        return _export_with_tensorflow(folder)
    network = network if network is not None else rebuild(folder)
    _write_head(network, folder / HEAD)
    _write_graph(network, folder / GRAPH)
    return folder / GRAPH


def rebuild(folder: Path) -> Any:
    """Rebuild the fitted network from its report and its weights."""
    from training.network import model

    if not (folder / REPORT).is_file() or not (folder / WEIGHTS).is_file():
        raise Fault(f"{folder}: {REPORT} or {WEIGHTS} is missing; fit the task again")
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    stored = report["settings"]
    settings = {
        **stored,
        "augment": AugmentSettings(**stored["augment"]),
        "warm": WarmSettings(**stored.get("warm", {})),
    }
    settings |= {"weights": "none", "precision": "float32"}
    network = model.build(FitSettings(**settings), len(report["classes"]), report["size"])
    network.load_weights(str(folder / WEIGHTS))
    return network


def parity(graph: Path, pixels: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest absolute difference of a probability between the exported graph (float32) and Keras' `expected`."""
    from serving.inference.graph import Graph
    from serving.inference.predict import probabilities

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

    from training.network.model import with_features

    full_network = with_features(network)
    full_network(np.zeros((1, *network.input_shape[1:]), np.float32))  # an export before the first call omits variables
    signature = [tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="pixels")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def run_network(pixels: Any) -> Any:
        outputs = full_network(pixels, training=False)
        return tf.identity(outputs["logits"], name="logits"), tf.identity(outputs["features"], name="features")

    graph, _ = tf2onnx.convert.from_function(run_network, input_signature=signature, opset=OPSET)
    _normalise_names(graph, ("logits", "features"))
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _normalise_names(proto: Any, outputs: tuple[str, ...]) -> None:
    """Name values and nodes by order of use, so that equal networks give equal bytes.

    TensorFlow's own names depend on what was traced before. `outputs` replaces its names Identity and Identity_1.
    """
    graph = proto.graph
    names = {port.name: port.name for port in graph.input}
    names |= {port.name: name for port, name in zip(graph.output, outputs, strict=True)}
    for position, node in enumerate(graph.node):
        for value in (*node.input, *node.output):
            names.setdefault(value, f"value_{len(names)}" if value else "")
        node.name = f"{node.op_type.lower()}_{position}"
        node.input[:] = [names[value] for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    order = {name: position for position, name in enumerate(names)}
    weights = sorted((weight for weight in graph.initializer if weight.name in names), key=lambda w: order[w.name])
    initializers = [type(weight).FromString(weight.SerializeToString()) for weight in weights]
    for weight in initializers:
        weight.name = names[weight.name]
    for field in ("initializer", "value_info"):
        graph.ClearField(field)
    graph.initializer.extend(initializers)
    for port in (*graph.input, *graph.output):
        port.name = names[port.name]
        for axis in port.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = "units"
    graph.name, graph.doc_string = "oncoloop", ""


def _export_with_tensorflow(folder: Path) -> Path:
    command = (
        "import sys; from pathlib import Path; from training.network import onnx_export; "
        "onnx_export.export(Path(sys.argv[1]))"
    )
    process = subprocess.run(
        tethered([sys.executable, "-c", command, str(folder.resolve())]),
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise Fault(f"{folder}: the export in a TensorFlow process failed: {process.stderr.strip().splitlines()[-1]}")
    return folder / GRAPH
