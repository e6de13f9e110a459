"""Comparison: paired, by cluster, over three cohorts of the test side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lineage.errors import Fault
from training.promotion.comparison import compare, lacking, needed
from training.statistics import delong


def test_differences_are_those_of_the_two_models(samples: Any) -> None:
    mine, theirs = samples.pair(60, 1, auroc=0.8, gain=0.1, epochs=np.where(np.arange(60) < 35, 1, 2))
    told = compare(mine, theirs, samples.PROMOTION, "champion 3")
    assert told["rival"] == "champion 3"
    assert told["epochs"] == [1, 2]
    assert {name: cohort["clusters"] for name, cohort in told["cohorts"].items()} == {
        "anchor": 35,
        "newest": 25,
        "overall": 60,
    }
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
        "value": 0,
        "low": 0,
        "high": 0,
        "error": 0,
        "p_better": 1,
        "p_worse": 1,
    }
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
    both = [pd.concat([table, extra]) for table in (mine, theirs)]
    assert compare(*both, samples.PROMOTION, "x") == compare(mine, theirs, samples.PROMOTION, "x")


def test_no_gain_asks_for_no_number(samples: Any) -> None:
    mine, _ = samples.pair(40, 8)
    assert needed(compare(mine, mine, samples.PROMOTION, "x")["cohorts"]["overall"], 0.0, 0.05) is None


def test_a_claim_rests_on_the_less_sure_of_two_methods(samples: Any) -> None:
    """DeLong's bound is the outer one in some comparisons and the bootstrap's in others; the wider one counts."""
    settings, outer = replace(samples.PROMOTION, bootstrap=200), set()
    for seed in range(12):
        mine, theirs = samples.pair(30, seed, auroc=0.85, shared=0.5)
        figures = compare(mine, theirs, settings, "x")["cohorts"]["overall"]["auroc"]
        exact, drawn, claim = figures["delong"], figures["bootstrap"], figures["difference"]
        paired = delong.paired(mine["score"], theirs["score"], mine["positive"], mine["cluster"])
        assert paired and [exact["low"], exact["high"]] == [paired.bound(0.05, -1), paired.bound(0.05, 1)]
        assert [exact["error"], exact["p_better"], exact["p_worse"]] == [paired.error, paired.p(1), paired.p(-1)]
        for name in ("low", "high", "error", "p_better", "p_worse"):
            sure = max if name == "low" else min
            assert exact[name] != drawn[name]
            assert {claim[name], sure(exact[name], drawn[name])} == {exact[name], drawn[name]}, name
            outer.add((name, claim[name] == exact[name]))
    assert len(outer) == 10  # either method was the less sure one at times, for every figure


@pytest.mark.parametrize(
    ("patients", "positives", "slices", "method"),
    [
        (1, 6, 12, "bootstrap"),  # every draw is the same patient, and says the same
        (12, 2, 1, "delong"),  # a tenth of the draws has no positive patient
        (12, 1, 1, ""),
    ],
)
def test_what_one_of_the_two_methods_cannot_bound_has_no_bound(
    samples: Any, patients: int, positives: int, slices: int, method: str
) -> None:
    positive = np.arange(12) < positives
    mine, theirs = (
        samples.judged(np.random.default_rng(seed).uniform(size=12), positive, slices=slices) for seed in (1, 2)
    )
    figures = compare(mine, theirs, samples.PROMOTION, "x")["cohorts"]["overall"]["auroc"]
    assert mine["cluster"].nunique() == patients
    assert figures["difference"]["value"] is not None
    for name in ("low", "high", "error", "p_better", "p_worse"):
        assert figures["difference"][name] is None
        assert {told for told in ("delong", "bootstrap") if figures[told][name] is not None} == {method} - {""}


def test_without_positive_units_there_is_no_figure(samples: Any) -> None:
    mine, theirs = samples.pair(20, 1)
    told = compare(mine.assign(positive=0), theirs.assign(positive=0), replace(samples.PROMOTION, bootstrap=20), "x")
    cohort = told["cohorts"]["overall"]
    for name in ("auroc", "sensitivity"):
        assert (cohort[name]["challenger"], cohort[name]["rival"], cohort[name]["difference"]["value"]) == (None,) * 3
    assert cohort["brier"]["difference"]["value"] is not None


def test_each_figure_is_the_challengers_less_the_rivals(samples: Any) -> None:
    """Four patients with two slices, read off by hand."""
    positive = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    mine = samples.judged(np.array([0.9, 0.8, 0.4, 0.1, 0.2, 0.3, 0.1, 0.1]), positive, slices=2)
    theirs = samples.judged(np.array([0.9, 0.2, 0.1, 0.6, 0.2, 0.3, 0.1, 0.1]), positive, slices=2)
    told = compare(mine, theirs, samples.PROMOTION, "x")["cohorts"]["overall"]
    counts = {"units": 8, "clusters": 4, "positive_clusters": 2, "negative_clusters": 3, "batches": ["first"]}
    assert {name: told[name] for name in counts} == counts
    assert [told["auroc"]["challenger"], told["auroc"]["rival"]] == pytest.approx([1.0, 8.5 / 15])
    assert [told["sensitivity"]["challenger"], told["sensitivity"]["rival"]] == pytest.approx([2 / 3, 1 / 3])
    assert [told["brier"]["challenger"], told["brier"]["rival"]] == pytest.approx([0.57 / 8, 1.97 / 8])
    assert told["sensitivity"]["mcnemar"] == {"lost": 0, "won": 1, "p_worse": 1.0, "p_better": 0.5}
    for name, gap in (("auroc", 6.5 / 15), ("sensitivity", 1 / 3), ("brier", -1.4 / 8)):
        assert told[name]["difference"]["value"] == pytest.approx(gap)
    assert told["ece"]["difference"]["value"] == pytest.approx(told["ece"]["challenger"] - told["ece"]["rival"])
    assert told["ece"]["challenger"] < told["ece"]["rival"]


def test_the_whole_side_counts_patients_and_not_slices(samples: Any) -> None:
    """Every slice tenfold within its patient: no bound moves."""
    mine, theirs = samples.pair(30, 3, auroc=0.85)
    settings = replace(samples.PROMOTION, bootstrap=100)
    copies = [
        table.loc[table.index.repeat(10)].assign(unit_id=[f"u{index}" for index in range(300)])
        for table in (mine, theirs)
    ]
    for name in ("auroc", "brier", "sensitivity"):
        once, tenfold = (compare(*pair, settings, "x")["cohorts"]["overall"][name] for pair in ((mine, theirs), copies))
        assert tenfold["difference"] == pytest.approx(once["difference"])


@pytest.mark.parametrize(
    ("epochs", "batches", "decided", "newest"),
    [
        ((1, 1, 1), "abc", (), "abc"),  # before a second epoch: the whole side
        ((1, 1, 1), "abc", ("a", "b"), "c"),
        ((1, 2, 2), "abc", (), "bc"),
        ((1, 2, 2), "abc", ("b",), "c"),
        ((1, 2, 3), "abc", (), "bc"),
        ((1, 2, 3), "abc", ("b", "c"), "c"),  # all have decided: the last epoch
        ((1, 2, 3), "abc", ("a", "b"), "c"),
        ((1, 2, 3), "abx", ("b",), "bx"),  # what has not decided is too little: with the epoch before
        ((1, 2, 3), "axy", ("x",), "xy"),  # nothing is enough: all but the first epoch
        ((1, 2, 3), "xbc", ("b", "c"), "c"),
    ],
)
def test_the_newest_cohort(
    samples: Any, epochs: tuple[int, ...], batches: str, decided: tuple[str, ...], newest: str
) -> None:
    """Three batches of 10 patients (x and y of 4), one after the other; 10 patients are needed."""
    sizes = [4 if batch in "xy" else 10 for batch in batches]
    positive = np.concatenate([np.arange(size) % 2 == 0 for size in sizes])
    scores = np.random.default_rng(0).uniform(size=sum(sizes))
    mine = samples.judged(scores, positive, np.repeat(epochs, sizes)).assign(batch=np.repeat(list(batches), sizes))
    told = compare(mine, mine, replace(samples.PROMOTION, bootstrap=5), "x", decided=decided)
    assert told["cohorts"]["newest"]["batches"] == list(newest)
    assert told["cohorts"]["anchor"]["batches"] == [b for b, epoch in zip(batches, epochs, strict=True) if epoch == 1]
    assert told["cohorts"]["overall"]["batches"] == sorted(batches)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((10, 4, 4), ""),
        ((9, 4, 4), "9 clusters, and 10 are needed"),
        ((10, 3, 7), "3 clusters with a positive unit, and 4 are needed"),
        ((10, 7, 3), "3 clusters with a negative unit, and 4 are needed"),
    ],
)
def test_what_a_cohort_lacks(samples: Any, counts: tuple[int, int, int], words: str) -> None:
    names = ("clusters", "positive_clusters", "negative_clusters")
    assert lacking(dict(zip(names, counts, strict=True)), samples.PROMOTION) == words


def test_facts_of_the_units_make_slices_and_earlier_epochs_are_compared(samples: Any) -> None:
    mine, theirs = samples.pair(60, 9, epochs=np.repeat([1, 2], 30))
    sex = pd.DataFrame({"unit_id": mine["unit_id"], "sex": np.where(np.arange(60) % 2, "F", "M"), "site": "elsewhere"})
    told = compare(mine, theirs, samples.PROMOTION, "x", facts=sex.iloc[:-1])
    assert set(told["slices"]) == {"sex F", "sex M"}  # the site is the table's own, one for all
    assert set(told["earlier"]) == {"epoch 1", "site north before"}
    assert told["alpha"] == samples.PROMOTION.alpha
    alone = compare(mine.assign(epoch=1), theirs.assign(epoch=1), samples.PROMOTION, "x")
    assert (alone["slices"], alone["earlier"]) == ({}, {})


def test_missing_units_of_either_side_are_refused(samples: Any) -> None:
    mine, theirs = samples.pair(40, 6)
    for pair, numbers in (
        ((mine.iloc[1:], theirs), "39 test units, x 40"),
        ((mine, theirs.iloc[1:]), "40 .*, x 39"),
        ((mine.iloc[:0], theirs.iloc[:0]), "judged 0 test units, x 0, and 0"),
    ):
        with pytest.raises(Fault, match=numbers):
            compare(*pair, samples.PROMOTION, "x")
    with pytest.raises(Fault, match="and 0 are the same"):
        compare(mine, theirs.assign(unit_id="other-" + theirs["unit_id"]), samples.PROMOTION, "x")
    with pytest.raises(pd.errors.MergeError):  # 40 units on either side, one of them twice
        compare(pd.concat([mine.iloc[:1], mine.iloc[:39]]), theirs, samples.PROMOTION, "x")


@pytest.mark.parametrize(
    ("value", "error", "margin", "alpha", "clusters"),
    [
        (0.0, 0.05, 0.05, 0.05, 619),  # 100 x ((1.645 + 0.842) x 0.05 / 0.05)^2
        (0.10, 0.05, 0.0, 0.05, 155),
        (0.10, 0.05, 0.0, 0.01, 251),  # (2.326 + 0.842)^2
        (-0.2, 0.05, 0.05, 0.05, 619),  # non-inferiority takes models as equal
        (0.10, 0.001, 0.0, 0.05, 101),  # at least one more than there are
        (0.0, 0.05, 0.0, 0.05, None),
        (-0.1, 0.05, 0.0, 0.05, None),
        (None, 0.05, 0.0, 0.05, None),
        (0.10, None, 0.0, 0.05, None),
        (0.10, 0.05, 0.0, 0.0, None),
    ],
)
def test_how_many_clusters_would_show_it(
    value: float | None, error: float | None, margin: float, alpha: float, clusters: int | None
) -> None:
    cohort = {"clusters": 100, "auroc": {"difference": {"value": value, "error": error}}}
    assert needed(cohort, margin, alpha) == clusters


def test_the_clusters_asked_for_would_do(samples: Any) -> None:
    """`needed` at the margin: cohorts of that size show non-inferiority of an equal model about 80 times in 100."""
    settings = replace(samples.PROMOTION, bootstrap=200)

    def anchor(clusters: int, seed: int) -> Any:
        return compare(*samples.pair(clusters, seed, auroc=0.9), settings, "x")["cohorts"]["anchor"]

    size = int(np.median([needed(anchor(60, seed), 0.05, 0.05) for seed in range(20)]))
    assert 60 < size < 400
    assert 0.6 < np.mean([anchor(size, 100 + seed)["auroc"]["difference"]["low"] > -0.05 for seed in range(50)]) < 0.97
