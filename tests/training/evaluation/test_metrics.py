"""Clinical metrics, subgroups, conformal sets and the heat-map sanity check."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics as sklearn
from sklearn.linear_model import LogisticRegression

from training.evaluation import heatmap_checks, metrics, subgroup_metrics

CLASSES = ("normal", "tumour")


@pytest.fixture(scope="module")
def judged(samples: Any) -> pd.DataFrame:
    """400 overconfident predictions: the true calibration slope is one half."""
    random = np.random.default_rng(11)
    logit = random.normal(0, 2, 400)
    return samples.judged(expit(logit), random.uniform(size=400) < expit(0.5 * logit))


def test_precision_and_predictive_values(judged: pd.DataFrame, samples: Any) -> None:
    computed = metrics.compute_metrics(judged, CLASSES, replace(samples.EVALUATE, prevalence=0.02))
    assert computed["precision"]["value"] == pytest.approx(
        sklearn.precision_score(judged["positive"], judged["flagged"])
    )
    assert computed["f1"]["value"] == pytest.approx(sklearn.f1_score(judged["positive"], judged["flagged"]))
    sensitivity, specificity = computed["sensitivity"]["value"], computed["specificity"]["value"]
    people = 1_000_000  # 2 % of them ill
    true_positives, false_positives = 0.02 * people * sensitivity, 0.98 * people * (1 - specificity)
    assert computed["ppv"]["value"] == pytest.approx(true_positives / (true_positives + false_positives))
    assert computed["npv"]["value"] == pytest.approx(
        0.98 * people * specificity / (0.98 * people * specificity + 0.02 * people * (1 - sensitivity))
    )
    assert computed["prevalence"] == 0.02
    observed_prevalence = judged["positive"].mean()
    at_observed_prevalence = metrics.compute_metrics(
        judged, CLASSES, replace(samples.EVALUATE, prevalence=float(observed_prevalence))
    )
    assert at_observed_prevalence["ppv"]["value"] == pytest.approx(computed["precision"]["value"]), (
        "at the prevalence of the data it is the precision"
    )
    for name in ("precision", "f1", "ppv", "npv", "calibration_slope"):
        assert computed[name]["low"] < computed[name]["value"] < computed[name]["high"]


def test_the_calibration_slope_is_that_of_a_logistic_regression(judged: pd.DataFrame, samples: Any) -> None:
    slope = metrics.compute_metrics(judged, CLASSES, samples.EVALUATE)["calibration_slope"]
    logit = np.log(judged["score"] / (1 - judged["score"])).to_numpy()[:, np.newaxis]
    expected = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(logit, judged["positive"]).coef_[0, 0]
    assert slope["value"] == pytest.approx(expected, abs=1e-3)
    assert slope["low"] < 0.5 < slope["high"] < 1, "the slope is one half, and significantly below 1"
    separated = samples.judged(np.linspace(0.1, 0.9, 40), np.arange(40) >= 20)
    assert metrics.compute_metrics(separated, CLASSES, samples.EVALUATE)["calibration_slope"]["value"] is None


def test_quadratic_kappa_of_ordered_classes(samples: Any) -> None:
    random = np.random.default_rng(2)
    stages = ("t1", "t2", "t3", "t4")
    true_stage = random.integers(0, 4, 200)
    predicted_stage = np.clip(true_stage + random.integers(-1, 2, 200), 0, 3)
    table = samples.judged(random.uniform(size=200), true_stage > 1).assign(
        label=np.array(stages)[true_stage],
        predicted=np.array(stages)[predicted_stage],
        **{f"p_{name}": 0.25 for name in stages},
    )
    kappa = metrics.compute_metrics(table, stages, samples.EVALUATE, ordered=True)["quadratic_kappa"]
    assert kappa["value"] == pytest.approx(sklearn.cohen_kappa_score(true_stage, predicted_stage, weights="quadratic"))
    assert kappa["low"] < kappa["value"] < kappa["high"]
    assert "quadratic_kappa" not in metrics.compute_metrics(table, stages, samples.EVALUATE)


def test_subgroups_by_sex_age_and_lesion_size(samples: Any) -> None:
    random = np.random.default_rng(4)
    positive = np.arange(120) % 3 == 0
    judged = samples.judged(np.clip(0.3 * positive + random.uniform(0, 0.7, 120), 0, 1), positive)
    ages = np.where(np.arange(120) < 60, 39.9, np.where(np.arange(120) < 116, 75.0, np.nan))
    sizes = np.where(positive, np.where(np.arange(120) < 60, 8.0, 10.0), np.nan)
    units = pd.DataFrame(
        {"unit_id": judged["unit_id"], "sex": np.where(np.arange(120) < 6, "F", "M"), "age": ages, "lesion_mm": sizes}
    ).sample(frac=1, random_state=1)
    subgroups = subgroup_metrics.metrics_by_subgroup(judged, units, CLASSES, samples.EVALUATE)
    assert subgroups["sexes"]["F"]["status"] == "unknown" and subgroups["sexes"]["M"]["status"] == "known"
    assert {name: subgroup["units"] for name, subgroup in subgroups["ages"].items()} == {
        "18 to under 40": 60,
        "75 and more": 56,
        "not told": 4,
    }
    young_patients = judged[:60]
    assert subgroups["ages"]["18 to under 40"]["auroc"]["value"] == pytest.approx(
        sklearn.roc_auc_score(young_patients["positive"], young_patients["score"])
    )
    assert {name: subgroup["positive_units"] for name, subgroup in subgroups["lesions"].items()} == {
        "under 10 mm": 20,
        "10 to under 20 mm": 20,
    }
    small_lesions = judged[~positive | (np.arange(120) < 60)]
    assert subgroups["lesions"]["under 10 mm"]["auroc"]["value"] == pytest.approx(
        sklearn.roc_auc_score(small_lesions["positive"], small_lesions["score"])
    )
    without_facts = subgroup_metrics.metrics_by_subgroup(judged, units[["unit_id"]], CLASSES, samples.EVALUATE)
    assert set(without_facts["sexes"]) == {"not told"} and without_facts["lesions"] == {}


def test_conformal_metrics_on_units_outside_the_calibration(samples: Any) -> None:
    scores = np.array([0.9, 0.9, 0.4, 0.4, 0.2, 0.2, 0.05, 0.05])
    judged = samples.judged(scores, np.array([1, 1, 1, 1, 0, 0, 0, 0], bool), slices=2)
    classes = {"normal": {"quantile": 0.3}, "tumour": {"quantile": 0.5}}
    computed = metrics.conformal(judged, {"status": "calibrated", "level": 0.95, "classes": classes}, samples.EVALUATE)
    assert computed["coverage"]["value"] == pytest.approx(
        0.75
    )  # 1 - 0.4 > 0.5: the sets of the second patient miss the class
    assert computed["cluster_coverage"]["value"] == pytest.approx(0.75)
    assert computed["set_size"]["value"] == pytest.approx(0.75) and computed["single"]["value"] == pytest.approx(0.75)
    judged.loc[3, ["score", "p_tumour", "p_normal"]] = 0.5
    changed = metrics.conformal(judged, {"status": "calibrated", "level": 0.95, "classes": classes}, samples.EVALUATE)
    assert changed["coverage"]["value"] == pytest.approx(7 / 8)
    assert changed["cluster_coverage"]["value"] == pytest.approx(0.75), "a patient is covered only with all slices"
    classes["normal"] = {"quantile": None}
    assert metrics.conformal(judged, {"status": "not calibratable", "classes": classes}, samples.EVALUATE) == {
        "status": "not calibratable"
    }


def test_the_evaluation_has_all_metrics(trained: Any) -> None:
    computed = trained.metrics
    assert computed["conformal"]["status"] in ("calibrated", "not calibratable")
    assert {"epochs", "sites", "scanners", "sexes", "ages", "lesions"} <= set(computed)
    assert computed["test"]["prevalence"] == 0.05
    assert computed["maps"]["maps"] > 10
    assert computed["maps"]["likeness"] < 0.5, "the map depends on the model, not only on the image"
    hits = computed["maps"]["hits"]
    assert 10 < hits["units"] <= computed["maps"]["maps"] and hits["clusters"] >= hits["units"] / 2
    assert hits["low"] <= hits["value"] <= hits["high"] and 0.1 < hits["chance"] < 1


def test_maps_that_do_not_depend_on_the_model_are_detected() -> None:
    """Equal channels give the same map for every linear layer."""
    random = np.random.default_rng(0)
    image = random.uniform(0.1, 1, (6, 8, 8, 1)).astype(np.float32)
    equal_channels, kernel = np.repeat(image, 16, axis=3), random.uniform(0.1, 1, (16, 2)).astype(np.float32)
    answers = np.ones(6, np.int64)
    assert heatmap_checks.compare_with_random_layer(equal_channels, kernel, answers, seed=7)[
        "likeness"
    ] == pytest.approx(1.0, abs=1e-4)
    random_channels = random.uniform(0, 1, (6, 8, 8, 16)).astype(np.float32)
    sparse_kernel = np.zeros((16, 2), np.float32)
    sparse_kernel[3] = 1
    assert heatmap_checks.compare_with_random_layer(random_channels, sparse_kernel, answers, seed=7)["likeness"] < 0.5
    assert heatmap_checks.compare_with_random_layer(random_channels, -sparse_kernel, answers, seed=7) == {
        "maps": 0,
        "likeness": None,
    }
