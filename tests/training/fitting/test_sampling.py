"""Sampling: an epoch depends on seed and number; balanced sampling draws classes and patients equally often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.dataset.shards import Units
from lineage.errors import Fault
from training.fitting import sampling


def imbalanced_units() -> Units:
    """Thirty units of one class and six of another; of the second, one patient has five."""
    labels = np.array([0] * 30 + [1] * 6)
    clusters = [f"A{index // 3}" for index in range(30)] + ["B0"] * 5 + ["B1"]
    return Units(pd.DataFrame({"cluster": clusters}), np.zeros((36, 2, 2, 1), np.float32), labels)


def test_balanced_sampling_draws_classes_and_patients_equally_often() -> None:
    units = imbalanced_units()
    order = sampling.epoch_order(units, "balanced", seed=7, epoch=0)
    assert np.bincount(units.labels[order]).tolist() == [18, 18]
    cluster_counts = units.table["cluster"].iloc[order].value_counts()
    assert cluster_counts["B0"] == cluster_counts["B1"] == 9, (
        "one slice of a patient is drawn as often as five of another together"
    )
    assert set(cluster_counts[cluster_counts.index.str.startswith("A")]) == {1, 2} and len(cluster_counts) == 12
    slice_counts = pd.Series(order[units.table["cluster"].iloc[order] == "B0"]).value_counts()
    assert len(slice_counts) == 5 and set(slice_counts) == {1, 2}, "its slices alternate"


def test_an_odd_number_is_divided_to_within_one() -> None:
    units = imbalanced_units().where(np.arange(36) != 0)
    counts = {
        tuple(np.bincount(units.labels[sampling.epoch_order(units, "balanced", 7, epoch)])) for epoch in range(12)
    }
    assert counts == {(17, 18), (18, 17)}


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_an_epoch_depends_only_on_seed_and_number(name: str) -> None:
    units = imbalanced_units()
    first = sampling.epoch_order(units, name, 7, 4)
    assert np.array_equal(first, sampling.epoch_order(units, name, 7, 4))
    assert not np.array_equal(first, sampling.epoch_order(units, name, 7, 5))
    assert not np.array_equal(first, sampling.epoch_order(units, name, 8, 4))


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(Fault, match=r"fit\.sampling 'fair' is unknown: use one of natural, balanced"):
        sampling.epoch_order(imbalanced_units(), "fair", 7, 0)


def test_balanced_sampling_has_no_class_weights(samples: Any, home: Any) -> None:
    from dataclasses import replace

    from training.fitting.training_loop import make_feed

    units = samples.units(60)
    units = units.where((units.labels != 2) | (np.arange(len(units.labels)) % 4 == 0))
    for name, has_equal_weights in (("natural", False), ("balanced", True)):
        feed = make_feed(units, replace(samples.FIT, sampling=name, class_weights=True), samples.TASK)
        assert np.allclose(feed.weights, 1) is has_equal_weights
        class_sums = np.bincount(
            feed.labels[feed.order[: len(units.labels)]], feed.weights[feed.order[: len(units.labels)]]
        )
        assert np.ptp(class_sums) <= 1.01, "classes have the same total weight either way"
