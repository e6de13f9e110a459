"""Calibration: temperature, operating point and conformal quantiles do what a user may rely on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.inference.predict import probabilities
from training.evaluation import calibration
from training.settings import CalibrateSettings


def test_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 4000)
    logits = random.normal(0, 1, (4000, 2)) + 1.5 * np.eye(2)[labels]
    honest = calibration.temperature(logits.astype(np.float32), labels)
    assert calibration.temperature((3 * logits).astype(np.float32), labels) == pytest.approx(3 * honest, rel=0.02)


def test_temperature_of_an_errorless_side_is_bounded() -> None:
    labels = np.array([0, 1, 0, 1])
    assert calibration.temperature((9 * np.eye(2)[labels]).astype(np.float32), labels) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wanted", [0.5, 0.9])
def test_operating_point_reaches_the_sensitivity_with_the_largest_youden_index(seed: int, wanted: float) -> None:
    random = np.random.default_rng(seed)
    positive = random.uniform(size=80) < 0.4
    scores = np.clip(random.normal(0.4 + 0.2 * positive, 0.15), 0, 1)
    point = calibration.operating_point(scores, positive, wanted)

    def index(threshold: float) -> float:
        found, alarms = (scores[positive] >= threshold).mean(), (scores[~positive] >= threshold).mean()
        return float(found - alarms) if found >= wanted else -1.0

    assert index(point) == pytest.approx(max(map(index, scores)))
    assert np.abs(scores - point).min() > 1e-6  # rounding of an engine flips nobody


def test_a_tumour_is_not_given_up_for_one_false_alarm() -> None:
    """Nine tumours of ten would do: the tenth costs two of fifty false alarms, and is found; not so for twenty."""
    tumours = [0.5, *np.linspace(0.8, 0.95, 9)]
    for high, point in ((2, 0.45), (20, 0.75)):
        others = [*np.full(50 - high, 0.4), *np.full(high, 0.7)]
        scores, positive = np.array([*tumours, *others]), np.arange(60) < 10
        assert calibration.operating_point(scores, positive, 0.9) == pytest.approx(point)


def test_operating_point_of_separated_scores_lies_between_them() -> None:
    scores = np.array([0.1, 0.2, 0.8, 0.85, 0.95])
    assert calibration.operating_point(scores, scores > 0.5, 0.6) == pytest.approx(0.5)


def test_operating_point_without_positives_is_one_half() -> None:
    assert calibration.operating_point(np.array([0.2, 0.3]), np.array([False, False]), 0.9) == 0.5


def sure_of(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    logits = random.normal(0, 1, (count, 2)) + 2 * np.eye(2)[labels]
    return probabilities(logits.astype(np.float32), 1.0), labels, np.arange(count).astype(str)


def test_a_class_with_few_clusters_is_not_calibratable() -> None:
    sure, labels, clusters = sure_of(38)
    settings = CalibrateSettings(19, 0.95)
    assert calibration.conformal(sure, labels, clusters, ("a", "b"), settings)["status"] == "calibrated"
    told = calibration.conformal(sure[:-1], labels[:-1], clusters[:-1], ("a", "b"), settings)
    assert told["status"] == "not calibratable"
    assert told["classes"]["a"] == {
        "clusters": 19,
        "quantile": pytest.approx(told["classes"]["a"]["quantile"]),
        "status": "calibrated",
    }
    assert told["classes"]["b"] == {"clusters": 18, "quantile": None, "status": "not calibratable"}


def test_conformal_sets_hold_the_true_class_as_often_as_promised() -> None:
    held = []
    for seed in range(60):
        sure, labels, clusters = sure_of(100, seed)
        told = calibration.conformal(sure[:60], labels[:60], clusters[:60], ("a", "b"), CalibrateSettings(19, 0.9))
        limits = np.array([told["classes"][name]["quantile"] for name in ("a", "b")])[labels[60:]]
        held.append((1 - sure[60:][np.arange(40), labels[60:]] <= limits).mean())
    assert np.mean(held) >= 0.9 - 0.01


def test_many_slices_of_a_patient_count_once(samples: Any) -> None:
    sure, labels, _ = sure_of(40)
    same = calibration.conformal(sure, labels, labels.astype(str), ("a", "b"), samples.CALIBRATE)
    assert [entry["clusters"] for entry in same["classes"].values()] == [1, 1]
