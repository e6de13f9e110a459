from __future__ import annotations

import numpy as np
import pytest

from data.core_types import Pooling
from lineage.errors import Fault
from serving.inference.pooling import (
    adjust_to_prevalence,
    deciding_slices,
    independent_slice_count,
    pool,
    prevalence,
    slice_threshold,
)

TOP = Pooling("topk", 3)


def score(slices: np.ndarray, prior: float = 0.4) -> float:
    return float(pool(slices, [1], TOP, prior, len(slices))[1])


def binary(scores: np.ndarray) -> np.ndarray:
    return np.stack([1 - scores, scores], axis=1).astype(np.float32)


def test_pooling_takes_the_mean_or_the_most_positive_slices() -> None:
    slices = binary(np.array([0.1, 0.8, 0.6]))
    mean = pool(slices, [1], Pooling("mean", 0), 0.5, 3)
    np.testing.assert_allclose(mean, [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(pool(slices, [1], Pooling("topk", 9), 0.5, 3), mean, rtol=1e-6)
    np.testing.assert_allclose(pool(slices, [1], Pooling("topk", 2), 0.5, 1), [0.3, 0.7], rtol=1e-6)
    with pytest.raises(Fault, match="rule 'median' is unknown: use one of mean, topk"):
        pool(slices, [1], Pooling("median", 1), 0.5, 3)


def test_up_to_k_independent_slices_nothing_is_adjusted() -> None:
    slices = binary(np.array([0.9, 0.3, 0.6]))
    assert np.array_equal(pool(slices, [1], TOP, 0.01, 3), pool(slices, [1], TOP, 0.9, 3))
    assert np.array_equal(pool(slices[:1], [1], TOP, 0.2, 1), slices[0])


def test_slices_that_are_close_together_are_not_independent() -> None:
    assert (
        independent_slice_count(300, 1.0)
        == independent_slice_count(150, 2.0)
        == independent_slice_count(30, 10.0)
        == independent_slice_count(30, 20.0)
        == 30
    )
    assert (
        independent_slice_count(300, 0.0) == 300
        and independent_slice_count(2, 1.0) == independent_slice_count(1, 0.0) == 1
    )


def test_the_odds_change_by_the_ratio_of_the_prior_odds() -> None:
    # 0.9 at a prevalence of 0.4 is a likelihood ratio of 13.5; of 300 slices 3 of a positive case show it, so 0.004
    odds = 9 / (0.4 / 0.6) * (0.004 / 0.996)
    assert adjust_to_prevalence(np.array([0.9]), 0.4, 3 / 300) == pytest.approx(odds / (1 + odds))
    assert adjust_to_prevalence(np.array([0.0, 1.0]), 0.4, 0.01) == pytest.approx([0.0, 1.0])
    assert adjust_to_prevalence(np.array([0.3]), 0.4, 1.0) == pytest.approx(0.3)


def test_a_healthy_body_stays_negative_with_any_number_of_slices() -> None:
    generator = np.random.default_rng(0)
    prior = 0.4
    for count in (10, 30, 100, 300):  # a calibrated model: healthy slices' odds as its own probabilities say
        truth = generator.random(200_000) < prior
        evidence = generator.normal(np.where(truth, 1.0, -1.0), 1.0)
        odds = np.exp(2 * evidence) * prior / (1 - prior)
        healthy = (odds / (1 + odds))[~truth][: 200 * count].reshape(200, count)
        positive_rate = np.mean([score(binary(case), prior) >= 0.5 for case in healthy])
        unadjusted_rate = np.mean([np.sort(case)[-3:].mean() >= 0.5 for case in healthy])
        assert positive_rate <= 0.05, f"{count} slices"
        assert unadjusted_rate > 0.15 if count == 10 else unadjusted_rate > 0.7, "the test would not detect the error"


def test_the_slice_threshold_is_the_inverse_of_pooling() -> None:
    for count in (1, 3, 4, 300):
        alone = slice_threshold(0.3, TOP, 0.4, count)
        assert score(binary(np.full(count, alone))) == pytest.approx(0.3, rel=1e-4)
    assert slice_threshold(0.3, Pooling("mean", 0), 0.4, 300) == slice_threshold(0.3, TOP, 0.4, 3) == 0.3


def test_a_clear_finding_among_300_slices_is_positive() -> None:
    slices = np.full(300, 0.05)
    slices[150:155] = 0.9999
    assert score(binary(slices)) > 0.9


def test_ratios_within_positive_and_negative_classes_stay_and_all_sum_to_one() -> None:
    slices = np.tile(np.array([[0.2, 0.1, 0.5, 0.2]], np.float32), (50, 1))
    pooled = pool(slices, [2, 3], TOP, 0.4, 50)
    assert pooled.sum() == pytest.approx(1) and pooled[2] + pooled[3] < 0.2
    assert pooled[2] / pooled[3] == pytest.approx(2.5) and pooled[0] / pooled[1] == pytest.approx(2)


def test_the_prevalence_is_never_0_or_1() -> None:
    assert prevalence(np.array([True, False, False])) == pytest.approx(0.4)
    assert 0 < prevalence(np.zeros(5, bool)) < prevalence(np.ones(5, bool)) < 1


def test_the_most_positive_slices_have_the_largest_sum_of_positive_classes() -> None:
    """The sum decides, not the largest positive class."""
    slices = np.array([[0.5, 0.25, 0.25], [0.55, 0.45, 0.0], [0.9, 0.05, 0.05]], np.float32)
    np.testing.assert_allclose(pool(slices, [1, 2], Pooling("topk", 1), 0.4, 1), slices[0], rtol=1e-6)
    np.testing.assert_allclose(pool(slices, [1], Pooling("topk", 1), 0.4, 1), slices[1], rtol=1e-6)


def test_of_equally_positive_slices_the_first_are_pooled() -> None:
    """The choice decides about the classes within a side; it must not depend on the order of the rest."""
    rest = np.stack([np.full(200, 0.6), np.full(200, 0.1), np.full(200, 0.3)], axis=1)
    slices = np.concatenate([rest, [[0.3, 0.2, 0.5]], rest, [[0.1, 0.4, 0.5], [0.5, 0.0, 0.5]] * 40]).astype(np.float32)
    np.testing.assert_allclose(pool(slices, [2], Pooling("topk", 1), 0.4, 1), slices[200], rtol=1e-6)


@pytest.mark.parametrize(("count", "is_adjusted"), [(2, False), (3, False), (3.01, True), (4, True)])
def test_the_adjustment_begins_above_k_independent_slices(count: float, is_adjusted: bool) -> None:
    slices = binary(np.array([0.9, 0.8, 0.7, 0.6]))
    pooled = float(pool(slices, [1], TOP, 0.4, count)[1])
    assert (pooled < 0.8 - 1e-4) is is_adjusted
    assert (slice_threshold(0.3, TOP, 0.4, count) > 0.3) is is_adjusted


def test_the_mean_is_never_adjusted() -> None:
    slices = binary(np.full(300, 0.7))
    assert float(pool(slices, [1], Pooling("mean", 1), 0.4, 300)[1]) == pytest.approx(0.7)
    assert slice_threshold(0.3, Pooling("mean", 1), 0.4, 300) == 0.3


def test_certain_slices_stay_certain() -> None:
    """A mass of 0 or 1 causes no division by zero, and no class gets an unfounded share."""
    slices = binary(np.array([1.0] * 3 + [0.0] * 97))
    np.testing.assert_allclose(pool(slices, [1], TOP, 0.4, 100), [0, 1], atol=1e-6)
    np.testing.assert_allclose(pool(binary(np.zeros(100)), [1], TOP, 0.4, 100), [1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("slices", "distance", "expected"),
    [
        (30, 10.0, 30),
        (30, 5.0, 15),
        (31, 5.0, 15.5),
        (30, 20.0, 30),
        (1, 1.0, 1),
        (5, 1.0, 1),
        (5, 2.0, 1),
        (5, 3.0, 1.5),
        (30, 0.0, 30),
        (30, -1.0, 30),
    ],
)
def test_independent_slices_are_ten_millimetres_apart(slices: int, distance: float, expected: float) -> None:
    assert independent_slice_count(slices, distance) == pytest.approx(expected)


def test_the_prevalence_adds_one_positive_and_one_negative_unit() -> None:
    assert prevalence(np.array([True, True, False])) == pytest.approx(3 / 5)
    assert prevalence(np.zeros(8, bool)) == pytest.approx(0.1) and prevalence(np.ones(8, bool)) == pytest.approx(0.9)


def test_pooled_probabilities_are_float32_and_sum_to_one() -> None:
    slices = binary(np.linspace(0.1, 0.9, 50))
    for rule in (TOP, Pooling("mean", 0), Pooling("topk", 50)):
        pooled = pool(slices, [1], rule, 0.4, 50)
        assert pooled.dtype == np.float32 and pooled.sum() == pytest.approx(1)


def test_the_adjustment_uses_independent_slices_and_not_all_slices() -> None:
    slices = binary(np.full(60, 0.9))
    expected = float(adjust_to_prevalence(np.array([0.9]), 0.4, 3 / 6)[0])
    assert float(pool(slices, [1], TOP, 0.4, 6)[1]) == pytest.approx(expected, rel=1e-5)


def test_all_slices_decide_a_mean_and_the_k_most_positive_decide_topk() -> None:
    scores = np.array([0.1, 0.8, 0.6])
    assert deciding_slices(scores, Pooling("mean", 1)).tolist() == [1, 2, 0]
    assert deciding_slices(scores, Pooling("topk", 2)).tolist() == [1, 2]
