"""Evaluation: on the exported graph, of test units alone, and every figure can be computed again from its CSV."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn

from lineage.errors import Fault
from serving.inference import outlier
from training.evaluation import evaluate, metrics

pytestmark = pytest.mark.usefixtures("home")


def test_a_stranger_can_recompute_every_figure(trained: Any, samples: Any) -> None:
    judged = evaluate.read_predictions(trained.evaluation)
    test, told = judged[judged["side"] == "test"], trained.metrics["test"]
    positive, classes = test["positive"], list(samples.TASK.classes)
    truth, answer = test["label"], test["predicted"]
    expected = {
        "auroc": sklearn.roc_auc_score(positive, test["score"]),
        "auprc": sklearn.average_precision_score(positive, test["score"]),
        "sensitivity": sklearn.recall_score(positive, test["flagged"]),
        "specificity": sklearn.recall_score(positive, test["flagged"], pos_label=0),
        "accuracy": sklearn.accuracy_score(truth, answer),
        "balanced_accuracy": sklearn.balanced_accuracy_score(truth, answer),
        "macro_f1": sklearn.f1_score(truth, answer, average="macro"),
        "brier": sklearn.brier_score_loss(positive, test["score"]),
    }
    for name, value in expected.items():
        assert told[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert told[name]["low"] <= told[name]["value"] <= told[name]["high"]
    assert told["confusion"] == sklearn.confusion_matrix(truth, answer, labels=classes).tolist()
    assert 0 <= told["ece"]["value"] <= 1


def test_a_network_that_saw_spots_finds_them(trained: Any) -> None:
    assert trained.metrics["test"]["auroc"]["value"] > 0.8


def test_predictions_hold_the_validation_and_test_units(trained: Any, samples: Any) -> None:
    judged = evaluate.read_predictions(trained.evaluation)
    assert set(judged["side"]) == {"validation", "test"}
    table = trained.units.table
    assert list(judged["unit_id"]) == list(table.loc[table["side"] != "training", "unit_id"])
    assert np.allclose(judged[[f"p_{name}" for name in samples.TASK.classes]].sum(axis=1), 1, atol=1e-5)
    assert ((judged["predicted"] == "malignant") == (judged["flagged"] == 1)).all()


def test_counts_and_slices(trained: Any) -> None:
    told = trained.metrics
    assert [told["counts"][side]["clusters"] for side in ("training", "validation", "test")] == [48, 30, 42]
    assert set(told["epochs"]) == {"1", "2"}
    assert set(told["sites"]) == {"north", "not told"}
    assert sum(part["units"] for part in told["epochs"].values()) == told["test"]["units"]


def test_a_slice_with_few_patients_is_unknown(samples: Any) -> None:
    positive = np.arange(30) < 8
    judged = samples.judged(np.linspace(0.9, 0.1, 30), positive).assign(site=["a"] * 4 + ["b"] * 26)
    told = metrics.slices(judged, "site", ("normal", "tumour"), samples.EVALUATE)
    assert told["a"]["status"] == "unknown"
    assert "auroc" not in told["a"]
    assert told["b"]["status"] == "unknown"  # four positive patients


def test_the_folder_of_a_version_judges_new_units_the_same(trained: Any, samples: Any, tmp_path: Path) -> None:
    for name in ("graph.onnx", "calibration.json"):
        source = trained.models if name == "graph.onnx" else trained.evaluation
        shutil.copy(source / name, tmp_path / name)
    again = evaluate.predictions(trained.units, tmp_path, samples.TASK)
    pd.testing.assert_frame_equal(again, evaluate.read_predictions(trained.evaluation), check_dtype=False)
    with pytest.raises(Fault, match="evaluate the task again"):
        evaluate.predictions(trained.units, trained.models, samples.TASK)


def test_reference_is_of_held_out_patients(trained: Any) -> None:
    table = pd.read_csv(trained.evaluation / "reference.csv")
    assert set(table["side"]) == {"validation", "test"}
    assert "mean" in table
    with np.load(trained.evaluation / "reference.npz") as arrays:
        assert arrays["embeddings"].shape == (len(table), 32)
        assert list(arrays["clusters"]) == list(table["cluster"])
        assert np.allclose(arrays["scores"], table["score"], atol=1e-6)
        assert arrays["distances"].shape == (len(table),)
    assert outlier.limit(trained.evaluation / "reference.npz", 0.995) > 0


def test_pictures_for_people(trained: Any) -> None:
    for name in ("roc", "precision_recall", "reliability", "confusion", "learning", "errors"):
        assert (trained.evaluation / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_precision_is_what_was_checked(trained: Any) -> None:
    told = json.loads((trained.evaluation / "calibration.json").read_text())
    assert told["precision"] in ("bfloat16", "float32")
    if told["precision"] == "bfloat16":
        assert told["precision_check"]["difference"] <= evaluate.HALF_DIFFERENCE
    assert told["clusters"] == 30


def test_evaluating_again_gives_the_same_files(trained: Any, samples: Any, tmp_path: Path) -> None:
    evaluate.evaluate(
        trained.units, samples.TASK, trained.models, samples.CALIBRATE, samples.EVALUATE, tmp_path / "again"
    )
    for path in sorted(trained.evaluation.iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_training_side_and_the_labels_of_the_test_side_calibrate_nothing(
    trained: Any, samples: Any, tmp_path: Path
) -> None:
    units = trained.units.where(trained.units.table["side"] != "training")
    test = (units.table["side"] == "test").to_numpy()
    units.labels[test] = 0
    units.table.loc[test, "label"] = "normal"
    settings = replace(samples.EVALUATE, bootstrap=10)
    evaluate.evaluate(units, samples.TASK, trained.models, samples.CALIBRATE, settings, tmp_path)
    assert (tmp_path / "calibration.json").read_bytes() == (trained.evaluation / "calibration.json").read_bytes()


@pytest.mark.parametrize("side", ["validation", "test"])
def test_an_empty_side_is_named(trained: Any, samples: Any, tmp_path: Path, side: str) -> None:
    units = trained.units.where(trained.units.table["side"] != side)
    with pytest.raises(Fault, match=f"no unit on the {side} side"):
        evaluate.evaluate(units, samples.TASK, trained.models, samples.CALIBRATE, samples.EVALUATE, tmp_path)


def test_evaluation_needs_no_training_framework() -> None:
    code = (
        "import sys; import training.evaluation.evaluate, training.promotion.gate, training.promotion.comparison; "
        "import training.mlflow_runs;"
        "print([m for m in ('tensorflow', 'keras', 'mlflow', 'scipy', 'sklearn') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
