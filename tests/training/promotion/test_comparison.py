"""Comparison: paired, by cluster, in three cohorts of the test set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lineage.errors import Fault
from training.promotion.comparison import compare, describe_shortage, needed_clusters
from training.statistics import delong


def test_differences_are_those_of_the_two_models(samples: Any) -> None:
    challenger, rival = samples.pair(60, 1, auroc=0.8, gain=0.1, epochs=np.where(np.arange(60) < 35, 1, 2))
    comparison = compare(challenger, rival, samples.PROMOTION, "champion 3")
    assert comparison["rival"] == "champion 3"
    assert comparison["epochs"] == [1, 2]
    assert {name: cohort["clusters"] for name, cohort in comparison["cohorts"].items()} == {
        "anchor": 35,
        "newest": 25,
        "overall": 60,
    }
    for name, epochs in (("anchor", [1]), ("newest", [2]), ("overall", [1, 2])):
        areas = [
            roc_auc_score(t["positive"], t["score"]) for t in (x[x["epoch"].isin(epochs)] for x in (challenger, rival))
        ]
        auroc = comparison["cohorts"][name]["auroc"]
        assert [auroc["challenger"], auroc["rival"]] == pytest.approx(areas)
        assert auroc["difference"]["value"] == pytest.approx(areas[0] - areas[1])
        assert auroc["difference"]["low"] < auroc["difference"]["value"] < auroc["difference"]["high"]


def test_pairing_makes_the_bounds_narrow(samples: Any) -> None:
    challenger, rival = samples.pair(80, 2, auroc=0.85, shared=0.95)
    independent = samples.pair(80, 3, auroc=0.85)[1].assign(positive=challenger["positive"])
    paired_error = compare(challenger, rival, samples.PROMOTION, "x")["cohorts"]["overall"]["auroc"]["difference"][
        "error"
    ]
    independent_error = compare(challenger, independent, samples.PROMOTION, "x")["cohorts"]["overall"]["auroc"][
        "difference"
    ]["error"]
    assert paired_error < independent_error / 2


def test_a_model_against_itself_differs_by_nothing(samples: Any) -> None:
    challenger, _ = samples.pair(40, 4)
    comparison = compare(challenger, challenger, samples.PROMOTION, "itself")
    assert comparison["cohorts"]["overall"]["auroc"]["difference"] == {
        "value": 0,
        "low": 0,
        "high": 0,
        "error": 0,
        "p_better": 1,
        "p_worse": 1,
    }
    assert comparison["flips"] == {"lost": [], "won": 0}


def test_lost_units_are_listed(samples: Any) -> None:
    positive = np.arange(20) < 10
    rival = samples.judged(np.where(positive, 0.9, 0.1), positive)
    scores = rival["score"].to_numpy().copy()
    scores[[0, 15]] = 0.4, 0.6
    flips = compare(samples.judged(scores, positive), rival, samples.PROMOTION, "x")["flips"]
    assert flips == {"lost": ["unit-0", "unit-15"], "won": 0}


def test_validation_units_do_not_count(samples: Any) -> None:
    challenger, rival = samples.pair(40, 5)
    extra = challenger.head(5).assign(side="validation", unit_id=[f"v{index}" for index in range(5)])
    with_validation = [pd.concat([table, extra]) for table in (challenger, rival)]
    assert compare(*with_validation, samples.PROMOTION, "x") == compare(challenger, rival, samples.PROMOTION, "x")


def test_without_a_gain_no_number_is_given(samples: Any) -> None:
    challenger, _ = samples.pair(40, 8)
    assert (
        needed_clusters(compare(challenger, challenger, samples.PROMOTION, "x")["cohorts"]["overall"], 0.0, 0.05)
        is None
    )


def test_a_claim_uses_the_wider_bound_of_two_methods(samples: Any) -> None:
    """DeLong's bound is wider in some comparisons and the bootstrap's in others; the wider one is used."""
    settings, wider = replace(samples.PROMOTION, bootstrap=200), set()
    for seed in range(12):
        challenger, rival = samples.pair(30, seed, auroc=0.85, shared=0.5)
        figures = compare(challenger, rival, settings, "x")["cohorts"]["overall"]["auroc"]
        delong_bounds, bootstrap_bounds, difference = figures["delong"], figures["bootstrap"], figures["difference"]
        paired = delong.compare_areas(
            challenger["score"], rival["score"], challenger["positive"], challenger["cluster"]
        )
        assert paired and [delong_bounds["low"], delong_bounds["high"]] == [
            paired.bound(0.05, -1),
            paired.bound(0.05, 1),
        ]
        assert [delong_bounds["error"], delong_bounds["p_better"], delong_bounds["p_worse"]] == [
            paired.error,
            paired.p(1),
            paired.p(-1),
        ]
        for name in ("low", "high", "error", "p_better", "p_worse"):
            combine = max if name == "low" else min
            assert delong_bounds[name] != bootstrap_bounds[name]
            assert {difference[name], combine(delong_bounds[name], bootstrap_bounds[name])} == {
                delong_bounds[name],
                bootstrap_bounds[name],
            }, name
            wider.add((name, difference[name] == delong_bounds[name]))
    assert len(wider) == 10  # for every value each method was the wider one at least once


@pytest.mark.parametrize(
    ("patients", "positives", "slices", "method"),
    [
        (1, 6, 12, "bootstrap"),  # every draw is the same patient
        (12, 2, 1, "delong"),  # a tenth of the draws has no positive patient
        (12, 1, 1, ""),
    ],
)
def test_without_a_bound_of_both_methods_there_is_none(
    samples: Any, patients: int, positives: int, slices: int, method: str
) -> None:
    positive = np.arange(12) < positives
    challenger, rival = (
        samples.judged(np.random.default_rng(seed).uniform(size=12), positive, slices=slices) for seed in (1, 2)
    )
    figures = compare(challenger, rival, samples.PROMOTION, "x")["cohorts"]["overall"]["auroc"]
    assert challenger["cluster"].nunique() == patients
    assert figures["difference"]["value"] is not None
    for name in ("low", "high", "error", "p_better", "p_worse"):
        assert figures["difference"][name] is None
        assert {source for source in ("delong", "bootstrap") if figures[source][name] is not None} == {method} - {""}


def test_without_positive_units_there_is_no_auroc_or_sensitivity(samples: Any) -> None:
    challenger, rival = samples.pair(20, 1)
    comparison = compare(
        challenger.assign(positive=0), rival.assign(positive=0), replace(samples.PROMOTION, bootstrap=20), "x"
    )
    cohort = comparison["cohorts"]["overall"]
    for name in ("auroc", "sensitivity"):
        assert (cohort[name]["challenger"], cohort[name]["rival"], cohort[name]["difference"]["value"]) == (None,) * 3
    assert cohort["brier"]["difference"]["value"] is not None


def test_each_difference_is_challenger_minus_rival(samples: Any) -> None:
    """Four patients with two slices, calculated by hand."""
    positive = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    challenger = samples.judged(np.array([0.9, 0.8, 0.4, 0.1, 0.2, 0.3, 0.1, 0.1]), positive, slices=2)
    rival = samples.judged(np.array([0.9, 0.2, 0.1, 0.6, 0.2, 0.3, 0.1, 0.1]), positive, slices=2)
    cohort = compare(challenger, rival, samples.PROMOTION, "x")["cohorts"]["overall"]
    counts = {"units": 8, "clusters": 4, "positive_clusters": 2, "negative_clusters": 3, "batches": ["first"]}
    assert {name: cohort[name] for name in counts} == counts
    assert [cohort["auroc"]["challenger"], cohort["auroc"]["rival"]] == pytest.approx([1.0, 8.5 / 15])
    assert [cohort["sensitivity"]["challenger"], cohort["sensitivity"]["rival"]] == pytest.approx([2 / 3, 1 / 3])
    assert [cohort["brier"]["challenger"], cohort["brier"]["rival"]] == pytest.approx([0.57 / 8, 1.97 / 8])
    assert cohort["sensitivity"]["mcnemar"] == {"lost": 0, "won": 1, "p_worse": 1.0, "p_better": 0.5}
    for name, gap in (("auroc", 6.5 / 15), ("sensitivity", 1 / 3), ("brier", -1.4 / 8)):
        assert cohort[name]["difference"]["value"] == pytest.approx(gap)
    assert cohort["ece"]["difference"]["value"] == pytest.approx(cohort["ece"]["challenger"] - cohort["ece"]["rival"])
    assert cohort["ece"]["challenger"] < cohort["ece"]["rival"]


def test_patients_count_and_not_slices(samples: Any) -> None:
    """Every slice tenfold within its patient: no bound moves."""
    challenger, rival = samples.pair(30, 3, auroc=0.85)
    settings = replace(samples.PROMOTION, bootstrap=100)
    copies = [
        table.loc[table.index.repeat(10)].assign(unit_id=[f"u{index}" for index in range(300)])
        for table in (challenger, rival)
    ]
    for name in ("auroc", "brier", "sensitivity"):
        once, tenfold = (
            compare(*pair, settings, "x")["cohorts"]["overall"][name] for pair in ((challenger, rival), copies)
        )
        assert tenfold["difference"] == pytest.approx(once["difference"])


@pytest.mark.parametrize(
    ("epochs", "batches", "decided", "newest"),
    [
        ((1, 1, 1), "abc", (), "abc"),  # before a second epoch: the whole test set
        ((1, 1, 1), "abc", ("a", "b"), "c"),
        ((1, 2, 2), "abc", (), "bc"),
        ((1, 2, 2), "abc", ("b",), "c"),
        ((1, 2, 3), "abc", (), "bc"),
        ((1, 2, 3), "abc", ("b", "c"), "c"),  # all batches were used: the last epoch
        ((1, 2, 3), "abc", ("a", "b"), "c"),
        ((1, 2, 3), "abx", ("b",), "bx"),  # the unused batch is too small: with the epoch before
        ((1, 2, 3), "axy", ("x",), "xy"),  # nothing is large enough: all but the first epoch
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
    challenger = samples.judged(scores, positive, np.repeat(epochs, sizes)).assign(
        batch=np.repeat(list(batches), sizes)
    )
    comparison = compare(challenger, challenger, replace(samples.PROMOTION, bootstrap=5), "x", decided=decided)
    assert comparison["cohorts"]["newest"]["batches"] == list(newest)
    assert comparison["cohorts"]["anchor"]["batches"] == [
        b for b, epoch in zip(batches, epochs, strict=True) if epoch == 1
    ]
    assert comparison["cohorts"]["overall"]["batches"] == sorted(batches)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((10, 4, 4), ""),
        ((9, 4, 4), "9 clusters, and 10 are needed"),
        ((10, 3, 7), "3 clusters with a positive unit, and 4 are needed"),
        ((10, 7, 3), "3 clusters with a negative unit, and 4 are needed"),
    ],
)
def test_the_shortage_of_a_cohort(samples: Any, counts: tuple[int, int, int], words: str) -> None:
    names = ("clusters", "positive_clusters", "negative_clusters")
    assert describe_shortage(dict(zip(names, counts, strict=True)), samples.PROMOTION) == words


def test_facts_of_the_units_make_subgroups_and_earlier_epochs_are_compared(samples: Any) -> None:
    challenger, rival = samples.pair(60, 9, epochs=np.repeat([1, 2], 30))
    sex = pd.DataFrame(
        {"unit_id": challenger["unit_id"], "sex": np.where(np.arange(60) % 2, "F", "M"), "site": "elsewhere"}
    )
    comparison = compare(challenger, rival, samples.PROMOTION, "x", facts=sex.iloc[:-1])
    assert set(comparison["slices"]) == {"sex F", "sex M"}  # the site comes from the table and is equal for all
    assert set(comparison["earlier"]) == {"epoch 1", "site north before"}
    assert comparison["alpha"] == samples.PROMOTION.alpha
    one_epoch = compare(challenger.assign(epoch=1), rival.assign(epoch=1), samples.PROMOTION, "x")
    assert (one_epoch["slices"], one_epoch["earlier"]) == ({}, {})


def test_different_test_units_are_refused(samples: Any) -> None:
    challenger, rival = samples.pair(40, 6)
    for pair, numbers in (
        ((challenger.iloc[1:], rival), "39 test units, x 40"),
        ((challenger, rival.iloc[1:]), "40 .*, x 39"),
        ((challenger.iloc[:0], rival.iloc[:0]), "judged 0 test units, x 0, and 0"),
    ):
        with pytest.raises(Fault, match=numbers):
            compare(*pair, samples.PROMOTION, "x")
    with pytest.raises(Fault, match="and 0 are the same"):
        compare(challenger, rival.assign(unit_id="other-" + rival["unit_id"]), samples.PROMOTION, "x")
    with pytest.raises(pd.errors.MergeError):  # 40 units each, one of them twice
        compare(pd.concat([challenger.iloc[:1], challenger.iloc[:39]]), rival, samples.PROMOTION, "x")


@pytest.mark.parametrize(
    ("value", "error", "margin", "alpha", "clusters"),
    [
        (0.0, 0.05, 0.05, 0.05, 619),  # 100 x ((1.645 + 0.842) x 0.05 / 0.05)^2
        (0.10, 0.05, 0.0, 0.05, 155),
        (0.10, 0.05, 0.0, 0.01, 251),  # (2.326 + 0.842)^2
        (-0.2, 0.05, 0.05, 0.05, 619),  # non-inferiority takes models as equal
        (0.10, 0.001, 0.0, 0.05, 101),  # at least one more than now
        (0.0, 0.05, 0.0, 0.05, None),
        (-0.1, 0.05, 0.0, 0.05, None),
        (None, 0.05, 0.0, 0.05, None),
        (0.10, None, 0.0, 0.05, None),
        (0.10, 0.05, 0.0, 0.0, None),
    ],
)
def test_the_needed_number_of_clusters(
    value: float | None, error: float | None, margin: float, alpha: float, clusters: int | None
) -> None:
    cohort = {"clusters": 100, "auroc": {"difference": {"value": value, "error": error}}}
    assert needed_clusters(cohort, margin, alpha) == clusters


def test_the_needed_number_of_clusters_gives_the_power(samples: Any) -> None:
    """With that many clusters an equal model is shown to be non-inferior in about 80 of 100 cohorts."""
    settings = replace(samples.PROMOTION, bootstrap=200)

    def anchor(clusters: int, seed: int) -> Any:
        return compare(*samples.pair(clusters, seed, auroc=0.9), settings, "x")["cohorts"]["anchor"]

    size = int(np.median([needed_clusters(anchor(60, seed), 0.05, 0.05) for seed in range(20)]))
    assert 60 < size < 400
    assert 0.6 < np.mean([anchor(size, 100 + seed)["auroc"]["difference"]["low"] > -0.05 for seed in range(50)]) < 0.97
