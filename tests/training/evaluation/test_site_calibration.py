"""Calibration of a site from few local patients."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from serving.inference.predict import probabilities
from training.evaluation import calibration, site_calibration
from training.settings import CalibrateSettings

CALIBRATE = CalibrateSettings(19, 0.95)


def two_class_task(samples: Any) -> Any:
    return dataclasses.replace(samples.TASK, classes=("normal", "tumour"), positive=("tumour",), sensitivity=0.9)


def patients(
    count: int, seed: int, shift: float = 0.0, scale: float = 1.0, slices: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and clusters of patients of a site, half of them positive."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count) % 2, slices)
    logit = shift + scale * (random.normal(size=len(labels)) + 2.6 * (labels - 0.5))
    clusters = np.repeat([f"P{index}" for index in range(count)], slices)
    return np.column_stack([-logit, logit]).astype(np.float32) / 2, labels.astype(np.int64), clusters


@pytest.fixture(scope="module")
def task(samples: Any) -> Any:
    return two_class_task(samples)


@pytest.fixture(scope="module")
def release(task: Any) -> dict[str, Any]:
    logits, labels, clusters = patients(300, 0)
    facts = calibration.calibrate(logits, labels, clusters, task, CALIBRATE, "float32", {}).to_dict()
    class_probabilities = probabilities(logits, facts["temperature"])
    return facts | {"scores": site_calibration.reference_scores(class_probabilities, labels, clusters, task)}


def misses_and_false_alarms(site: site_calibration.SiteCalibration, shift: float, scale: float) -> tuple[float, float]:
    logits, labels, _ = patients(8000, 99, shift, scale)
    flagged = probabilities(logits, site.temperature)[:, 1] >= site.threshold
    return float((~flagged[labels == 1]).mean()), float(flagged[labels == 0].mean())


def test_thirty_patients_of_a_shifted_site_restore_misses_and_false_alarms(task: Any, release: dict[str, Any]) -> None:
    shift, scale = 3.0, 1.6
    rates = []
    for seed in range(1, 41):
        site = site_calibration.recalibrate(*patients(30, seed, shift, scale), task, CALIBRATE, release)
        rates.append(misses_and_false_alarms(site, shift, scale))
    misses, false_alarms = np.mean(rates, axis=0)
    logits, labels, _ = patients(8000, 98)
    logit = logits[:, 1] - logits[:, 0]
    promised_misses = 1 - site.promised["sensitivity"]
    at_home = (logit[labels == 0] >= np.quantile(logit[labels == 1], promised_misses)).mean()
    assert promised_misses <= 0.10 + 1e-9
    assert misses == pytest.approx(promised_misses, abs=0.02)
    assert false_alarms == pytest.approx(at_home, abs=0.02)
    assert site.expected["sensitivity"] == pytest.approx(site.promised["sensitivity"], abs=1e-4)


def test_separated_patients_are_separated_at_the_site(task: Any, release: dict[str, Any]) -> None:
    """A sensitivity of 0.90 is the least that is wanted: where classes are apart, no positive patient is given up."""
    logits, labels, clusters = patients(300, 0)
    logits[:, 1] += 20 * (labels - 0.5)
    facts = calibration.calibrate(logits, labels, clusters, task, CALIBRATE, "float32", {}).to_dict()
    class_probabilities = probabilities(logits, facts["temperature"])
    scores = site_calibration.reference_scores(class_probabilities, labels, clusters, task)
    local, local_labels, local_clusters = patients(30, 1)
    local[:, 1] += 20 * (local_labels - 0.5)
    site = site_calibration.recalibrate(
        local, local_labels, local_clusters, task, CALIBRATE, facts | {"scores": scores}
    )
    flagged = probabilities(local, site.temperature)[:, 1] >= site.threshold
    assert np.array_equal(flagged, local_labels == 1)


def test_conformal_sets_of_a_shifted_site_keep_their_level(task: Any, release: dict[str, Any]) -> None:
    shares, levels = [], []
    for seed in range(1, 21):
        site = site_calibration.recalibrate(*patients(30, seed, -2.0, 0.7), task, CALIBRATE, release)
        assert site.conformal["status"] == "calibrated"
        logits, labels, _ = patients(2000, 99, -2.0, 0.7)
        quantiles = np.array([entry["quantile"] for entry in site.conformal["classes"].values()])
        true_class = probabilities(logits, site.temperature)[np.arange(len(labels)), labels]
        shares.append((1 - true_class <= quantiles[labels]).mean())
        levels.append(site.conformal["level"])
    assert np.mean(shares) == pytest.approx(np.mean(levels), abs=0.02)


def test_many_local_patients_need_no_scores_of_the_release(task: Any, release: dict[str, Any]) -> None:
    without_scores = {key: value for key, value in release.items() if key != "scores"}
    site = site_calibration.recalibrate(*patients(2000, 5, 3.0, 1.6), task, CALIBRATE, without_scores)
    misses, _ = misses_and_false_alarms(site, 3.0, 1.6)
    assert misses == pytest.approx(1 - site.expected["sensitivity"], abs=0.02)
    assert site.promised["specificity"] is None


def test_a_sample_without_positive_patients_and_a_release_without_scores_keep_the_threshold(
    task: Any, release: dict[str, Any]
) -> None:
    logits, labels, clusters = patients(30, 1)
    facts = {key: release[key] for key in ("temperature", "threshold", "conformal")}
    negative = labels == 0
    site = site_calibration.recalibrate(logits[negative], labels[negative], clusters[negative], task, CALIBRATE, facts)
    assert site.threshold == release["threshold"]
    assert site.conformal["status"] == "not calibratable"


def test_slices_of_one_patient_count_for_less_than_patients(task: Any, release: dict[str, Any]) -> None:
    """Ten slices of six patients leave the site near the release; sixty patients of that site move it."""
    few = site_calibration.recalibrate(*patients(6, 3, 2.0, 1.0, slices=10), task, CALIBRATE, release)
    many = site_calibration.recalibrate(*patients(60, 3, 2.0, 1.0), task, CALIBRATE, release)
    assert many.clusters == 60
    assert few.clusters == 6
    assert few.units == many.units == 60
    assert abs(np.log(few.temperature / release["temperature"])) < abs(
        np.log(many.temperature / release["temperature"])
    )


def test_a_task_with_three_classes_is_recalibrated(samples: Any) -> None:
    random = np.random.default_rng(0)

    def draw(count: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        logits = scale * (random.normal(size=(count, 3)) + 2.5 * np.eye(3)[labels])
        return logits.astype(np.float32), labels, np.arange(count).astype(str)

    logits, labels, clusters = draw(300, 1.0)
    facts = calibration.calibrate(logits, labels, clusters, samples.TASK, CALIBRATE, "float32", {}).to_dict()
    class_probabilities = probabilities(logits, facts["temperature"])
    scores = site_calibration.reference_scores(class_probabilities, labels, clusters, samples.TASK)
    rates = []
    for _ in range(10):
        site = site_calibration.recalibrate(*draw(30, 2.0), samples.TASK, CALIBRATE, facts | {"scores": scores})
        fresh_logits, fresh_labels, _ = draw(3000, 2.0)
        flagged = probabilities(fresh_logits, site.temperature)[:, 2] >= site.threshold
        rates.append((~flagged[fresh_labels == 2]).mean())
    assert np.mean(rates) == pytest.approx(1 - site.promised["sensitivity"], abs=0.04)
    assert set(site.to_dict()["conformal"]["classes"]) == set(samples.TASK.classes)
