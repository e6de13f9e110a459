"""Fitting on JAX without TensorFlow; the graph is exported with TensorFlow and agrees with the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lineage.errors import Fault
from serving.inference.graph import Graph
from training.evaluation import evaluate
from training.network import onnx_export

pytestmark = pytest.mark.usefixtures("home")
WITHOUT = """
import sys
sys.modules["tensorflow"] = None  # every import of it fails, as if it were not installed
"""
FOLDER = """
folder = Path(sys.argv[3])
"""
FIT = """
from training.fitting import fit
settings = replace(samples.FIT, mask_weight=0.5)
print(json.dumps(asdict(fit.fit(samples.units(), samples.TASK, settings, folder / "models"))))
"""
EVALUATE = """
from training.evaluation import evaluate
metrics = evaluate.evaluate(samples.units(), samples.TASK, folder / "models", samples.CALIBRATE, samples.EVALUATE,
                            folder / "evaluation")
print(json.dumps(metrics["test"]["auroc"]))
"""
LOADED = """
wrong = [name for name, module in sys.modules.items() if name.split(".")[0] in ("tensorflow", "keras") and module]
assert "evaluate" not in sys.argv[2] or not wrong, wrong
assert sys.modules["tensorflow"] is None
"""


def without_tensorflow(samples: Any, folder: Path, code: str) -> Any:
    """Run code in a process that cannot import TensorFlow; return the JSON of its last line."""
    program = WITHOUT + samples.PROGRAM + FOLDER + code + LOADED
    name = "evaluate" if code is EVALUATE else "fit"
    process = subprocess.run(
        [sys.executable, "-c", program, str(samples.__file__), name, str(folder)],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def fitted(samples: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `models`, fitted on JAX where TensorFlow is absent; no graph yet."""
    pytest.importorskip("jax", reason="the extra `jax` is not installed")
    folder = tmp_path_factory.mktemp("jax")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOLOOP_HOME", str(folder / "var"))
        report = without_tensorflow(samples, folder, FIT)
    assert report["backend"] == "jax"
    assert report["graph_sha256"] is None and report["parity"] is None
    return folder


def test_a_fit_without_tensorflow_leaves_weights_and_no_graph(fitted: Path, samples: Any, tmp_path: Path) -> None:
    names = {path.name for path in (fitted / "models").iterdir()}
    assert names == {"weights.weights.h5", "fit.json", "history.csv", "expected.npz"}
    assert len(pd.read_csv(fitted / "models" / "history.csv")) == 3
    with pytest.raises(Fault, match="there is no exported graph"):
        evaluate.evaluate(
            samples.units(),
            samples.TASK,
            fitted / "models",
            samples.CALIBRATE,
            samples.EVALUATE,
            tmp_path / "evaluation",
        )


def test_its_weights_are_exported_with_tensorflow_and_evaluated_without(fitted: Path, samples: Any) -> None:
    units = samples.units()
    validation = units.where(units.table["side"] == "validation")
    difference, graph_sha256 = onnx_export.export_and_verify(fitted / "models", validation)
    assert difference < 1e-4
    report = json.loads((fitted / "models" / "fit.json").read_text())
    assert report["backend"] == "jax" and report["graph_sha256"] == graph_sha256 and report["parity"] == difference
    graph = Graph.load(fitted / "models" / "graph.onnx", "onnxruntime")
    logits, features = graph.run(units.pixels[:4])
    assert logits.shape == (4, 3) and features.shape == (4, samples.SIZE // 8, samples.SIZE // 8, 128)
    auroc = without_tensorflow(samples, fitted, EVALUATE)
    assert auroc["value"] > 0.8


def test_an_export_with_other_validation_units_is_refused(fitted: Path, samples: Any) -> None:
    with pytest.raises(Fault, match="other validation units; prepare its data version"):
        onnx_export.export_and_verify(fitted / "models", samples.units(20))


def test_a_graph_with_other_probabilities_is_refused_and_removed(trained: Any, tmp_path: Path) -> None:
    for name in ("weights.weights.h5", "fit.json", "expected.npz"):
        (tmp_path / name).write_bytes((trained.models / name).read_bytes())
    with np.load(tmp_path / "expected.npz") as content:
        np.savez(tmp_path / "expected.npz", units=content["units"], probabilities=content["probabilities"][::-1])
    validation = trained.units.where(trained.units.table["side"] == "validation")
    with pytest.raises(Fault, match="differs from the network by"):
        onnx_export.export_and_verify(tmp_path, validation)
    assert not (tmp_path / "graph.onnx").exists()
