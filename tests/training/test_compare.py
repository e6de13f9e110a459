"""Comparison: paired, by cluster, over three cohorts of the test side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lineage.fault import Fault
from training.compare import compare, needed


def test_differences_are_those_of_the_two_models(samples: Any) -> None:
    mine, theirs = samples.pair(60, 1, auroc=0.8, gain=0.1, epochs=np.where(np.arange(60) < 35, 1, 2))
    told = compare(mine, theirs, samples.PROMOTION, "champion 3")
    assert told["rival"] == "champion 3"
    assert told["epochs"] == [1, 2]
    assert {name: cohort["clusters"] for name, cohort in told["cohorts"].items()} == {
        "anchor": 35, "newest": 25, "overall": 60}  # fmt: skip
    for name, epochs in (("anchor", [1]), ("newest", [2]), ("overall", [1, 2])):
        areas = [roc_auc_score(t["positive"], t["score"]) for t in (x[x["epoch"].isin(epochs)] for x in (mine, theirs))]
        auroc = told["cohorts"][name]["auroc"]
        assert [auroc["challenger"], auroc["rival"]] == pytest.approx(areas)
        assert auroc["difference"]["value"] == pytest.approx(areas[0] - areas[1])
        assert auroc["difference"]["low"] < auroc["difference"]["value"] < auroc["difference"]["high"]


def test_pairing_makes_the_bounds_narrow(samples: Any) -> None:
    mine, theirs = samples.pair(80, 2, auroc=0.85, shared=0.95)
    stranger = samples.pair(80, 3, auroc=0.85)[1].assign(positive=mine["positive"])
    close = compare(mine, theirs, samples.PROMOTION, "x")["cohorts"]["overall"]["auroc"]["difference"]["error"]
    loose = compare(mine, stranger, samples.PROMOTION, "x")["cohorts"]["overall"]["auroc"]["difference"]["error"]
    assert close < loose / 2


def test_a_model_against_itself_differs_by_nothing(samples: Any) -> None:
    mine, _ = samples.pair(40, 4)
    told = compare(mine, mine, samples.PROMOTION, "itself")
    assert told["cohorts"]["overall"]["auroc"]["difference"] == {
        "value": 0, "low": 0, "high": 0, "error": 0, "p_better": 1, "p_worse": 1}  # fmt: skip
    assert told["flips"] == {"lost": [], "won": 0}


def test_lost_cases_are_named(samples: Any) -> None:
    positive = np.arange(20) < 10
    theirs = samples.judged(np.where(positive, 0.9, 0.1), positive)
    scores = theirs["score"].to_numpy().copy()
    scores[[0, 15]] = 0.4, 0.6
    flips = compare(samples.judged(scores, positive), theirs, samples.PROMOTION, "x")["flips"]
    assert flips == {"lost": ["unit-0", "unit-15"], "won": 0}


def test_validation_units_do_not_count(samples: Any) -> None:
    mine, theirs = samples.pair(40, 5)
    extra = mine.head(5).assign(side="validation", unit_id=[f"v{index}" for index in range(5)])
    import pandas as pd

    both = [pd.concat([table, extra]) for table in (mine, theirs)]
    assert compare(*both, samples.PROMOTION, "x") == compare(mine, theirs, samples.PROMOTION, "x")


def test_other_units_are_refused(samples: Any) -> None:
    mine, theirs = samples.pair(40, 6)
    with pytest.raises(Fault, match="judged 40 test units, champion 1 39"):
        compare(mine, theirs.iloc[1:], samples.PROMOTION, "champion 1")


def test_the_clusters_asked_for_would_do(samples: Any) -> None:
    """`needed` at the margin: cohorts of that size show non-inferiority of an equal model about 80 times in 100."""
    settings = replace(samples.PROMOTION, bootstrap=200)

    def anchor(clusters: int, seed: int) -> Any:
        return compare(*samples.pair(clusters, seed, auroc=0.9), settings, "x")["cohorts"]["anchor"]

    size = int(np.median([needed(anchor(60, seed), 0.05, 0.05) for seed in range(20)]))
    assert 60 < size < 400
    assert 0.6 < np.mean([anchor(size, 100 + seed)["auroc"]["difference"]["low"] > -0.05 for seed in range(50)]) < 0.97


def test_no_gain_asks_for_no_number(samples: Any) -> None:
    mine, _ = samples.pair(40, 8)
    assert needed(compare(mine, mine, samples.PROMOTION, "x")["cohorts"]["overall"], 0.0, 0.05) is None
