"""Run an exported graph on the CPU: OpenVINO or ONNX Runtime, one contract."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineage.fault import Fault

Array = NDArray[np.float32]
Infer = Callable[[Array], tuple[Array, Array]]

ENGINES = ("openvino", "onnxruntime")
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
INPUT, LOGITS, FEATURES = "pixels", "logits", "features"
CHUNK = 64  # images at a time: bounds the memory of a long series, and changes no result
CPU_FLAGS = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx512_vnni", "avx2", "fma", "asimd")


@dataclass(frozen=True)
class Graph:
    """A compiled graph: `pixels` (n, size, size, 1) in [0, 1] to logits and the feature maps before the pooling.

    Compiled once, and safe to share between threads: one inference at a time runs in it.
    """

    path: Path
    size: int
    classes: int
    engine: str
    version: str
    precision: str
    infer: Infer = field(repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(cls, path: Path, engine: str = "openvino", precision: str = "float32") -> Graph:
        """Compile an ONNX file. Raises Fault for an absent file, another engine or precision, or a wrong contract."""
        if engine not in ENGINES:
            raise Fault(f"serving.engine {engine!r} is unknown: use one of {', '.join(ENGINES)}")
        if precision not in PRECISIONS:
            raise Fault(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
        if not path.is_file():
            raise Fault(f"{path}: there is no exported graph; train the task first, or restore the file")
        load = _openvino if engine == "openvino" else _onnxruntime
        return cls(path, **load(path, precision))

    def run(self, pixels: Array) -> tuple[Array, Array]:
        """Logits (n, classes) and features (n, height, width, channels), both float32."""
        if pixels.ndim != 4 or pixels.shape[1:] != (self.size, self.size, 1) or not len(pixels):
            raise ValueError(f"the graph takes (n, {self.size}, {self.size}, 1) pixels, not {pixels.shape}")
        chunks = [np.ascontiguousarray(pixels[at : at + CHUNK], np.float32) for at in range(0, len(pixels), CHUNK)]
        with self.lock:
            answers = [self.infer(chunk) for chunk in chunks]
        return np.concatenate([logits for logits, _ in answers]), np.concatenate([maps for _, maps in answers])

    def facts(self) -> dict[str, Any]:
        """What an answer depends on beside the graph: engine, its version, the precision in effect, CPU features."""
        return {"engine": self.engine, "version": self.version, "precision": self.precision, "cpu": list(cpu_flags())}


@lru_cache(maxsize=4)
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those features of this CPU that change which kernels an engine picks; empty where the system does not say."""
    if not cpuinfo.is_file():
        return ()
    lines = (
        line for line in cpuinfo.read_text(errors="replace").splitlines() if line.startswith(("flags", "Features"))
    )
    present = set(next(iter(lines), "").partition(":")[2].split())
    return tuple(flag for flag in CPU_FLAGS if flag in present)


def _openvino(path: Path, precision: str) -> dict[str, Any]:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # else its mere import writes to the
    import openvino  # home folder and reports to its maker; without that package it takes its own silent stub

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
    try:
        core = openvino.Core()
        model = core.read_model(path)
        size, classes = _contract(
            path,
            {name: _openvino_shape(port) for port in model.inputs for name in port.get_names()},
            {name: _openvino_shape(port) for port in model.outputs for name in port.get_names()},
        )
        compiled = core.compile_model(model, "CPU", hints)
    except RuntimeError as error:
        raise Fault(
            f"{path}: OpenVINO cannot run this graph ({str(error).splitlines()[-1][:200]}); export it again"
        ) from error
    request = compiled.create_infer_request()

    def infer(pixels: Array) -> tuple[Array, Array]:
        answer = request.infer({INPUT: pixels})
        return np.asarray(answer[LOGITS], np.float32), np.asarray(answer[FEATURES], np.float32)

    effective = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    names = {short: name for name, short in PRECISIONS.items()}
    return {
        "size": size,
        "classes": classes,
        "engine": "openvino",
        "version": openvino.get_version().partition("-")[0],
        "precision": names.get(effective, effective),
        "infer": infer,
    }


def _openvino_shape(port: Any) -> list[int | None]:
    return [axis.get_length() if axis.is_static else None for axis in port.get_partial_shape()]


def _onnxruntime(path: Path, precision: str) -> dict[str, Any]:
    """ONNX Runtime has no bfloat16 on x86: whatever was asked, float32 runs, and `facts` says so."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read once, at the import
    import onnxruntime

    del precision
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise Fault(f"{path}: ONNX Runtime cannot run this graph ({str(error)[:200]}); export it again") from error
    size, classes = _contract(
        path,
        {port.name: list(port.shape) for port in session.get_inputs()},
        {port.name: list(port.shape) for port in session.get_outputs()},
    )

    def infer(pixels: Array) -> tuple[Array, Array]:
        logits, maps = session.run([LOGITS, FEATURES], {INPUT: pixels})
        return logits, maps

    return {
        "size": size,
        "classes": classes,
        "engine": "onnxruntime",
        "version": onnxruntime.__version__,
        "precision": "float32",
        "infer": infer,
    }


def _contract(path: Path, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> tuple[int, int]:
    """Image size and number of classes, after checking the names and shapes that every exported graph has."""
    if INPUT not in inputs or not {LOGITS, FEATURES} <= outputs.keys():
        raise Fault(
            f"{path}: the graph has inputs {sorted(inputs)} and outputs {sorted(outputs)}, "
            f"but serving needs {INPUT!r} and {LOGITS!r}, {FEATURES!r}; export it again"
        )
    shape, logits = inputs[INPUT], outputs[LOGITS]
    if len(shape) != 4 or not isinstance(shape[1], int) or shape[2] != shape[1] or shape[3] != 1:
        raise Fault(f"{path}: its input has shape {shape}, but serving needs (n, size, size, 1); export it again")
    if len(logits) != 2 or not isinstance(logits[1], int):
        raise Fault(f"{path}: its logits have shape {logits}, but serving needs (n, classes); export it again")
    return shape[1], logits[1]
