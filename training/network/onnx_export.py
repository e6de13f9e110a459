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

from data.dataset.shards import Units
from lineage import fingerprint, paths
from lineage.child_process import tethered
from lineage.errors import Fault
from training.settings import AugmentSettings, FitSettings, WarmSettings

log = logging.getLogger(__name__)

OPSET = 18
WEIGHTS, REPORT, GRAPH, HEAD = "weights.weights.h5", "fit.json", "graph.onnx", "head.npz"
EXPECTED = "expected.npz"  # what the network said of the validation units where it was fitted: no pixels, no names
PARITY = 1e-3  # of a probability: float32 in another order of summing stays well under it


def possible() -> bool:
    """Whether this machine can export a graph: TensorFlow is installed, whatever Keras runs on."""
    return importlib.util.find_spec("tensorflow") is not None


def expect(folder: Path, validation: Units, probabilities: NDArray[np.float32]) -> None:
    """Keep what the network says of the validation units (n, classes), for the parity of a graph made elsewhere."""
    np.savez(folder / EXPECTED, units=np.array(unit_names(validation)), probabilities=probabilities)


def unit_names(units: Units) -> str:
    """One hash of the names of units in their order."""
    return fingerprint.text_sha256("\n".join(units.table["unit_id"]))


def finish(folder: Path, validation: Units, network: Any = None) -> tuple[float, str]:
    """Export the weights of a folder, compare the graph with what the network said where it was fitted, and complete
    `fit.json`; gives the largest difference of a probability and the graph's SHA-256.

    `validation` holds the validation units of that fit. Raises Fault where a probability differs by more than
    `PARITY`; the graph is then removed.
    """
    if not (folder / EXPECTED).is_file():
        raise Fault(f"{folder / EXPECTED} is missing; fit the task again")
    with np.load(folder / EXPECTED, allow_pickle=False) as kept:
        named, expected = str(kept["units"]), kept["probabilities"]
    if named != unit_names(validation):
        raise Fault(f"{folder}: it was fitted beside {len(expected)} other validation units; prepare its data version")
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

    `network` is the fitted network where it is at hand; else it is built again. A process whose Keras runs on another
    backend hands the work to one that runs on TensorFlow, and raises Fault if that is not installed.
    """
    paths.set_environment()
    if not possible():
        raise Fault(
            f"{folder}: the weights are there, but exporting them needs TensorFlow; run `oncoloop stage "
            "export` where it is installed"
        )
    import keras

    if keras.backend.backend() != "tensorflow":
        return _elsewhere(folder)
    network = network if network is not None else rebuild(folder)
    _write_head(network, folder / HEAD)
    _write_graph(network, folder / GRAPH)
    return folder / GRAPH


def rebuild(folder: Path) -> Any:
    """The fitted network again, from its report and its weights."""
    from training.network import model

    if not (folder / REPORT).is_file() or not (folder / WEIGHTS).is_file():
        raise Fault(f"{folder}: {REPORT} or {WEIGHTS} is missing; fit the task again")
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    told = report["settings"]
    settings = {**told, "augment": AugmentSettings(**told["augment"]), "warm": WarmSettings(**told.get("warm", {}))}
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

    whole = with_features(network)
    whole(np.zeros((1, *network.input_shape[1:]), np.float32))  # an export before the first call misses variables
    signature = [tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="pixels")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def answer(pixels: Any) -> Any:
        outputs = whole(pixels, training=False)
        return tf.identity(outputs["logits"], name="logits"), tf.identity(outputs["features"], name="features")

    graph, _ = tf2onnx.convert.from_function(answer, input_signature=signature, opset=OPSET)
    _rename(graph, ("logits", "features"))
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _rename(proto: Any, outputs: tuple[str, ...]) -> None:
    """Names by order of use, so that equal networks are equal bytes: the tracing's own names count what ran before.

    The outputs get their names in the contract; the tracing calls them Identity, Identity_1.
    """
    graph = proto.graph
    names = {port.name: port.name for port in graph.input}
    names |= {port.name: name for port, name in zip(graph.output, outputs, strict=True)}
    for place, node in enumerate(graph.node):
        for value in (*node.input, *node.output):
            names.setdefault(value, f"value_{len(names)}" if value else "")
        node.name = f"{node.op_type.lower()}_{place}"
        node.input[:] = [names[value] for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    order = {name: place for place, name in enumerate(names)}
    weights = sorted((weight for weight in graph.initializer if weight.name in names), key=lambda w: order[w.name])
    kept = [type(weight).FromString(weight.SerializeToString()) for weight in weights]
    for weight in kept:
        weight.name = names[weight.name]
    for field in ("initializer", "value_info"):
        graph.ClearField(field)
    graph.initializer.extend(kept)
    for port in (*graph.input, *graph.output):
        port.name = names[port.name]
        for axis in port.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = "units"
    graph.name, graph.doc_string = "oncoloop", ""


def _elsewhere(folder: Path) -> Path:
    command = (
        "import sys; from pathlib import Path; from training.network import onnx_export; "
        "onnx_export.export(Path(sys.argv[1]))"
    )
    ran = subprocess.run(
        tethered([sys.executable, "-c", command, str(folder.resolve())]),
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise Fault(f"{folder}: the export in a TensorFlow process failed: {ran.stderr.strip().splitlines()[-1]}")
    return folder / GRAPH
