"""The clustered bootstrap: metrics agree with scikit-learn on every draw, and clusters are drawn as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from training.statistics import bootstrap


@pytest.fixture
def draws_and_units() -> tuple[bootstrap.Draws, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    clusters = random.integers(0, 12, 60)
    scores = np.round(random.uniform(size=60), 1)  # many ties
    return bootstrap.draw(clusters, 40, 5), scores, random.uniform(size=60) < 0.4


@pytest.mark.parametrize(
    ("units", "clusters", "count"),
    [(60, 12, 40), (300, 300, 300), (900, 8, 3)],  # few large clusters; many small ones; over 256 positives
)
def test_auroc_and_average_precision_agree_with_sklearn(units: int, clusters: int, count: int) -> None:
    random = np.random.default_rng(3)
    scores, positive = np.round(random.uniform(size=units), 1), random.uniform(size=units) < 0.4
    draws = bootstrap.draw(np.arange(units) % clusters, count, 5)
    assert len(draws.weights) == count + 1
    areas, precisions = (f(draws, scores, positive) for f in (bootstrap.auroc, bootstrap.average_precision))
    for row in {*range(0, count + 1, 1 + count // 40), count}:
        weights = draws.weights[row][draws.cluster_index]
        assert areas[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights), abs=1e-12)
        assert precisions[row] == pytest.approx(
            average_precision_score(positive, scores, sample_weight=weights), abs=1e-12
        )


def test_clusters_are_drawn_with_replacement_and_equal_probability() -> None:
    """Multinomial weights: mean 1, variance 1 - 1/n, different for each seed; names of clusters change nothing."""
    names = np.array(["c", "a", "a", "d", "b"])
    draws = bootstrap.draw(names, 20_000, 1)
    assert draws.cluster_index.tolist() == [0, 1, 1, 2, 3]
    assert draws.weights.shape == (20_001, 4)
    assert draws.weights[1:].mean(axis=0) == pytest.approx(np.ones(4), abs=0.03)
    assert draws.weights[1:].var(axis=0) == pytest.approx(np.full(4, 0.75), abs=0.05)
    assert np.array_equal(bootstrap.draw([7, 3, 3, 1, 2], 20_000, 1).weights, draws.weights)
    assert not np.array_equal(bootstrap.draw(names, 20_000, 2).weights, draws.weights)


def test_sums_and_shares_weight_units_by_the_draws_of_their_cluster() -> None:
    draws = bootstrap.Draws(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]), np.array([0, 0, 1]))
    assert draws.sums([1.0, 2.0, 4.0]).tolist() == [7, 6, 8]
    assert draws.sums([[1.0, 0.0], [2.0, 1.0], [4.0, 0.0]]).tolist() == [[7, 1], [6, 2], [8, 0]]
    assert draws.share([True, False, True], [True, True, False]).tolist()[:2] == [0.5, 0.5]
    assert np.isnan(draws.share([True, False, True], [True, True, False])[2])
    assert bootstrap.ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0]), empty=0.0).tolist() == [0.5, 0.0]


def test_positives_or_negatives_alone_have_no_auroc() -> None:
    draws = bootstrap.draw(np.arange(4), 3, 1)
    for positive in ([True] * 4, [False] * 4):
        assert np.isnan(bootstrap.auroc(draws, [0.1, 0.2, 0.3, 0.4], positive)).all()


def test_the_first_row_is_the_data_and_draws_keep_the_number_of_clusters(draws_and_units: tuple) -> None:
    draws = draws_and_units[0]
    assert (draws.weights[0] == 1).all()
    assert (draws.weights.sum(axis=1) == draws.weights.shape[1]).all()
    assert np.array_equal(bootstrap.draw([3, 3, 1], 9, 5).weights, bootstrap.draw([3, 3, 1], 9, 5).weights)


def test_copies_of_a_unit_in_its_cluster_change_nothing() -> None:
    random = np.random.default_rng(0)
    positive = np.arange(40) % 2 == 0
    scores = positive + random.normal(size=40)
    single = bootstrap.auroc(bootstrap.draw(np.arange(40), 400, 1), scores, positive)
    tenfold = np.repeat(np.arange(40), 10)
    copies = bootstrap.auroc(bootstrap.draw(tenfold, 400, 1), scores[tenfold], positive[tenfold])
    assert np.allclose(single, copies)


def test_a_draw_without_positives_has_no_value() -> None:
    draws = bootstrap.Draws(np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([0, 1]))
    values = bootstrap.auroc(draws, [0.1, 0.9], [False, True])
    assert values[0] == 1
    assert np.isnan(values[1])
    assert np.isnan(bootstrap.average_precision(draws, [0.1, 0.9], [False, True])[1])


def draws_of(estimate: float, *draw_values: float, missing: int = 0) -> np.ndarray:
    return np.array([estimate, *draw_values, *[np.nan] * missing])


PERCENT = np.arange(101) / 100


@pytest.mark.parametrize(
    ("values", "clusters", "expected"),
    [
        (draws_of(0.5, *PERCENT), 9, (0.5, 0.05, 0.95)),
        (draws_of(0.5, *PERCENT), 2, (0.5, 0.05, 0.95)),
        (draws_of(0.5, *PERCENT), 1, (0.5, None, None)),
        (draws_of(0.5, *PERCENT), 0, (None, None, None)),
        (draws_of(np.nan, 0.5), 9, (None, None, None)),
        (draws_of(0.5, *[0.4] * 90, missing=10), 9, (0.5, 0.4, 0.4)),
        (draws_of(0.5, *[0.4] * 89, missing=11), 9, (0.5, None, None)),
        (draws_of(1.0, *[1.0] * 99), 20, (1.0, 0.05 ** (1 / 20), 1.0)),  # Clopper and Pearson of 20 in 20
        (draws_of(0.0, *[0.0] * 99), 20, (0.0, 0.0, 1 - 0.05 ** (1 / 20))),
        (draws_of(0.3, *[0.3] * 99), 20, (0.3, 0.3, 0.3)),
        (draws_of(0.9, *[1.0] * 99), 20, (0.9, 1.0, 1.0)),
        (draws_of(0.1, *[0.0] * 99), 20, (0.1, 0.0, 0.0)),
    ],
)
def test_a_two_sided_interval(values: np.ndarray, clusters: int, expected: tuple[float | None, ...]) -> None:
    interval = bootstrap.interval(values, 0.90, clusters)
    assert (interval["value"], interval["low"], interval["high"]) == pytest.approx(expected)


def test_one_sided_bounds() -> None:
    bounds = bootstrap.bounds(draws_of(0.5, *PERCENT), 0.05)
    assert (bounds["low"], bounds["high"], bounds["error"]) == pytest.approx((0.05, 0.95, PERCENT.std()))
    assert bounds["p_better"] == pytest.approx(norm.sf(0.5 / PERCENT.std()))  # one draw is at 0: from the normal tail
    assert bounds["p_worse"] == 1
    negated = bootstrap.bounds(-draws_of(0.5, *PERCENT), 0.05)
    assert (negated["p_better"], negated["p_worse"]) == (bounds["p_worse"], bounds["p_better"])


@pytest.mark.parametrize(
    ("gap", "has_bounds"),
    [
        (draws_of(0.5, *[0.4] * 90, missing=10), True),
        (draws_of(0.5, *[0.4] * 89, missing=11), False),
        (draws_of(np.nan, *[0.4] * 90), False),
        (draws_of(0.5, 0.4, 0.3), True),
        (draws_of(0.5, 0.4), False),
    ],
)
def test_bounds_need_two_draws_and_nine_in_ten(gap: np.ndarray, has_bounds: bool) -> None:
    bounds = bootstrap.bounds(gap, 0.05)
    assert set(bounds) == {"low", "high", "error", "p_better", "p_worse"}
    assert {value is not None for value in bounds.values()} == {has_bounds}


def test_perfect_metrics_have_the_exact_binomial_bound() -> None:
    interval = bootstrap.interval(np.ones(100), 0.95, 20)
    assert interval["value"] == interval["high"] == 1
    assert interval["low"] == pytest.approx(0.8316, abs=1e-4)  # Clopper and Pearson, 20 of 20
    assert bootstrap.interval(np.zeros(100), 0.95, 20)["high"] == pytest.approx(0.1684, abs=1e-4)


def test_intervals_cover_the_true_value() -> None:
    """At least 88 of 100 intervals of 95 % must contain the AUROC of 0.80, with 80 clusters each."""
    covered_count = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        positive = np.arange(80) < 32
        scores = 1.1902 * positive + random.normal(size=80)
        interval = bootstrap.interval(
            bootstrap.auroc(bootstrap.draw(np.arange(80), 300, seed), scores, positive), 0.95, 32
        )
        covered_count += interval["low"] <= 0.80 <= interval["high"]
    assert covered_count >= 88


def test_a_small_p_value_comes_from_the_normal_tail_and_a_large_one_is_counted() -> None:
    random = np.random.default_rng(3)
    assert bootstrap.p_value_above_zero(random.normal(1.0, 1.0, 4000)) == pytest.approx(0.159, abs=0.02)
    small = bootstrap.p_value_above_zero(random.normal(4.0, 1.0, 400))
    assert 1e-6 < small < 2e-4  # 3.2e-5; counting 400 draws cannot give less than 0.0025
    assert bootstrap.p_value_above_zero(np.zeros(400)) == 1
    assert bootstrap.p_value_above_zero(np.full(400, 0.1)) == 0
    assert bootstrap.p_value_above_zero(np.full(400, -0.1)) == 1


def test_ten_draws_are_counted_and_fewer_use_a_capped_normal_tail() -> None:
    """With 99 draws; a draw of 0 is no gain, and the data themselves count as one draw."""
    positive_draws = np.full(99, 5.0) + np.linspace(-0.01, 0.01, 99)
    for under, p in ((10, 11 / 100), (11, 12 / 100), (50, 51 / 100)):
        assert bootstrap.p_value_above_zero(np.where(np.arange(99) < under, 0.0, positive_draws)) == pytest.approx(p)
    skewed = np.where(np.arange(99) < 9, -1.0, 0.01)  # a normal tail would give 0.6
    assert bootstrap.p_value_above_zero(skewed) == pytest.approx(11 / 100)
    nine = np.where(np.arange(99) < 9, 0.0, positive_draws)
    assert bootstrap.p_value_above_zero(nine) == pytest.approx(norm.sf(nine.mean() / nine.std()))
