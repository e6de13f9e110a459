"""Metrics of a site, cross-fitted by patient."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from training.evaluation import site_evaluation
from training.settings import CalibrateSettings

CALIBRATE = CalibrateSettings(19, 0.95)
RELEASE = {"temperature": 1.0, "threshold": 0.5, "conformal": None}


def sample(count: int, separation: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and clusters, two slices a patient."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count) % 2, 2)
    logit = random.normal(size=len(labels)) + separation * (labels - 0.5)
    return (
        np.column_stack([-logit, logit]).astype(np.float32) / 2,
        labels.astype(np.int64),
        np.repeat([f"P{index}" for index in range(count)], 2),
    )


@pytest.fixture(scope="module")
def task(samples: Any) -> Any:
    return dataclasses.replace(samples.TASK, classes=("normal", "tumour"), positive=("tumour",), sensitivity=0.9)


def evaluated(task: Any, samples: Any, separation: float, abstain_below: float = 0.5) -> dict[str, Any]:
    return site_evaluation.evaluate_site(
        *sample(40, separation), task, CALIBRATE, samples.EVALUATE, RELEASE, abstain_below
    )


def test_a_good_site_has_figures_with_intervals(task: Any, samples: Any) -> None:
    metrics = evaluated(task, samples, 4.0)
    assert (metrics["clusters"], metrics["positive_clusters"], metrics["negative_clusters"]) == (40, 20, 20)
    for name in ("sensitivity", "specificity", "coverage"):
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    assert metrics["sensitivity"]["value"] > 0.8
    assert metrics["misses"] == round((1 - metrics["sensitivity"]["value"]) * 40)


def test_a_model_that_knows_nothing_has_no_specificity_at_its_sensitivity(task: Any, samples: Any) -> None:
    metrics = evaluated(task, samples, 0.0)
    assert metrics["sensitivity"]["value"] + metrics["specificity"]["value"] < 1.25


def test_no_patient_is_judged_by_a_calibration_that_used_him(
    task: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, judged = [], []
    recalibrate, answer_units = site_evaluation.recalibrate, site_evaluation.answer_units
    logits, labels, clusters = sample(40, 2.0)
    cluster_of = {row.tobytes(): name for row, name in zip(logits, clusters, strict=True)}

    def spy_on_fit(*args: Any) -> Any:
        used.append(set(args[2]))
        return recalibrate(*args)

    def spy_on_answers(rows: np.ndarray, *args: Any) -> Any:
        judged.append({cluster_of[row.tobytes()] for row in rows})
        return answer_units(rows, *args)

    monkeypatch.setattr(site_evaluation, "recalibrate", spy_on_fit)
    monkeypatch.setattr(site_evaluation, "answer_units", spy_on_answers)
    site_evaluation.evaluate_site(logits, labels, clusters, task, CALIBRATE, samples.EVALUATE, RELEASE, 0.5)
    assert set().union(*judged) == set(clusters)
    assert all(not answered & fitted for answered, fitted in zip(judged, used, strict=True))


def test_withheld_units_are_counted_by_reason(task: Any, samples: Any) -> None:
    metrics = evaluated(task, samples, 2.0, abstain_below=0.9)
    withheld = sum(metrics["withheld"].values())
    assert metrics["withheld"]["low confidence"] == withheld > 0
    assert metrics["coverage"]["value"] == pytest.approx(1 - withheld / metrics["units"])


def test_few_perfect_patients_leave_a_wide_interval(task: Any, samples: Any) -> None:
    metrics = site_evaluation.evaluate_site(*sample(20, 12.0), task, CALIBRATE, samples.EVALUATE, RELEASE, 0.5)
    assert metrics["sensitivity"]["value"] == 1.0
    assert metrics["sensitivity"]["low"] < 0.8
