"""DeLong's method: published values of a published data set, the definition, and clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import brunnermunzel, norm

from training.statistics import bootstrap, delong

# 113 patients with an aneurysmal subarachnoid haemorrhage (Turck et al., Intensive Care Medicine 36, 2010), as R's
# pROC ships them; statistic, p-value and 95 % interval of the paired test are those of pROC's own tests
# (tests/testthat/test-roc.test.R).
PUBLISHED = {
    ("wfns", "s100b"): (2.20898359144091, 0.0271757822291882, 0.0104061769564846, 0.174214419249478),
    ("wfns", "ndka"): (2.79777591868904, 0.00514557970691098, 0.0634011709339876, 0.3600405634833566),
}


@pytest.fixture(scope="module")
def asah() -> pd.DataFrame:
    table = pd.read_csv(Path(__file__).with_name("asah.csv"))
    assert len(table) == 113
    return table


@pytest.mark.parametrize("markers", PUBLISHED)
def test_the_paired_test_agrees_with_published_values(asah: pd.DataFrame, markers: tuple[str, str]) -> None:
    result = delong.compare_areas(asah[markers[0]], asah[markers[1]], asah["outcome"] == "Poor", np.arange(len(asah)))
    z, p, low, high = PUBLISHED[markers]
    assert result is not None
    half_width = norm.ppf(0.975) * result.error
    values = (result.z, 2 * norm.sf(abs(result.z)), result.difference - half_width, result.difference + half_width)
    assert values == pytest.approx((z, p, low, high), abs=1e-9)


def test_the_third_pair_agrees_with_published_values(asah: pd.DataFrame) -> None:
    result = delong.compare_areas(asah["ndka"], asah["s100b"], asah["outcome"] == "Poor", np.arange(len(asah)))
    assert result is not None
    assert result.z == pytest.approx(-1.39077002573558, abs=1e-9)
    assert result.areas == pytest.approx((0.6119579, 0.7313686), abs=1e-7)


def covariance_by_definition(scores: list[np.ndarray], positive: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Covariance of AUROCs from every pair of units, cluster by cluster, directly by Obuchowski's formulas."""
    names = np.unique(clusters)
    above, below = np.flatnonzero(positive), np.flatnonzero(~positive)
    influences, cluster_counts = [], []
    for values in scores:
        wins = np.array([[(values[i] > values[j]) + 0.5 * (values[i] == values[j]) for j in below] for i in above])
        area = wins.mean()
        v10, v01 = wins.mean(axis=1), wins.mean(axis=0)
        influences.append(
            [
                ([v - area for v in v10[clusters[above] == name]], [v - area for v in v01[clusters[below] == name]])
                for name in names
            ]
        )
    cluster_counts = [len(set(clusters[side])) for side in (above, below)]
    covariance = np.zeros((2, 2))
    for r in range(2):
        for s in range(2):
            s10, s01, cross = (
                sum(sum(influences[r][c][a]) * sum(influences[s][c][b]) for c in range(len(names)))
                for a, b in ((0, 0), (1, 1), (0, 1))
            )
            reversed_cross = sum(sum(influences[s][c][0]) * sum(influences[r][c][1]) for c in range(len(names)))
            m, n, name_count = len(above), len(below), len(names)
            covariance[r, s] = (
                cluster_counts[0] / (cluster_counts[0] - 1) * s10 / m**2
                + cluster_counts[1] / (cluster_counts[1] - 1) * s01 / n**2
                + name_count / (name_count - 1) * (cross + reversed_cross) / (m * n)
            )
    return covariance


@pytest.mark.parametrize("size", [1, 4])
def test_it_agrees_with_the_definition(size: int) -> None:
    random = np.random.default_rng(size)
    clusters = np.arange(48) // size
    positive = random.uniform(size=48) < 0.4
    scores = [np.round(positive + random.normal(size=48), 1) for _ in range(2)]  # with ties
    result = delong.compare_areas(*scores, positive, clusters)
    assert result is not None
    assert result.covariance == pytest.approx(covariance_by_definition(scores, positive, clusters), abs=1e-12)
    if size == 1:  # Satterthwaite's degrees of freedom of the difference, from the variance share of each kind
        wins = [values[positive][:, None] - values[~positive] for values in scores]
        gap = (wins[0] > 0) + 0.5 * (wins[0] == 0) - (wins[1] > 0) - 0.5 * (wins[1] == 0)
        shares = np.array([gap.mean(axis=axis).var(ddof=1) / gap.shape[1 - axis] for axis in (1, 0)])
        expected = shares.sum() ** 2 / (shares**2 / (np.array(gap.shape) - 1)).sum()
        assert result.degrees_of_freedom == pytest.approx(expected)


def test_copies_of_a_unit_in_its_patient_change_nothing(asah: pd.DataFrame) -> None:
    positive = (asah["outcome"] == "Poor").to_numpy()
    once = delong.compare_areas(asah["wfns"], asah["ndka"], positive, np.arange(113))
    tenfold = np.repeat(np.arange(113), 10)
    copied = delong.compare_areas(
        asah["wfns"].to_numpy()[tenfold], asah["ndka"].to_numpy()[tenfold], positive[tenfold], tenfold
    )
    assert once is not None and copied is not None
    assert copied.covariance == pytest.approx(once.covariance, abs=1e-12)
    assert copied.degrees_of_freedom == pytest.approx(once.degrees_of_freedom)


def test_error_agrees_with_the_bootstrap_of_patients_with_slices_of_both_kinds() -> None:
    random = np.random.default_rng(7)
    clusters = np.repeat(np.arange(150), 4)
    positive = random.uniform(size=600) < 0.4
    patient = np.repeat(random.normal(size=150), 4)
    scores = [1.2 * positive + patient + random.normal(size=600) for _ in range(2)]
    result = delong.compare_areas(*scores, positive, clusters)
    draws = bootstrap.draw(clusters, 1000, 1)
    gap = bootstrap.auroc(draws, scores[0], positive) - bootstrap.auroc(draws, scores[1], positive)
    assert result is not None
    assert result.error == pytest.approx(float(gap[1:].std()), rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_constant_score_it_is_the_test_of_brunner_and_munzel(seed: int) -> None:
    """One patient a unit, and a constant second score: equal statistic, degrees of freedom and one-sided p-values."""
    random = np.random.default_rng(seed)
    positive = np.arange(17) < 6
    scores = np.round(0.5 * positive + random.normal(size=17), 1)
    result = delong.compare_areas(scores, np.zeros(17), positive, np.arange(17))
    assert result is not None
    for side, alternative in ((1, "less"), (-1, "greater")):
        expected = brunnermunzel(scores[~positive], scores[positive], alternative)
        assert result.p(side) == pytest.approx(expected.pvalue)
        assert abs(result.z) == pytest.approx(abs(expected.statistic))
        # The bound at the level of the p-value is a difference of 0.
        assert result.bound(expected.pvalue, -side) == pytest.approx(0, abs=1e-9)
    assert result.bound(0.05, -1) < result.difference < result.bound(0.05, 1)
    mirrored = delong.compare_areas(np.zeros(17), scores, positive, np.arange(17))
    assert mirrored is not None
    assert (mirrored.difference, mirrored.p(-1)) == pytest.approx((-result.difference, result.p(1)))


def test_a_difference_without_any_spread_is_certain() -> None:
    positive = np.array([True, True, False, False])
    perfect, blind = [4, 3, 2, 1], [1, 1, 1, 1]
    for first, second, difference in ((perfect, blind, 0.5), (blind, perfect, -0.5)):
        result = delong.compare_areas(first, second, positive, range(4))
        assert result is not None
        assert (result.difference, result.error, result.degrees_of_freedom) == (difference, 0, 1)
        assert result.z == np.copysign(np.inf, difference)
        assert (result.p(1), result.p(-1)) == ((0, 1) if difference > 0 else (1, 0))
        assert result.bound(0.05, -1) == result.bound(0.05, 1) == difference


@pytest.mark.parametrize(
    ("clusters", "is_possible"),
    [
        ([1, 2, 3, 4], True),
        ([1, 2, 1, 2], True),  # patients of both kinds
        ([1, 1, 2, 3], False),  # one patient with positives
        ([1, 2, 3, 3], False),  # one patient with negatives
    ],
)
def test_two_patients_of_each_kind_are_needed(clusters: list[int], is_possible: bool) -> None:
    result = delong.compare_areas([4, 1, 2, 3], [4, 3, 2, 1], np.array([True, True, False, False]), clusters)
    assert (result is not None) is is_possible


def test_names_of_patients_change_nothing(asah: pd.DataFrame) -> None:
    names = [f"patient {number % 40}" for number in range(113)]
    results = [
        delong.compare_areas(asah["wfns"], asah["ndka"], asah["outcome"] == "Poor", clusters)
        for clusters in (names, np.arange(113) % 40)
    ]
    assert results[0] is not None and results[1] is not None
    assert results[0].covariance == pytest.approx(results[1].covariance)
    assert results[0].degrees_of_freedom == results[1].degrees_of_freedom


def test_p_values_of_equal_models_are_valid_with_few_patients() -> None:
    """Of 600 pairs of equal models on 24 patients, about 5 % have a p-value under 0.05, for either side."""
    under = np.zeros(2)
    for seed in range(600):
        random = np.random.default_rng(seed)
        positive = np.arange(24) < 9
        shared = random.normal(size=24)
        scores = [positive + 0.8 * shared + 0.6 * random.normal(size=24) for _ in range(2)]
        result = delong.compare_areas(*scores, positive, np.arange(24))
        assert result is not None
        under += [result.p(1) < 0.05, result.p(-1) < 0.05]
    assert (under / 600 < 0.085).all()


def test_two_equal_models_and_too_few_patients() -> None:
    positive = np.array([True, True, False, False])
    same = delong.compare_areas([4, 3, 2, 1], [4, 3, 2, 1], positive, range(4))
    assert same is not None
    assert (same.difference, same.error, same.p(1), same.p(-1)) == (0, 0, 1, 1)
    assert delong.compare_areas([4, 3, 2, 1], [4, 3, 2, 1], positive, [1, 1, 2, 3]) is None
