"""Permutations move whole patients, and a p-value means what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitoring import permutation_tests


def frame(sizes: list[int], offset: float = 0.0) -> pd.DataFrame:
    owner = np.repeat([f"P{place}" for place in range(len(sizes))], sizes)
    return pd.DataFrame({"cluster": owner, "value": np.arange(len(owner)) + offset})


def test_a_patient_on_both_sides_counts_once_on_each() -> None:
    drawn = permutation_tests.sample(frame([1, 1]), frame([1, 1], offset=10))
    assert len(drawn.recent) == 4
    assert drawn.means(drawn.rows[["value"]].to_numpy(dtype=float)).ravel().tolist() == [0, 1, 10, 11]


def test_the_same_sample_is_drawn_again() -> None:
    first, second = (permutation_tests.sample(frame([10] * 6), frame([3] * 4)) for _ in range(2))
    pd.testing.assert_frame_equal(first.rows, second.rows)


def test_permutations_keep_the_number_of_patients_and_start_with_the_truth() -> None:
    recent = np.array([False] * 7 + [True] * 3)
    chunks = permutation_tests.permutations(recent, 600)
    every = np.vstack(chunks)
    assert len(every) == 601
    assert len(chunks) == 3
    assert every[0].tolist() == recent.astype(float).tolist()
    assert set(every.sum(axis=1)) == {3.0}
    assert len(np.unique(every, axis=0)) > 90  # of 120 ways


def test_a_p_value_counts_the_truth_itself_and_ties() -> None:
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
    found = permutation_tests.welch(means, permutation_tests.permutations(recent, 1))[0]
    wanted = np.abs(ttest_ind(means[recent], means[~recent], equal_var=False).statistic)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("far", [1, 30])  # how far one patient in ten lies out
def test_mmd_is_near_the_exact_kernel_estimate(far: int) -> None:
    generator = np.random.default_rng(5)
    near = pd.DataFrame({"cluster": [f"P{place}" for place in range(40)]})
    drawn = permutation_tests.sample(near, near)
    points = generator.normal(size=(80, 8)) + drawn.recent[:, None] * 0.8
    points[::10] *= far
    found = permutation_tests.mmd(points, drawn, permutation_tests.permutations(drawn.recent, 1))[0]
    scaled = (points - points.mean(axis=0)) / points.std(axis=0)
    gaps = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
    kernel = np.exp(-gaps / (2 * np.median(np.sqrt(gaps[np.triu_indices(80, 1)])) ** 2))
    np.fill_diagonal(kernel, 0)
    mine, other = drawn.recent, ~drawn.recent
    wanted = (
        kernel[np.ix_(mine, mine)].sum() / (40 * 39)
        + kernel[np.ix_(other, other)].sum() / (40 * 39)
        - 2 * kernel[np.ix_(mine, other)].mean()
    )
    assert wanted > 0.01
    assert abs(found - wanted) < 0.15 * wanted + 0.003


@pytest.mark.parametrize(
    ("sizes", "per_cluster"),
    [
        (([10] * 6, [2] * 4), 2),
        (([2] * 4, [10] * 6), 2),  # either side may be the thriftier
        (([1, 1, 9], [5, 5, 5]), 1),  # the usual patient of a side, not its mean
        (([4, 7], [9, 9]), 5),  # a median of 5.5
        (([1], [1]), 1),
    ],
)
def test_a_patient_gives_as_many_rows_as_the_usual_one_of_the_thriftier_side(
    sizes: tuple[list[int], list[int]], per_cluster: int
) -> None:
    reference, current = sizes
    drawn = permutation_tests.sample(frame(reference), frame(current, offset=1000))
    assert drawn.per_cluster == per_cluster
    assert np.bincount(drawn.owner).tolist() == [min(size, per_cluster) for size in reference + current]
    assert drawn.recent.tolist() == [False] * len(reference) + [True] * len(current)
    assert ((drawn.rows["value"] >= 1000) == drawn.recent[drawn.owner]).all()
    assert list(drawn.rows.columns) == ["cluster", "value"]
    assert list(drawn.rows.index) == list(range(len(drawn.rows)))


def test_which_rows_of_a_patient_are_drawn_is_chance_and_not_their_order() -> None:
    """Of ten slices each, two at random: neither the first nor the same in every patient; another seed, others."""
    many, few = frame([10] * 30), frame([2] * 30)
    drawn = [permutation_tests.sample(many, few, seed).rows["value"].to_numpy()[:60] for seed in (7, 8)]
    places = drawn[0].reshape(30, 2) % 10
    assert set(np.unique(places)) == set(range(10))
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(
        permutation_tests.sample(many, few).rows["value"],
        permutation_tests.sample(many, few, permutation_tests.SEED).rows["value"],
    )


def test_a_patient_weighs_one_however_many_slices_there_are() -> None:
    drawn = permutation_tests.Sample(pd.DataFrame(), np.array([0, 0, 0, 1]), np.array([False, True]), 3)
    values = np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0], [5.0, 4.0]])
    assert drawn.means(values).tolist() == [[3.0, 1.0], [5.0, 4.0]]


def test_allocations_come_in_chunks_and_again_from_the_same_seed() -> None:
    recent = np.arange(12) >= 7
    for count, sizes in ((0, [1]), (249, [250]), (250, [250, 1]), (600, [250, 250, 101])):
        assert [len(chunk) for chunk in permutation_tests.permutations(recent, count)] == sizes
    drawn = [
        np.vstack(permutation_tests.permutations(recent, 99, *seed)) for seed in ((), (permutation_tests.SEED,), (8,))
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert drawn[0][1:].mean(axis=0) == pytest.approx(np.full(12, 5 / 12), abs=0.2)


def test_features_are_ranks_their_distance_from_the_middle_and_what_is_missing() -> None:
    rows = pd.DataFrame({"some": [10.0, 1e9, 20.0, np.nan, -np.inf], "words": list("abcde"), "pair": [1, 2, 1, 2, 2]})
    values, names = permutation_tests.features(rows)
    told = dict(zip(names, values.T.tolist(), strict=True))
    third = 1 / 3
    assert told == {
        ("some", "level"): pytest.approx([third, 1.0, 2 * third, 0.5, 0.5]),
        ("some", "spread"): pytest.approx([0.5 - third, 0.5, 2 * third - 0.5, 0.0, 0.0]),
        ("some", "missing"): [0.0, 0.0, 0.0, 1.0, 1.0],
        ("pair", "level"): pytest.approx([0.3, 0.8, 0.3, 0.8, 0.8]),
        ("pair", "spread"): pytest.approx([0.2, 0.3, 0.2, 0.3, 0.3]),
    }


def test_welch_stays_fair_where_a_feature_does_not_vary_and_over_every_allocation() -> None:
    from scipy.stats import ttest_ind

    generator = np.random.default_rng(4)
    means = np.column_stack([generator.normal(size=14), np.full(14, 3.0), 1e6 + generator.normal(size=14)])
    chunks = permutation_tests.permutations(np.arange(14) >= 9, 300)
    found = permutation_tests.welch(means, chunks)
    assert found.shape == (301, 3)
    assert (found[:, 1] == 0).all()
    for row in (1, 250, 300):
        recent = np.vstack(chunks)[row] == 1
        wanted = np.abs(ttest_ind(means[recent][:, [0, 2]], means[~recent][:, [0, 2]], equal_var=False).statistic)
        np.testing.assert_allclose(found[row, [0, 2]], wanted, rtol=1e-4)


def test_mmd_of_sides_that_differ_is_the_largest_of_all_allocations_and_of_equal_ones_about_zero() -> None:
    generator = np.random.default_rng(6)
    near, far = frame([2] * 12), frame([2] * 9)
    drawn = permutation_tests.sample(near, far)
    chunks = permutation_tests.permutations(drawn.recent, 400)
    noise = generator.normal(size=(42, 5)) * [1, 10, 100, 1, 0] + 7  # scales differ, one is constant
    equal = permutation_tests.mmd(noise, drawn, chunks)
    assert equal.shape == (401,)
    assert abs(equal.mean()) < 0.01  # unbiased over all allocations
    assert 0.02 < permutation_tests.p_values(equal) < 0.98
    moved = permutation_tests.mmd(noise + 1.5 * drawn.recent[drawn.owner][:, None] * [1, 10, 100, 1, 0], drawn, chunks)
    assert moved[0] == moved.max() > 0.1
    scaled = noise * [3, 0.1, 50, 2, 1] - 5
    np.testing.assert_allclose(permutation_tests.mmd(scaled, drawn, chunks), equal, atol=1e-6)  # units do not count
    assert not np.allclose(permutation_tests.mmd(noise, drawn, chunks, seed=8), equal)
    same = permutation_tests.mmd(np.ones((42, 5)), drawn, chunks)
    assert same == pytest.approx(np.zeros(401), abs=1e-9)


def test_a_p_value_of_several_statistics_at_once() -> None:
    statistics = np.array([[2.0, 0.0], [3.0, 0.0], [1.0, 0.0], [2.0, -1.0]])
    assert permutation_tests.p_values(statistics).tolist() == [0.75, 0.75]
    assert permutation_tests.p_values(np.array([1.0, 0.0, 0.5, 1.0 - 1e-12])) == 0.5  # equal but for rounding
