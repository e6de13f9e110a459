"""Evaluation of the exported graph: metrics of test units that can be recomputed from the CSV file."""

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
from training.evaluation import answered, evaluate, metrics

pytestmark = pytest.mark.usefixtures("home")


def test_every_metric_can_be_recomputed_with_scikit_learn(trained: Any, samples: Any) -> None:
    judged = evaluate.read_predictions(trained.evaluation)
    test, test_metrics = judged[judged["side"] == "test"], trained.metrics["test"]
    positive, classes = test["positive"], list(samples.TASK.classes)
    labels, predicted = test["label"], test["predicted"]
    expected = {
        "auroc": sklearn.roc_auc_score(positive, test["score"]),
        "auprc": sklearn.average_precision_score(positive, test["score"]),
        "sensitivity": sklearn.recall_score(positive, test["flagged"]),
        "specificity": sklearn.recall_score(positive, test["flagged"], pos_label=0),
        "accuracy": sklearn.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn.f1_score(labels, predicted, average="macro"),
        "brier": sklearn.brier_score_loss(positive, test["score"]),
    }
    for name, value in expected.items():
        assert test_metrics[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert test_metrics[name]["low"] <= test_metrics[name]["value"] <= test_metrics[name]["high"]
    assert test_metrics["confusion"] == sklearn.confusion_matrix(labels, predicted, labels=classes).tolist()
    assert 0 <= test_metrics["ece"]["value"] <= 1


def test_a_fitted_network_detects_the_spots(trained: Any) -> None:
    assert trained.metrics["test"]["auroc"]["value"] > 0.8


def test_predictions_have_the_validation_and_test_units(trained: Any, samples: Any) -> None:
    judged = evaluate.read_predictions(trained.evaluation)
    assert set(judged["side"]) == {"validation", "test"}
    table = trained.units.table
    assert list(judged["unit_id"]) == list(table.loc[table["side"] != "training", "unit_id"])
    assert np.allclose(judged[[f"p_{name}" for name in samples.TASK.classes]].sum(axis=1), 1, atol=1e-5)
    assert ((judged["predicted"] == "malignant") == (judged["flagged"] == 1)).all()


def test_counts_and_subgroups(trained: Any) -> None:
    computed = trained.metrics
    assert [computed["counts"][side]["clusters"] for side in ("training", "validation", "test")] == [48, 30, 42]
    assert set(computed["epochs"]) == {"1", "2"}
    assert set(computed["sites"]) == {"north", "not told"}
    assert sum(subgroup["units"] for subgroup in computed["epochs"].values()) == computed["test"]["units"]


def test_a_subgroup_with_few_patients_is_unknown(samples: Any) -> None:
    positive = np.arange(30) < 8
    judged = samples.judged(np.linspace(0.9, 0.1, 30), positive).assign(site=["a"] * 4 + ["b"] * 26)
    metrics_by_site = metrics.metrics_by_value(judged, "site", ("normal", "tumour"), samples.EVALUATE)
    assert metrics_by_site["a"]["status"] == "unknown"
    assert "auroc" not in metrics_by_site["a"]
    assert metrics_by_site["b"]["status"] == "unknown"  # four positive patients


def test_the_folder_of_a_version_gives_the_same_predictions(trained: Any, samples: Any, tmp_path: Path) -> None:
    for name in ("graph.onnx", "calibration.json"):
        source = trained.models if name == "graph.onnx" else trained.evaluation
        shutil.copy(source / name, tmp_path / name)
    again = evaluate.predict_held_out(trained.units, tmp_path, samples.TASK)
    pd.testing.assert_frame_equal(again, evaluate.read_predictions(trained.evaluation), check_dtype=False)
    with pytest.raises(Fault, match="evaluate the task again"):
        evaluate.predict_held_out(trained.units, trained.models, samples.TASK)


def test_the_reference_has_the_held_out_patients(trained: Any) -> None:
    table = pd.read_csv(trained.evaluation / "reference.csv")
    assert set(table["side"]) == {"validation", "test"}
    assert "mean" in table
    with np.load(trained.evaluation / "reference.npz") as arrays:
        assert arrays["embeddings"].shape == (len(table), 32)
        assert list(arrays["clusters"]) == list(table["cluster"])
        assert np.allclose(arrays["scores"], table["score"], atol=1e-6)
        assert arrays["distances"].shape == (len(table),)
    assert outlier.distance_limit(trained.evaluation / "reference.npz", 0.995) > 0


def test_plots_are_png_files(trained: Any) -> None:
    for name in ("roc", "precision_recall", "reliability", "confusion", "learning", "errors"):
        assert (trained.evaluation / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_precision_was_checked(trained: Any) -> None:
    calibration = json.loads((trained.evaluation / "calibration.json").read_text())
    assert calibration["precision"] in ("bfloat16", "float32")
    if calibration["precision"] == "bfloat16":
        assert calibration["precision_check"]["difference"] <= evaluate.MAX_BFLOAT16_DIFFERENCE
    assert calibration["clusters"] == 30


def test_evaluating_again_gives_the_same_files(trained: Any, samples: Any, tmp_path: Path) -> None:
    evaluate.evaluate(
        trained.units, samples.TASK, trained.models, samples.CALIBRATE, samples.EVALUATE, tmp_path / "again"
    )
    for path in sorted(trained.evaluation.iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_training_units_and_test_labels_do_not_change_the_calibration(
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
def test_an_empty_split_is_refused(trained: Any, samples: Any, tmp_path: Path, side: str) -> None:
    units = trained.units.where(trained.units.table["side"] != side)
    with pytest.raises(Fault, match=f"no unit in the {side} split"):
        evaluate.evaluate(units, samples.TASK, trained.models, samples.CALIBRATE, samples.EVALUATE, tmp_path)


def test_evaluation_needs_no_training_framework() -> None:
    code = (
        "import sys; import training.evaluation.evaluate, training.promotion.gate, training.promotion.comparison; "
        "import training.mlflow_runs;"
        "print([m for m in ('tensorflow', 'keras', 'mlflow', 'scipy', 'sklearn') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_coverage_and_the_metrics_of_answered_units_are_those_of_the_serving_gate(trained: Any, samples: Any) -> None:
    calibrated = json.loads((trained.evaluation / "calibration.json").read_text())
    predictions = evaluate.read_predictions(trained.evaluation)
    test = predictions[predictions["side"] == "test"]
    class_probabilities = test[[f"p_{name}" for name in samples.TASK.classes]].to_numpy(np.float32)
    reasons = answered.withheld_reasons(class_probabilities, calibrated["conformal"], 0.0)
    assert test["withheld"].tolist() == reasons.tolist()
    figures = trained.metrics["test"]
    assert figures["coverage"]["value"] == pytest.approx((reasons == "").mean())
    assert figures["withheld"] == {reason: int((reasons == reason).sum()) for reason in answered.REASONS}
    is_correct = (test["label"] == test["predicted"]).to_numpy()
    assert figures["answered_accuracy"]["value"] == pytest.approx(is_correct[reasons == ""].mean())
    for subgroup in trained.metrics["sites"].values():
        assert set(subgroup["withheld"]) == set(answered.REASONS)
    assert calibrated["scores"]["positive"]["inside"]
    assert (trained.evaluation / "risk_coverage.png").is_file()
