"""Permutation tests: they permute whole patients, and their p-values are valid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitoring import permutation_tests


def patient_frame(sizes: list[int], offset: float = 0.0) -> pd.DataFrame:
    patients = np.repeat([f"P{number}" for number in range(len(sizes))], sizes)
    return pd.DataFrame({"cluster": patients, "value": np.arange(len(patients)) + offset})


def test_a_patient_in_both_samples_counts_once_in_each() -> None:
    sample = permutation_tests.sample(patient_frame([1, 1]), patient_frame([1, 1], offset=10))
    assert len(sample.recent) == 4
    assert sample.means(sample.rows[["value"]].to_numpy(dtype=float)).ravel().tolist() == [0, 1, 10, 11]


def test_the_sample_is_reproducible() -> None:
    first, second = (permutation_tests.sample(patient_frame([10] * 6), patient_frame([3] * 4)) for _ in range(2))
    pd.testing.assert_frame_equal(first.rows, second.rows)


def test_permutations_keep_the_number_of_patients_and_start_with_the_true_allocation() -> None:
    recent = np.array([False] * 7 + [True] * 3)
    chunks = permutation_tests.permutations(recent, 600)
    allocations = np.vstack(chunks)
    assert len(allocations) == 601
    assert len(chunks) == 3
    assert allocations[0].tolist() == recent.astype(float).tolist()
    assert set(allocations.sum(axis=1)) == {3.0}
    assert len(np.unique(allocations, axis=0)) > 90  # of 120 ways


def test_a_p_value_counts_the_true_allocation_and_ties() -> None:
    assert permutation_tests.p_values(np.array([5.0, 1.0, 2.0, 3.0])) == 0.25
    assert permutation_tests.p_values(np.array([1.0, 1.0, 1.0, 1.0])) == 1.0
    assert permutation_tests.p_values(np.array([-1.0, -2.0, -3.0, 0.0])) == 0.5


def test_constant_columns_are_left_out_and_missing_values_are_a_feature() -> None:
    rows = pd.DataFrame({"same": [1.0] * 6, "some": [1.0, 2.0, 3.0, 4.0, np.nan, np.inf], "words": ["a"] * 6})
    values, names = permutation_tests.features(rows)
    assert set(names) == {("some", "level"), ("some", "spread"), ("some", "missing")}
    assert np.isfinite(values).all()
    assert permutation_tests.features(rows[["same"]])[0].shape == (6, 0)


def test_welch_is_the_textbook_t() -> None:
    from scipy.stats import ttest_ind

    generator = np.random.default_rng(3)
    means, recent = generator.normal(size=(30, 2)), np.arange(30) >= 18
    statistics = permutation_tests.welch(means, permutation_tests.permutations(recent, 1))[0]
    expected = np.abs(ttest_ind(means[recent], means[~recent], equal_var=False).statistic)
    np.testing.assert_allclose(statistics, expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 30])  # scales one row in ten
def test_mmd_is_near_the_exact_kernel_estimate(factor: int) -> None:
    generator = np.random.default_rng(5)
    rows = pd.DataFrame({"cluster": [f"P{number}" for number in range(40)]})
    sample = permutation_tests.sample(rows, rows)
    points = generator.normal(size=(80, 8)) + sample.recent[:, None] * 0.8
    points[::10] *= factor
    estimate = permutation_tests.mmd(points, sample, permutation_tests.permutations(sample.recent, 1))[0]
    scaled = (points - points.mean(axis=0)) / points.std(axis=0)
    gaps = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
    kernel = np.exp(-gaps / (2 * np.median(np.sqrt(gaps[np.triu_indices(80, 1)])) ** 2))
    np.fill_diagonal(kernel, 0)
    window_rows, reference_rows = sample.recent, ~sample.recent
    expected = (
        kernel[np.ix_(window_rows, window_rows)].sum() / (40 * 39)
        + kernel[np.ix_(reference_rows, reference_rows)].sum() / (40 * 39)
        - 2 * kernel[np.ix_(window_rows, reference_rows)].mean()
    )
    assert expected > 0.01
    assert abs(estimate - expected) < 0.15 * expected + 0.003


@pytest.mark.parametrize(
    ("sizes", "per_cluster"),
    [
        (([10] * 6, [2] * 4), 2),
        (([2] * 4, [10] * 6), 2),  # either side may have the smaller median
        (([1, 1, 9], [5, 5, 5]), 1),  # the median, not the mean
        (([4, 7], [9, 9]), 5),  # a median of 5.5
        (([1], [1]), 1),
    ],
)
def test_rows_per_patient_are_limited_to_the_smaller_median(
    sizes: tuple[list[int], list[int]], per_cluster: int
) -> None:
    reference, current = sizes
    sample = permutation_tests.sample(patient_frame(reference), patient_frame(current, offset=1000))
    assert sample.per_cluster == per_cluster
    assert np.bincount(sample.owner).tolist() == [min(size, per_cluster) for size in reference + current]
    assert sample.recent.tolist() == [False] * len(reference) + [True] * len(current)
    assert ((sample.rows["value"] >= 1000) == sample.recent[sample.owner]).all()
    assert list(sample.rows.columns) == ["cluster", "value"]
    assert list(sample.rows.index) == list(range(len(sample.rows)))


def test_rows_of_a_patient_are_sampled_at_random() -> None:
    """Two of ten slices of each patient at random; another seed gives other slices."""
    many_slices, few_slices = patient_frame([10] * 30), patient_frame([2] * 30)
    values_by_seed = [
        permutation_tests.sample(many_slices, few_slices, seed).rows["value"].to_numpy()[:60] for seed in (7, 8)
    ]
    slice_numbers = values_by_seed[0].reshape(30, 2) % 10
    assert set(np.unique(slice_numbers)) == set(range(10))
    assert not np.array_equal(values_by_seed[0], values_by_seed[1])
    assert np.array_equal(
        permutation_tests.sample(many_slices, few_slices).rows["value"],
        permutation_tests.sample(many_slices, few_slices, permutation_tests.SEED).rows["value"],
    )


def test_patients_have_equal_weight() -> None:
    sample = permutation_tests.Sample(pd.DataFrame(), np.array([0, 0, 0, 1]), np.array([False, True]), 3)
    values = np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0], [5.0, 4.0]])
    assert sample.means(values).tolist() == [[3.0, 1.0], [5.0, 4.0]]


def test_allocations_come_in_chunks_and_depend_on_the_seed() -> None:
    recent = np.arange(12) >= 7
    for count, sizes in ((0, [1]), (249, [250]), (250, [250, 1]), (600, [250, 250, 101])):
        assert [len(chunk) for chunk in permutation_tests.permutations(recent, count)] == sizes
    allocations = [
        np.vstack(permutation_tests.permutations(recent, 99, *seed)) for seed in ((), (permutation_tests.SEED,), (8,))
    ]
    assert np.array_equal(allocations[0], allocations[1])
    assert not np.array_equal(allocations[0], allocations[2])
    assert allocations[0][1:].mean(axis=0) == pytest.approx(np.full(12, 5 / 12), abs=0.2)


def test_features_are_ranks_their_distance_from_the_middle_and_missing_values() -> None:
    rows = pd.DataFrame({"some": [10.0, 1e9, 20.0, np.nan, -np.inf], "words": list("abcde"), "pair": [1, 2, 1, 2, 2]})
    values, names = permutation_tests.features(rows)
    features = dict(zip(names, values.T.tolist(), strict=True))
    third = 1 / 3
    assert features == {
        ("some", "level"): pytest.approx([third, 1.0, 2 * third, 0.5, 0.5]),
        ("some", "spread"): pytest.approx([0.5 - third, 0.5, 2 * third - 0.5, 0.0, 0.0]),
        ("some", "missing"): [0.0, 0.0, 0.0, 1.0, 1.0],
        ("pair", "level"): pytest.approx([0.3, 0.8, 0.3, 0.8, 0.8]),
        ("pair", "spread"): pytest.approx([0.2, 0.3, 0.2, 0.3, 0.3]),
    }


def test_welch_is_correct_for_constant_features_and_every_allocation() -> None:
    from scipy.stats import ttest_ind

    generator = np.random.default_rng(4)
    means = np.column_stack([generator.normal(size=14), np.full(14, 3.0), 1e6 + generator.normal(size=14)])
    chunks = permutation_tests.permutations(np.arange(14) >= 9, 300)
    statistics = permutation_tests.welch(means, chunks)
    assert statistics.shape == (301, 3)
    assert (statistics[:, 1] == 0).all()
    for row in (1, 250, 300):
        recent = np.vstack(chunks)[row] == 1
        expected = np.abs(ttest_ind(means[recent][:, [0, 2]], means[~recent][:, [0, 2]], equal_var=False).statistic)
        np.testing.assert_allclose(statistics[row, [0, 2]], expected, rtol=1e-4)


def test_mmd_is_largest_for_a_true_difference_and_about_zero_without_one() -> None:
    generator = np.random.default_rng(6)
    reference, current = patient_frame([2] * 12), patient_frame([2] * 9)
    sample = permutation_tests.sample(reference, current)
    chunks = permutation_tests.permutations(sample.recent, 400)
    noise = generator.normal(size=(42, 5)) * [1, 10, 100, 1, 0] + 7  # scales differ, one is constant
    equal = permutation_tests.mmd(noise, sample, chunks)
    assert equal.shape == (401,)
    assert abs(equal.mean()) < 0.01  # unbiased over all allocations
    assert 0.02 < permutation_tests.p_values(equal) < 0.98
    shifted = permutation_tests.mmd(
        noise + 1.5 * sample.recent[sample.owner][:, None] * [1, 10, 100, 1, 0], sample, chunks
    )
    assert shifted[0] == shifted.max() > 0.1
    scaled = noise * [3, 0.1, 50, 2, 1] - 5
    np.testing.assert_allclose(
        permutation_tests.mmd(scaled, sample, chunks), equal, atol=1e-6
    )  # the scale does not matter
    assert not np.allclose(permutation_tests.mmd(noise, sample, chunks, seed=8), equal)
    constant = permutation_tests.mmd(np.ones((42, 5)), sample, chunks)
    assert constant == pytest.approx(np.zeros(401), abs=1e-9)


def test_a_p_value_of_several_statistics_at_once() -> None:
    statistics = np.array([[2.0, 0.0], [3.0, 0.0], [1.0, 0.0], [2.0, -1.0]])
    assert permutation_tests.p_values(statistics).tolist() == [0.75, 0.75]
    assert permutation_tests.p_values(np.array([1.0, 0.0, 0.5, 1.0 - 1e-12])) == 0.5  # equal up to rounding
