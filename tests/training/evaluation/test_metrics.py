"""Figures that a doctor asks for, groups of a population, conformal sets and the check of the heat maps."""

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
    """400 patients whose truth follows the score, but half as steep as it says."""
    random = np.random.default_rng(11)
    logit = random.normal(0, 2, 400)
    return samples.judged(expit(logit), random.uniform(size=400) < expit(0.5 * logit))


def test_precision_and_predictive_values(judged: pd.DataFrame, samples: Any) -> None:
    told = metrics.figures(judged, CLASSES, replace(samples.EVALUATE, prevalence=0.02))
    assert told["precision"]["value"] == pytest.approx(sklearn.precision_score(judged["positive"], judged["flagged"]))
    assert told["f1"]["value"] == pytest.approx(sklearn.f1_score(judged["positive"], judged["flagged"]))
    found, cleared = told["sensitivity"]["value"], told["specificity"]["value"]
    whole = 1_000_000  # people, 2 % of them ill
    hits, alarms = 0.02 * whole * found, 0.98 * whole * (1 - cleared)
    assert told["ppv"]["value"] == pytest.approx(hits / (hits + alarms))
    assert told["npv"]["value"] == pytest.approx(
        0.98 * whole * cleared / (0.98 * whole * cleared + 0.02 * whole * (1 - found))
    )
    assert told["prevalence"] == 0.02
    seen = judged["positive"].mean()
    same = metrics.figures(judged, CLASSES, replace(samples.EVALUATE, prevalence=float(seen)))
    assert same["ppv"]["value"] == pytest.approx(told["precision"]["value"]), (
        "at the prevalence of the data it is the precision"
    )
    for name in ("precision", "f1", "ppv", "npv", "calibration_slope"):
        assert told[name]["low"] < told[name]["value"] < told[name]["high"]


def test_the_calibration_slope_is_that_of_a_logistic_regression(judged: pd.DataFrame, samples: Any) -> None:
    told = metrics.figures(judged, CLASSES, samples.EVALUATE)["calibration_slope"]
    logit = np.log(judged["score"] / (1 - judged["score"])).to_numpy()[:, np.newaxis]
    expected = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(logit, judged["positive"]).coef_[0, 0]
    assert told["value"] == pytest.approx(expected, abs=1e-3)
    assert told["low"] < 0.5 < told["high"] < 1, "half as steep as it says, and shown to be"
    separated = samples.judged(np.linspace(0.1, 0.9, 40), np.arange(40) >= 20)
    assert metrics.figures(separated, CLASSES, samples.EVALUATE)["calibration_slope"]["value"] is None


def test_quadratic_kappa_of_ordered_classes(samples: Any) -> None:
    random = np.random.default_rng(2)
    stages = ("t1", "t2", "t3", "t4")
    truth = random.integers(0, 4, 200)
    said = np.clip(truth + random.integers(-1, 2, 200), 0, 3)
    table = samples.judged(random.uniform(size=200), truth > 1).assign(
        label=np.array(stages)[truth], predicted=np.array(stages)[said], **{f"p_{name}": 0.25 for name in stages}
    )
    told = metrics.figures(table, stages, samples.EVALUATE, ordered=True)["quadratic_kappa"]
    assert told["value"] == pytest.approx(sklearn.cohen_kappa_score(truth, said, weights="quadratic"))
    assert told["low"] < told["value"] < told["high"]
    assert "quadratic_kappa" not in metrics.figures(table, stages, samples.EVALUATE)


def test_groups_by_sex_age_and_size_of_the_lesion(samples: Any) -> None:
    random = np.random.default_rng(4)
    positive = np.arange(120) % 3 == 0
    judged = samples.judged(np.clip(0.3 * positive + random.uniform(0, 0.7, 120), 0, 1), positive)
    ages = np.where(np.arange(120) < 60, 39.9, np.where(np.arange(120) < 116, 75.0, np.nan))
    sizes = np.where(positive, np.where(np.arange(120) < 60, 8.0, 10.0), np.nan)
    units = pd.DataFrame(
        {"unit_id": judged["unit_id"], "sex": np.where(np.arange(120) < 6, "F", "M"), "age": ages, "lesion_mm": sizes}
    ).sample(frac=1, random_state=1)
    told = subgroup_metrics.groups(judged, units, CLASSES, samples.EVALUATE)
    assert told["sexes"]["F"]["status"] == "unknown" and told["sexes"]["M"]["status"] == "known"
    assert {name: part["units"] for name, part in told["ages"].items()} == {
        "under 40": 60,
        "75 and more": 56,
        "not told": 4,
    }
    young = judged[:60]
    assert told["ages"]["under 40"]["auroc"]["value"] == pytest.approx(
        sklearn.roc_auc_score(young["positive"], young["score"])
    )
    assert {name: part["positive_units"] for name, part in told["lesions"].items()} == {
        "under 10 mm": 20,
        "10 to under 20 mm": 20,
    }
    small = judged[~positive | (np.arange(120) < 60)]
    assert told["lesions"]["under 10 mm"]["auroc"]["value"] == pytest.approx(
        sklearn.roc_auc_score(small["positive"], small["score"])
    )
    bare = subgroup_metrics.groups(judged, units[["unit_id"]], CLASSES, samples.EVALUATE)
    assert set(bare["sexes"]) == {"not told"} and bare["lesions"] == {}


def test_conformal_sets_on_units_that_calibrated_nothing(samples: Any) -> None:
    scores = np.array([0.9, 0.9, 0.4, 0.4, 0.2, 0.2, 0.05, 0.05])
    judged = samples.judged(scores, np.array([1, 1, 1, 1, 0, 0, 0, 0], bool), slices=2)
    classes = {"normal": {"quantile": 0.3}, "tumour": {"quantile": 0.5}}
    told = metrics.conformal(judged, {"status": "calibrated", "level": 0.95, "classes": classes}, samples.EVALUATE)
    assert told["coverage"]["value"] == pytest.approx(0.75)  # 1 - 0.4 > 0.5: the two units of the second patient miss
    assert told["cluster_coverage"]["value"] == pytest.approx(0.75)
    assert told["set_size"]["value"] == pytest.approx(0.75) and told["single"]["value"] == pytest.approx(0.75)
    judged.loc[3, ["score", "p_tumour", "p_normal"]] = 0.5
    half = metrics.conformal(judged, {"status": "calibrated", "level": 0.95, "classes": classes}, samples.EVALUATE)
    assert half["coverage"]["value"] == pytest.approx(7 / 8)
    assert half["cluster_coverage"]["value"] == pytest.approx(0.75), "a patient with all slices or not at all"
    classes["normal"] = {"quantile": None}
    assert metrics.conformal(judged, {"status": "not calibratable", "classes": classes}, samples.EVALUATE) == {
        "status": "not calibratable"
    }


def test_evaluation_tells_them_all(trained: Any) -> None:
    told = trained.metrics
    assert told["conformal"]["status"] in ("calibrated", "not calibratable")
    assert {"epochs", "sites", "scanners", "sexes", "ages", "lesions"} <= set(told)
    assert told["test"]["prevalence"] == 0.05
    assert told["maps"]["maps"] > 10
    assert told["maps"]["likeness"] < 0.5, "the map is the model's, not the picture's"
    hits = told["maps"]["hits"]
    assert 10 < hits["units"] <= told["maps"]["maps"] and hits["clusters"] >= hits["units"] / 2
    assert hits["low"] <= hits["value"] <= hits["high"] and 0.1 < hits["chance"] < 1


def test_maps_that_do_not_heed_the_model_are_seen() -> None:
    """Channels that are all the same picture give the same map whatever the linear layer is."""
    random = np.random.default_rng(0)
    picture = random.uniform(0.1, 1, (6, 8, 8, 1)).astype(np.float32)
    deaf, kernel = np.repeat(picture, 16, axis=3), random.uniform(0.1, 1, (16, 2)).astype(np.float32)
    answers = np.ones(6, np.int64)
    assert heatmap_checks.randomised(deaf, kernel, answers, seed=7)["likeness"] == pytest.approx(1.0, abs=1e-4)
    lively = random.uniform(0, 1, (6, 8, 8, 16)).astype(np.float32)
    sparse = np.zeros((16, 2), np.float32)
    sparse[3] = 1
    assert heatmap_checks.randomised(lively, sparse, answers, seed=7)["likeness"] < 0.5
    assert heatmap_checks.randomised(lively, -sparse, answers, seed=7) == {"maps": 0, "likeness": None}
