"""Permutations move whole patients, and a p-value means what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd

from monitoring import shift


def frame(sizes: list[int], offset: float = 0.0) -> pd.DataFrame:
    owner = np.repeat([f"P{place}" for place in range(len(sizes))], sizes)
    return pd.DataFrame({"cluster": owner, "value": np.arange(len(owner)) + offset})


def test_every_patient_gives_as_many_rows_as_the_thriftier_side_has() -> None:
    drawn = shift.sample(frame([10] * 6), frame([2] * 4))
    assert drawn.per_cluster == 2
    assert np.bincount(drawn.owner).tolist() == [2] * 10
    assert drawn.recent.tolist() == [False] * 6 + [True] * 4


def test_a_patient_on_both_sides_counts_once_on_each() -> None:
    drawn = shift.sample(frame([1, 1]), frame([1, 1], offset=10))
    assert len(drawn.recent) == 4
    assert drawn.means(drawn.rows[["value"]].to_numpy(dtype=float)).ravel().tolist() == [0, 1, 10, 11]


def test_the_same_sample_is_drawn_again() -> None:
    first, second = (shift.sample(frame([10] * 6), frame([3] * 4)) for _ in range(2))
    pd.testing.assert_frame_equal(first.rows, second.rows)


def test_permutations_keep_the_number_of_patients_and_start_with_the_truth() -> None:
    recent = np.array([False] * 7 + [True] * 3)
    chunks = shift.permutations(recent, 600)
    every = np.vstack(chunks)
    assert len(every) == 601
    assert len(chunks) == 3
    assert every[0].tolist() == recent.astype(float).tolist()
    assert set(every.sum(axis=1)) == {3.0}
    assert len(np.unique(every, axis=0)) > 90  # of 120 ways


def test_a_p_value_counts_the_truth_itself_and_ties() -> None:
    assert shift.p_values(np.array([5.0, 1.0, 2.0, 3.0])) == 0.25
    assert shift.p_values(np.array([1.0, 1.0, 1.0, 1.0])) == 1.0
    assert shift.p_values(np.array([-1.0, -2.0, -3.0, 0.0])) == 0.5


def test_constant_columns_are_left_out_and_missing_values_are_a_feature() -> None:
    rows = pd.DataFrame({"same": [1.0] * 6, "some": [1.0, 2.0, 3.0, 4.0, np.nan, np.inf], "words": ["a"] * 6})
    values, names = shift.features(rows)
    assert set(names) == {("some", "level"), ("some", "spread"), ("some", "missing")}
    assert np.isfinite(values).all()
    assert shift.features(rows[["same"]])[0].shape == (6, 0)


def test_welch_is_the_textbook_t() -> None:
    from scipy.stats import ttest_ind

    generator = np.random.default_rng(3)
    means, recent = generator.normal(size=(30, 2)), np.arange(30) >= 18
    found = shift.welch(means, shift.permutations(recent, 1))[0]
    wanted = np.abs(ttest_ind(means[recent], means[~recent], equal_var=False).statistic)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_mmd_is_near_the_exact_kernel_estimate() -> None:
    generator = np.random.default_rng(5)
    near = pd.DataFrame({"cluster": [f"P{place}" for place in range(40)]})
    drawn = shift.sample(near, near)
    points = generator.normal(size=(80, 8)) + drawn.recent[:, None] * 0.8
    found = shift.mmd(points, drawn, shift.permutations(drawn.recent, 1))[0]
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
