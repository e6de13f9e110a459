"""Run an exported graph on the CPU, with OpenVINO or ONNX Runtime behind the same interface."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from lineage.errors import Fault
from serving.inference.manifest import Engine

Array = NDArray[np.float32]
Infer = Callable[[list[Array]], list[tuple[Array, ...]]]

ENGINES: tuple[str, ...] = get_args(Engine)
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
INPUT, LOGITS, FEATURES = "pixels", "logits", "features"
CHUNK = 64  # images at a time; limits the memory of a long series, and changes no result
LIGHT_GRAPH_BYTES = 4 << 20  # a smaller graph is faster with one core per image than with all cores
CPU_FLAGS = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx512_vnni", "avx2", "fma", "asimd")
# Values of ONEDNN_MAX_CPU_ISA (the newest instructions that a user allows) with which OpenVINO crashes in bfloat16.
ISAS_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")


@dataclass(frozen=True)
class Graph:
    """A compiled graph: `pixels` (n, size, size, 1) in [0, 1] to logits and the feature maps before the pooling.

    It is compiled once and safe to share between threads. `streams` inferences run at the same time: one per core for
    a light graph, a single one with all cores for a heavy graph.
    """

    path: Path
    size: int
    classes: int
    engine: str
    version: str
    precision: str
    streams: int
    infer: Infer = field(repr=False)

    @classmethod
    def load(cls, path: Path, engine: str = "openvino", precision: str = "float32") -> Graph:
        """Compile an ONNX file.

        Raises Fault for an absent file, an unknown engine or precision, or unexpected inputs or outputs.
        """
        if not path.is_file():
            raise Fault(f"{path}: there is no exported graph; train the task first, or restore the file")
        compiled = compile_graph(path, engine, precision, (LOGITS, FEATURES))
        return cls(path, classes=compiled.pop("width"), **compiled)

    def run(self, pixels: Array) -> tuple[Array, Array]:
        """Logits (n, classes) and features (n, height, width, channels), both float32. ValueError for other pixels."""
        logits, maps = run_in_chunks(self.infer, pixels, self.size, self.streams)
        return logits, maps

    def facts(self) -> dict[str, Any]:
        """What an answer depends on apart from the graph: engine, its version, effective precision, CPU features."""
        return {"engine": self.engine, "version": self.version, "precision": self.precision, "cpu": list(cpu_flags())}


def compile_graph(path: Path, engine: str, precision: str, outputs: tuple[str, ...]) -> dict[str, Any]:
    """Compile an ONNX file with the input `pixels` (n, size, size, 1) and these outputs, the first a matrix.

    Returns `size`, `width` (columns of the first output), `engine`, `version`, `precision`, `streams` and `infer`.
    Raises Fault for an unknown engine or precision, or unexpected inputs or outputs.
    """
    if engine not in ENGINES:
        raise Fault(f"serving.engine {engine!r} is unknown: use one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise Fault(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    return (_compile_openvino if engine == "openvino" else _compile_onnxruntime)(path, precision, outputs)


def run_in_chunks(infer: Infer, pixels: Array, size: int, streams: int) -> tuple[Array, ...]:
    """The outputs for pixels (n, size, size, 1), float32. ValueError for pixels of another shape."""
    if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 1) or not len(pixels):
        raise ValueError(f"the graph takes (n, {size}, {size}, 1) pixels, not {pixels.shape}")
    chunk = min(CHUNK, -(-len(pixels) // streams))
    chunks = [np.ascontiguousarray(pixels[start : start + chunk], np.float32) for start in range(0, len(pixels), chunk)]
    results = infer(chunks)
    return results[0] if len(chunks) == 1 else tuple(map(np.concatenate, zip(*results, strict=True)))


@lru_cache(maxsize=4)
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The features of this CPU that influence an engine's choice of kernels; empty if the system does not list them."""
    if not cpuinfo.is_file():
        return ()
    lines = (
        line for line in cpuinfo.read_text(errors="replace").splitlines() if line.startswith(("flags", "Features"))
    )
    cpu_features = set(next(iter(lines), "").partition(":")[2].split())
    return tuple(flag for flag in CPU_FLAGS if flag in cpu_features)


def _compile_openvino(path: Path, precision: str, outputs: tuple[str, ...]) -> dict[str, Any]:
    # Importing openvino_telemetry writes to the home folder and reports to its maker; OpenVINO has a silent stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    cores = len(os.sched_getaffinity(0))
    streams = cores if path.stat().st_size < LIGHT_GRAPH_BYTES else 1
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISAS_WITHOUT_BFLOAT16:
        precision = "float32"
    hints = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": cores,
        "ENABLE_CPU_PINNING": False,  # several workers share the cores
    }
    try:
        core = openvino.Core()
        model = core.read_model(path)
        size, width = _check_contract(
            path,
            {name: _openvino_shape(port) for port in model.inputs for name in port.get_names()},
            {name: _openvino_shape(port) for port in model.outputs for name in port.get_names()},
            outputs,
        )
        compiled = core.compile_model(model, "CPU", hints)
    except RuntimeError as error:
        raise Fault(
            f"{path}: OpenVINO cannot run this graph ({str(error).splitlines()[-1][:200]}); export it again"
        ) from error
    effective = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    names = {short: name for name, short in PRECISIONS.items()}
    return {
        "size": size,
        "width": width,
        "engine": "openvino",
        "version": openvino.get_version().partition("-")[0],
        "precision": names.get(effective, effective),
        "streams": streams,
        "infer": partial(_run_in_streams, _create_requests(compiled, streams, size), outputs),
    }


def _create_requests(compiled: Any, streams: int, size: int) -> SimpleQueue[Any]:
    """The idle inference requests of a compiled model, one per stream.

    Each runs once here. Otherwise two threads that pass OpenVINO the first array of a process at the same moment would
    deadlock: one has the interpreter's lock, the other the binding's.
    """
    idle_requests: SimpleQueue[Any] = SimpleQueue()
    for _ in range(streams):
        request = compiled.create_infer_request()
        request.infer({INPUT: np.zeros((1, size, size, 1), np.float32)})
        idle_requests.put(request)
    return idle_requests


def _run_in_streams(
    idle_requests: SimpleQueue[Any], names: tuple[str, ...], chunks: list[Array]
) -> list[tuple[Array, ...]]:
    """Run the chunks in order, in parallel on as many requests as are idle; wait until at least one is."""
    requests = [idle_requests.get()]
    outputs: list[tuple[Array, ...]] = []
    try:
        with suppress(Empty):
            while len(requests) < len(chunks):
                requests.append(idle_requests.get_nowait())
        for start in range(0, len(chunks), len(requests)):
            running = list(zip(requests, chunks[start : start + len(requests)], strict=False))
            for request, chunk in running:
                request.start_async({INPUT: chunk}, share_inputs=True)
            for request, _ in running:
                request.wait()
                outputs.append(tuple(_read_output(request, name) for name in names))
    finally:
        for request in requests:
            idle_requests.put(request)
    return outputs


def _read_output(request: Any, name: str) -> Array:
    return np.array(request.get_tensor(name).data, np.float32)


def _openvino_shape(port: Any) -> list[int | None]:
    return [axis.get_length() if axis.is_static else None for axis in port.get_partial_shape()]


def _compile_onnxruntime(path: Path, precision: str, outputs: tuple[str, ...]) -> dict[str, Any]:
    """ONNX Runtime has no bfloat16 on x86, so it always runs float32, and `facts` reports float32."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, at the import
    import onnxruntime

    del precision
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise Fault(f"{path}: ONNX Runtime cannot run this graph ({str(error)[:200]}); export it again") from error
    size, width = _check_contract(
        path,
        {port.name: list(port.shape) for port in session.get_inputs()},
        {port.name: list(port.shape) for port in session.get_outputs()},
        outputs,
    )

    def infer(chunks: list[Array]) -> list[tuple[Array, ...]]:
        return [tuple(session.run(list(outputs), {INPUT: chunk})) for chunk in chunks]

    return {
        "size": size,
        "width": width,
        "engine": "onnxruntime",
        "version": onnxruntime.__version__,
        "precision": "float32",
        "streams": 1,
        "infer": infer,
    }


def _check_contract(
    path: Path, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], names: tuple[str, ...]
) -> tuple[int, int]:
    """Check the names and shapes of a graph's inputs and outputs; return image size and width of the first output."""
    if INPUT not in inputs or not set(names) <= outputs.keys():
        raise Fault(
            f"{path}: the graph has inputs {sorted(inputs)} and outputs {sorted(outputs)}, "
            f"but serving needs {INPUT!r} and {', '.join(map(repr, names))}; export it again"
        )
    shape, matrix = inputs[INPUT], outputs[names[0]]
    if len(shape) != 4 or not isinstance(shape[1], int) or shape[2] != shape[1] or shape[3] != 1:
        raise Fault(f"{path}: the input has shape {shape}, but serving needs (n, size, size, 1); export it again")
    if len(matrix) != 2 or not isinstance(matrix[1], int):
        raise Fault(f"{path}: the {names[0]} have shape {matrix}, but serving needs (n, width); export it again")
    return shape[1], matrix[1]
