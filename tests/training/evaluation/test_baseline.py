"""The baseline: its inputs, its metrics recomputed, and the paired difference to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn

from data.core_types import Modality, Scan, ValueUnit
from data.dataset import shards
from data.phantom import batch
from data.phantom import scanner as phantom_scanner
from data.phantom import study as phantom_study
from data.scan.preprocess import unit_pixels
from data.scan.slice_features import describe
from pipelines import params
from training.evaluation import baseline, evaluate

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("home")


def test_its_metrics_and_the_difference_can_be_recomputed(trained: Any, samples: Any) -> None:
    comparison = json.loads((trained.evaluation / "metrics.json").read_text())["baseline"]
    baseline_table = pd.read_csv(trained.evaluation / "baseline.csv")
    predictions = evaluate.read_predictions(trained.evaluation)
    assert list(baseline_table["unit_id"]) == list(predictions["unit_id"])
    baseline_test, network_test = (
        baseline_table[baseline_table["side"] == "test"],
        predictions[predictions["side"] == "test"],
    )
    areas = [sklearn.roc_auc_score(table["positive"], table["score"]) for table in (network_test, baseline_test)]
    balanced_accuracies = [
        sklearn.balanced_accuracy_score(table["label"], table["predicted"]) for table in (network_test, baseline_test)
    ]
    assert comparison["auroc"]["value"] == pytest.approx(areas[1], abs=1e-9)
    assert comparison["difference"]["value"] == pytest.approx(areas[0] - areas[1], abs=1e-9)
    assert comparison["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracies[1], abs=1e-9)
    assert comparison["difference_balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracies[0] - balanced_accuracies[1], abs=1e-9
    )
    for name in ("difference", "difference_balanced_accuracy"):
        assert comparison[name]["low"] <= comparison[name]["value"] <= comparison[name]["high"]
    assert comparison["model"] == "logistic regression"
    assert comparison["features"] == [
        "mean",
        *(name for name in comparison["features"] if name.startswith("prepared_")),
    ]


def test_it_does_not_use_test_labels(samples: Any) -> None:
    units = samples.units()
    first, _ = baseline.judge(units, samples.TASK, seed=7)
    test = (units.table["side"] == "test").to_numpy()
    units.labels[test] = 0
    units.table.loc[test, "label"] = "normal"
    again, _ = baseline.judge(units, samples.TASK, seed=7)
    columns = ["score", "flagged", "predicted"]
    pd.testing.assert_frame_equal(first[columns], again[columns])
    units.labels[~test] = np.roll(units.labels[~test], 6)
    after_change, _ = baseline.judge(units, samples.TASK, seed=7)
    assert not np.allclose(first["score"], after_change["score"])


def test_it_uses_brightness_and_not_the_position_of_a_spot(samples: Any) -> None:
    units = samples.units()
    brightened = replace(units, pixels=np.clip(units.pixels + 0.2 * (units.labels == 2)[:, None, None, None], 0, 1))
    for spot_units, low, high in ((brightened, 0.95, 1.0), (moved_spots(samples), 0.3, 0.7)):
        judged, _ = baseline.judge(spot_units, samples.TASK, seed=7)
        test = judged[judged["side"] == "test"]
        assert low <= sklearn.roc_auc_score(test["positive"], test["score"]) <= high


def moved_spots(samples: Any) -> Any:
    """Malignant spots in the upper half, all others in the lower: equal intensities at other positions."""
    units = samples.units()
    pixels = np.random.default_rng(1).normal(0.4, 0.05, units.pixels.shape)
    for image, label in zip(pixels, units.labels, strict=True):
        image[(slice(4, 10) if label == 2 else slice(20, 26)), 10:16] += 0.4
    return replace(units, pixels=np.clip(pixels, 0, 1).astype(np.float32), table=units.table.drop(columns="mean"))


@pytest.mark.parametrize(
    ("name", "scanner", "slices"),
    [
        ("lung-ct", "alder-ct", 1),
        ("pancreas-ct", "birch-ct", 1),
        ("lung-stage", "alder-ct", 1),
        ("brain-mr", "birch-mr", 2),
        ("brain-mr", "shifted-mr", 2),
    ],
)
def test_intensities_of_phantoms_do_not_predict_the_label(name: str, scanner: str, slices: int) -> None:
    """On every shipped task the baseline is far from perfect: the label needs shape and position."""
    task, patients = params.load(ROOT).tasks[name], 200
    rows, images = [], []
    for number in range(patients):
        study = phantom_study.make_study(
            task, phantom_scanner.SCANNERS[scanner], 3, number, task.classes[number % len(task.classes)]
        )
        for index in range(slices):
            has_lesion = slices == 1 or batch.slice_shows_lesion(study, index, slices)
            plane, pixel = study.slice(index, slices, has_lesion)
            units = ValueUnit.HU if task.modality == Modality.CT else ValueUnit.RAW
            scan = Scan("x", plane[None].astype(np.float32), units, task.modality, (1.0, pixel, pixel))
            images.append(unit_pixels(scan.pixels[0], units, task.pixels))
            side = "training" if number < 90 else "validation" if number < 120 else "test"
            rows.append(
                {
                    **describe(scan.pixels[0], scan),
                    "unit_id": f"{number}-{index}",
                    "cluster": str(number),
                    "side": side,
                    "epoch": 1,
                    "label": study.label if has_lesion else task.classes[0],
                }
            )
    table = pd.DataFrame(rows)
    labels = np.array([task.classes.index(label) for label in table["label"]])
    judged, _ = baseline.judge(shards.Units(table, np.stack(images), labels), task, seed=7)
    test = judged[judged["side"] == "test"]
    assert sklearn.roc_auc_score(test["positive"], test["score"]) < 0.85


def test_the_difference_is_paired_and_resamples_clusters(samples: Any) -> None:
    """Equal scores have no difference in any draw; twice the slices of a patient change no interval."""
    positive = np.arange(80) % 4 == 0
    random = np.random.default_rng(3)
    scores = np.clip(positive * 0.3 + random.uniform(0, 0.7, 80), 0, 1)
    task = replace(samples.TASK, classes=("normal", "tumour"), positive=("tumour",))
    judged, rival = samples.judged(scores, positive), samples.judged(random.uniform(0, 1, 80), positive)
    against_itself = baseline.compare(judged, judged.drop(columns=["case"]), (), task, samples.EVALUATE)
    assert against_itself["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    once = baseline.compare(judged, rival, (), task, samples.EVALUATE)["difference"]
    twice = [
        table.loc[table.index.repeat(2)].assign(unit_id=[f"u{number}" for number in range(160)])
        for table in (judged, rival)
    ]
    again = baseline.compare(*twice, (), task, samples.EVALUATE)["difference"]
    assert again == pytest.approx(once)
    assert once["low"] > 0
