"""Calibration: temperature, operating point and conformal quantiles."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from serving.inference.predict import probabilities
from training.evaluation import answered, calibration
from training.settings import CalibrateSettings


def test_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 4000)
    logits = random.normal(0, 1, (4000, 2)) + 1.5 * np.eye(2)[labels]
    temperature = calibration.temperature(logits.astype(np.float32), labels)
    assert calibration.temperature((3 * logits).astype(np.float32), labels) == pytest.approx(3 * temperature, rel=0.02)


def test_temperature_of_separated_units_is_bounded() -> None:
    labels = np.array([0, 1, 0, 1])
    assert calibration.temperature((9 * np.eye(2)[labels]).astype(np.float32), labels) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sensitivity", [0.5, 0.9])
def test_operating_point_reaches_the_sensitivity_with_the_largest_youden_index(seed: int, sensitivity: float) -> None:
    random = np.random.default_rng(seed)
    positive = random.uniform(size=80) < 0.4
    scores = np.clip(random.normal(0.4 + 0.2 * positive, 0.15), 0, 1)
    point = calibration.operating_point(scores, positive, sensitivity)

    def youden_index(threshold: float) -> float:
        true_positive_rate, false_positive_rate = (
            (scores[positive] >= threshold).mean(),
            (scores[~positive] >= threshold).mean(),
        )
        return float(true_positive_rate - false_positive_rate) if true_positive_rate >= sensitivity else -1.0

    assert youden_index(point) == pytest.approx(max(map(youden_index, scores)))
    assert np.abs(scores - point).min() > 1e-6  # so that rounding changes no answer


def test_a_tumour_is_worth_a_few_false_positives() -> None:
    """Sensitivity 0.9 needs nine of ten tumours. The tenth is flagged at a cost of 2 of 50 negatives, not of 20."""
    positive_scores = [0.5, *np.linspace(0.8, 0.95, 9)]
    for high, point in ((2, 0.45), (20, 0.75)):
        negative_scores = [*np.full(50 - high, 0.4), *np.full(high, 0.7)]
        scores, positive = np.array([*positive_scores, *negative_scores]), np.arange(60) < 10
        assert calibration.operating_point(scores, positive, 0.9) == pytest.approx(point)


def test_operating_point_of_separated_scores_is_between_them() -> None:
    scores = np.array([0.1, 0.2, 0.8, 0.85, 0.95])
    assert calibration.operating_point(scores, scores > 0.5, 0.6) == pytest.approx(0.5)


def test_operating_point_without_positives_is_one_half() -> None:
    assert calibration.operating_point(np.array([0.2, 0.3]), np.array([False, False]), 0.9) == 0.5


def predicted_units(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    logits = random.normal(0, 1, (count, 2)) + 2 * np.eye(2)[labels]
    return probabilities(logits.astype(np.float32), 1.0), labels, np.arange(count).astype(str)


def test_a_class_with_few_clusters_is_not_calibratable() -> None:
    probabilities_of_units, labels, clusters = predicted_units(38)
    settings = CalibrateSettings(19, 0.95)
    assert (
        calibration.conformal(probabilities_of_units, labels, clusters, ("a", "b"), settings)["status"] == "calibrated"
    )
    conformal = calibration.conformal(probabilities_of_units[:-1], labels[:-1], clusters[:-1], ("a", "b"), settings)
    assert conformal["status"] == "not calibratable"
    assert conformal["classes"]["a"] == {
        "clusters": 19,
        "quantile": pytest.approx(conformal["classes"]["a"]["quantile"]),
        "status": "calibrated",
    }
    assert conformal["classes"]["b"] == {"clusters": 18, "quantile": None, "status": "not calibratable"}


def test_conformal_sets_have_the_guaranteed_coverage() -> None:
    coverages = []
    for seed in range(60):
        probabilities_of_units, labels, clusters = predicted_units(100, seed)
        conformal = calibration.conformal(
            probabilities_of_units[:60], labels[:60], clusters[:60], ("a", "b"), CalibrateSettings(19, 0.9)
        )
        limits = np.array([conformal["classes"][name]["quantile"] for name in ("a", "b")])[labels[60:]]
        coverages.append((1 - probabilities_of_units[60:][np.arange(40), labels[60:]] <= limits).mean())
    assert np.mean(coverages) >= 0.9 - 0.01


def weak_units(count: int, separation: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and clusters of two classes that overlap."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    logit = random.normal(size=count) + separation * (labels - 0.5)
    return np.column_stack([-logit, logit]).astype(np.float32) / 2, labels, np.arange(count).astype(str)


def test_level_and_operating_point_answer_most_units_at_the_wanted_sensitivity(samples: Any) -> None:
    task = dataclasses.replace(samples.TASK, classes=("a", "b"), positive=("b",), sensitivity=0.85)
    logits, labels, clusters = weak_units(400, 2.0)
    calibrated = calibration.calibrate(logits, labels, clusters, task, samples.CALIBRATE, "float32", {})
    choice = {entry["level"]: entry for entry in calibrated.level_choice}
    assert list(choice) == pytest.approx(np.arange(0.95, 0.845, -0.01))
    chosen = choice[calibrated.conformal["level"]]
    assert chosen["coverage"] == max(entry["coverage"] for entry in choice.values()) > choice[0.95]["coverage"]
    assert all(entry["sensitivity"] >= 0.85 for entry in choice.values())
    class_probabilities = probabilities(logits, calibrated.temperature)
    is_answered = answered.withheld_reasons(class_probabilities, calibrated.conformal, 0.0) == ""
    flagged = class_probabilities[:, 1] >= calibrated.threshold
    assert is_answered.mean() == chosen["coverage"]
    assert flagged[is_answered & (labels == 1)].mean() == chosen["sensitivity"]


def test_a_wanted_sensitivity_over_the_highest_level_leaves_that_level(samples: Any) -> None:
    task = dataclasses.replace(samples.TASK, classes=("a", "b"), positive=("b",), sensitivity=0.97)
    calibrated = calibration.calibrate(*weak_units(200, 2.0), task, samples.CALIBRATE, "float32", {})
    assert [entry["level"] for entry in calibrated.level_choice] == [0.95]
    assert calibrated.conformal["level"] == 0.95


def test_many_slices_of_a_patient_count_once(samples: Any) -> None:
    probabilities_of_units, labels, _ = predicted_units(40)
    conformal = calibration.conformal(probabilities_of_units, labels, labels.astype(str), ("a", "b"), samples.CALIBRATE)
    assert [entry["clusters"] for entry in conformal["classes"].values()] == [1, 1]
