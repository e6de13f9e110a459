"""bench/training/gpu_throughput.py runs without a GPU, says why a column is empty, and counts operations correctly."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("home")
BENCH = Path(__file__).resolve().parents[2] / "bench" / "training" / "gpu_throughput.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", BENCH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_small_is_measured_on_a_cpu_and_missing_packages_are_named() -> None:
    command = [sys.executable, str(BENCH), "--networks", "small", "--batch", "4", "--steps", "2", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = {row["engine"]: row for row in json.loads(process.stdout)}
    assert list(rows) == ["keras-jax", "keras-tensorflow", "pytorch"]
    assert rows["keras-tensorflow"]["images_per_second"] > 1
    assert rows["keras-tensorflow"]["feed_ms"] > 0
    assert "operations" not in rows["keras-tensorflow"]
    for engine, module in (("keras-jax", "jax"), ("pytorch", "torch")):
        if importlib.util.find_spec(module) is None:
            assert rows[engine]["note"] == f"{module} is not installed"
        else:
            assert rows[engine]["images_per_second"] > 1, rows[engine]


@pytest.mark.parametrize(("network", "size"), [("small", 128), ("resnet50", 224)])
def test_operations_are_those_of_the_network(bench: ModuleType, samples: Any, network: str, size: int) -> None:
    import keras

    from training.network.model import build

    counted = 0.0
    for layer in build(replace(samples.FIT, backbone=network), 3, size)._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D):
            side = layer.output.shape[1]
            counted += (
                3
                * 2
                * side**2
                * float(layer.kernel.shape[0] * layer.kernel.shape[1] * layer.kernel.shape[2] * layer.kernel.shape[3])
            )
    assert bench.operations(network) == pytest.approx(counted, rel=0.07)
