"""The clustered bootstrap: figures agree with scikit-learn on every draw, and clusters stay whole."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from training import resample


@pytest.fixture
def drawn() -> tuple[resample.Draws, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    clusters = random.integers(0, 12, 60)
    scores = np.round(random.uniform(size=60), 1)  # many ties
    return resample.draw(clusters, 40, 5), scores, random.uniform(size=60) < 0.4


def test_auroc_and_average_precision_agree_with_sklearn(drawn: tuple) -> None:
    draws, scores, positive = drawn
    areas, precisions = (f(draws, scores, positive) for f in (resample.auroc, resample.average_precision))
    for row in range(len(areas)):
        weights = draws.weights[row][draws.place]
        assert areas[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights), abs=1e-12)
        assert precisions[row] == pytest.approx(
            average_precision_score(positive, scores, sample_weight=weights), abs=1e-12
        )


def test_the_first_row_is_the_data_and_draws_keep_the_number_of_clusters(drawn: tuple) -> None:
    draws = drawn[0]
    assert (draws.weights[0] == 1).all()
    assert (draws.weights.sum(axis=1) == draws.weights.shape[1]).all()
    assert np.array_equal(resample.draw([3, 3, 1], 9, 5).weights, resample.draw([3, 3, 1], 9, 5).weights)


def test_units_of_one_cluster_add_no_certainty() -> None:
    random = np.random.default_rng(0)
    positive = np.arange(40) % 2 == 0
    scores = positive + random.normal(size=40)
    alone = resample.auroc(resample.draw(np.arange(40), 400, 1), scores, positive)
    tenfold = np.repeat(np.arange(40), 10)
    copies = resample.auroc(resample.draw(tenfold, 400, 1), scores[tenfold], positive[tenfold])
    assert np.allclose(alone, copies)


def test_a_draw_without_positives_has_no_figure() -> None:
    draws = resample.Draws(np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([0, 1]))
    values = resample.auroc(draws, [0.1, 0.9], [False, True])
    assert values[0] == 1
    assert np.isnan(values[1])
    assert np.isnan(resample.average_precision(draws, [0.1, 0.9], [False, True])[1])


def test_interval_of_an_undecided_figure() -> None:
    assert resample.interval(np.array([np.nan, 0.5]), 0.95, 9) == {"value": None, "low": None, "high": None}
    often_absent = np.array([0.7, *[np.nan] * 5, *[0.7] * 5])
    assert resample.interval(often_absent, 0.95, 9) == {"value": 0.7, "low": None, "high": None}


def test_perfect_figures_still_have_an_honest_bound() -> None:
    told = resample.interval(np.ones(100), 0.95, 20)
    assert told["value"] == told["high"] == 1
    assert told["low"] == pytest.approx(0.8316, abs=1e-4)  # Clopper and Pearson, 20 of 20
    assert resample.interval(np.zeros(100), 0.95, 20)["high"] == pytest.approx(0.1684, abs=1e-4)


def test_intervals_cover_the_truth() -> None:
    """Of 95 % intervals of an AUROC of 0.80 over 80 clusters at least 88 % must hold it."""
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        positive = np.arange(80) < 32
        scores = 1.1902 * positive + random.normal(size=80)
        told = resample.interval(resample.auroc(resample.draw(np.arange(80), 300, seed), scores, positive), 0.95, 32)
        held += told["low"] <= 0.80 <= told["high"]
    assert held >= 88


def test_both_ways_to_the_auroc_agree() -> None:
    """Many small clusters are run through in order, few large ones pair by pair."""
    random = np.random.default_rng(2)
    scores, positive = np.round(random.uniform(size=300), 2), random.uniform(size=300) < 0.3
    draws = resample.draw(np.arange(300) // 2, 50, 1)
    assert draws.weights.shape[1] ** 2 <= resample.DENSE * 300
    by_pairs = resample.auroc(draws, scores, positive)
    totals = draws.sums(positive) * draws.sums(~positive)
    assert np.allclose(resample._ranked(draws, scores, positive) / totals, by_pairs)


def test_a_deep_p_value_is_read_off_the_tail_and_a_common_one_is_counted() -> None:
    random = np.random.default_rng(3)
    assert resample.tail(random.normal(1.0, 1.0, 4000)) == pytest.approx(0.159, abs=0.02)
    deep = resample.tail(random.normal(4.0, 1.0, 400))
    assert 1e-6 < deep < 2e-4  # 3.2e-5; 400 draws alone could not say less than 0.0025
    assert resample.tail(np.zeros(400)) == 1
    assert resample.tail(np.full(400, 0.1)) == 0
