"""DeLong's method: the published figures of a published data set, the definition itself, and clusters."""

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
def test_the_paired_test_agrees_with_the_published_figures(asah: pd.DataFrame, markers: tuple[str, str]) -> None:
    found = delong.paired(asah[markers[0]], asah[markers[1]], asah["outcome"] == "Poor", np.arange(len(asah)))
    z, p, low, high = PUBLISHED[markers]
    assert found is not None
    edge = norm.ppf(0.975) * found.error
    seen = (found.z, 2 * norm.sf(abs(found.z)), found.difference - edge, found.difference + edge)
    assert seen == pytest.approx((z, p, low, high), abs=1e-9)


def test_the_third_pair_too(asah: pd.DataFrame) -> None:
    found = delong.paired(asah["ndka"], asah["s100b"], asah["outcome"] == "Poor", np.arange(len(asah)))
    assert found is not None
    assert found.z == pytest.approx(-1.39077002573558, abs=1e-9)
    assert found.areas == pytest.approx((0.6119579, 0.7313686), abs=1e-7)


def by_definition(scores: list[np.ndarray], positive: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Covariance of AUROCs from every pair of units, cluster by cluster: Obuchowski's formulas read literally."""
    names = np.unique(clusters)
    above, below = np.flatnonzero(positive), np.flatnonzero(~positive)
    parts, held = [], []
    for values in scores:
        wins = np.array([[(values[i] > values[j]) + 0.5 * (values[i] == values[j]) for j in below] for i in above])
        area = wins.mean()
        v10, v01 = wins.mean(axis=1), wins.mean(axis=0)
        parts.append(
            [
                ([v - area for v in v10[clusters[above] == name]], [v - area for v in v01[clusters[below] == name]])
                for name in names
            ]
        )
    held = [len(set(clusters[side])) for side in (above, below)]
    covariance = np.zeros((2, 2))
    for r in range(2):
        for s in range(2):
            s10, s01, cross = (
                sum(sum(parts[r][c][a]) * sum(parts[s][c][b]) for c in range(len(names)))
                for a, b in ((0, 0), (1, 1), (0, 1))
            )
            other = sum(sum(parts[s][c][0]) * sum(parts[r][c][1]) for c in range(len(names)))
            m, n, whole = len(above), len(below), len(names)
            covariance[r, s] = (
                held[0] / (held[0] - 1) * s10 / m**2
                + held[1] / (held[1] - 1) * s01 / n**2
                + whole / (whole - 1) * (cross + other) / (m * n)
            )
    return covariance


@pytest.mark.parametrize("size", [1, 4])
def test_it_agrees_with_the_definition(size: int) -> None:
    random = np.random.default_rng(size)
    clusters = np.arange(48) // size
    positive = random.uniform(size=48) < 0.4
    scores = [np.round(positive + random.normal(size=48), 1) for _ in range(2)]  # with ties
    found = delong.paired(*scores, positive, clusters)
    assert found is not None
    assert found.covariance == pytest.approx(by_definition(scores, positive, clusters), abs=1e-12)
    if size == 1:  # Satterthwaite's degrees of freedom of the difference, from its share that each kind has
        wins = [values[positive][:, None] - values[~positive] for values in scores]
        gap = (wins[0] > 0) + 0.5 * (wins[0] == 0) - (wins[1] > 0) - 0.5 * (wins[1] == 0)
        shares = np.array([gap.mean(axis=axis).var(ddof=1) / gap.shape[1 - axis] for axis in (1, 0)])
        wanted = shares.sum() ** 2 / (shares**2 / (np.array(gap.shape) - 1)).sum()
        assert found.freedom == pytest.approx(wanted)


def test_copies_of_a_unit_within_its_patient_add_no_certainty(asah: pd.DataFrame) -> None:
    positive = (asah["outcome"] == "Poor").to_numpy()
    once = delong.paired(asah["wfns"], asah["ndka"], positive, np.arange(113))
    tenfold = np.repeat(np.arange(113), 10)
    copied = delong.paired(
        asah["wfns"].to_numpy()[tenfold], asah["ndka"].to_numpy()[tenfold], positive[tenfold], tenfold
    )
    assert once is not None and copied is not None
    assert copied.covariance == pytest.approx(once.covariance, abs=1e-12)
    assert copied.freedom == pytest.approx(once.freedom)


def test_error_agrees_with_the_bootstrap_of_patients_with_slices_of_both_kinds() -> None:
    random = np.random.default_rng(7)
    clusters = np.repeat(np.arange(150), 4)
    positive = random.uniform(size=600) < 0.4
    patient = np.repeat(random.normal(size=150), 4)
    scores = [1.2 * positive + patient + random.normal(size=600) for _ in range(2)]
    found = delong.paired(*scores, positive, clusters)
    draws = bootstrap.draw(clusters, 1000, 1)
    gap = bootstrap.auroc(draws, scores[0], positive) - bootstrap.auroc(draws, scores[1], positive)
    assert found is not None
    assert found.error == pytest.approx(float(gap[1:].std()), rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_score_that_knows_nothing_it_is_the_test_of_brunner_and_munzel(seed: int) -> None:
    """One patient a unit, and the other score constant: their statistic, degrees of freedom and one-sided p-values."""
    random = np.random.default_rng(seed)
    positive = np.arange(17) < 6
    scores = np.round(0.5 * positive + random.normal(size=17), 1)
    found = delong.paired(scores, np.zeros(17), positive, np.arange(17))
    assert found is not None
    for side, alternative in ((1, "less"), (-1, "greater")):
        wanted = brunnermunzel(scores[~positive], scores[positive], alternative)
        assert found.p(side) == pytest.approx(wanted.pvalue)
        assert abs(found.z) == pytest.approx(abs(wanted.statistic))
        # The bound at that level is the border of what is shown: no difference.
        assert found.bound(wanted.pvalue, -side) == pytest.approx(0, abs=1e-9)
    assert found.bound(0.05, -1) < found.difference < found.bound(0.05, 1)
    mirrored = delong.paired(np.zeros(17), scores, positive, np.arange(17))
    assert mirrored is not None
    assert (mirrored.difference, mirrored.p(-1)) == pytest.approx((-found.difference, found.p(1)))


def test_a_difference_without_any_spread_is_certain() -> None:
    positive = np.array([True, True, False, False])
    perfect, blind = [4, 3, 2, 1], [1, 1, 1, 1]
    for first, second, difference in ((perfect, blind, 0.5), (blind, perfect, -0.5)):
        found = delong.paired(first, second, positive, range(4))
        assert found is not None
        assert (found.difference, found.error, found.freedom) == (difference, 0, 1)
        assert found.z == np.copysign(np.inf, difference)
        assert (found.p(1), found.p(-1)) == ((0, 1) if difference > 0 else (1, 0))
        assert found.bound(0.05, -1) == found.bound(0.05, 1) == difference


@pytest.mark.parametrize(
    ("clusters", "able"),
    [
        ([1, 2, 3, 4], True),
        ([1, 2, 1, 2], True),  # patients of both kinds
        ([1, 1, 2, 3], False),  # one patient with positives
        ([1, 2, 3, 3], False),  # one patient with negatives
    ],
)
def test_two_patients_of_each_kind_are_needed(clusters: list[int], able: bool) -> None:
    found = delong.paired([4, 1, 2, 3], [4, 3, 2, 1], np.array([True, True, False, False]), clusters)
    assert (found is not None) is able


def test_what_patients_are_called_changes_nothing(asah: pd.DataFrame) -> None:
    named = [f"patient {number % 40}" for number in range(113)]
    pair = [
        delong.paired(asah["wfns"], asah["ndka"], asah["outcome"] == "Poor", clusters)
        for clusters in (named, np.arange(113) % 40)
    ]
    assert pair[0] is not None and pair[1] is not None
    assert pair[0].covariance == pytest.approx(pair[1].covariance)
    assert pair[0].freedom == pair[1].freedom


def test_p_values_of_equal_models_are_honest_with_few_patients() -> None:
    """Of 600 pairs of equal models on 24 patients, about 5 % have a p-value under 0.05, for either side."""
    under = np.zeros(2)
    for seed in range(600):
        random = np.random.default_rng(seed)
        positive = np.arange(24) < 9
        shared = random.normal(size=24)
        scores = [positive + 0.8 * shared + 0.6 * random.normal(size=24) for _ in range(2)]
        found = delong.paired(*scores, positive, np.arange(24))
        assert found is not None
        under += [found.p(1) < 0.05, found.p(-1) < 0.05]
    assert (under / 600 < 0.085).all()


def test_two_equal_models_and_too_few_patients() -> None:
    positive = np.array([True, True, False, False])
    same = delong.paired([4, 3, 2, 1], [4, 3, 2, 1], positive, range(4))
    assert same is not None
    assert (same.difference, same.error, same.p(1), same.p(-1)) == (0, 0, 1, 1)
    assert delong.paired([4, 3, 2, 1], [4, 3, 2, 1], positive, [1, 1, 2, 3]) is None
