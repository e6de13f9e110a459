"""Sampling: an epoch follows from its number; balanced, no class and no patient is shown more than another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.dataset.shards import Units
from lineage.errors import Fault
from training.fitting import sampling


def lopsided() -> Units:
    """Thirty units of one class and six of another; of the second, one patient has five."""
    labels = np.array([0] * 30 + [1] * 6)
    clusters = [f"A{index // 3}" for index in range(30)] + ["B0"] * 5 + ["B1"]
    return Units(pd.DataFrame({"cluster": clusters}), np.zeros((36, 2, 2, 1), np.float32), labels)


def test_balanced_draws_classes_alike_and_patients_within_a_class_alike() -> None:
    units = lopsided()
    order = sampling.order(units, "balanced", seed=7, epoch=0)
    assert np.bincount(units.labels[order]).tolist() == [18, 18]
    shown = units.table["cluster"].iloc[order].value_counts()
    assert shown["B0"] == shown["B1"] == 9, "one slice of a patient is shown as often as five of another"
    assert set(shown[shown.index.str.startswith("A")]) == {1, 2} and len(shown) == 12
    of_first = pd.Series(order[units.table["cluster"].iloc[order] == "B0"]).value_counts()
    assert len(of_first) == 5 and set(of_first) == {1, 2}, "its slices take turns"


def test_an_odd_number_is_dealt_to_within_one() -> None:
    units = lopsided().where(np.arange(36) != 0)
    counts = {tuple(np.bincount(units.labels[sampling.order(units, "balanced", 7, epoch)])) for epoch in range(12)}
    assert counts == {(17, 18), (18, 17)}


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_an_epoch_follows_from_seed_and_number_alone(name: str) -> None:
    units = lopsided()
    first = sampling.order(units, name, 7, 4)
    assert np.array_equal(first, sampling.order(units, name, 7, 4))
    assert not np.array_equal(first, sampling.order(units, name, 7, 5))
    assert not np.array_equal(first, sampling.order(units, name, 8, 4))


def test_another_name_is_told() -> None:
    with pytest.raises(Fault, match=r"fit\.sampling 'fair' is unknown: use one of natural, balanced"):
        sampling.order(lopsided(), "fair", 7, 0)


def test_balanced_units_are_not_weighted_too(samples: Any, home: Any) -> None:
    from dataclasses import replace

    from training.fitting.training_loop import feed_of

    units = samples.units(60)
    units = units.where((units.labels != 2) | (np.arange(len(units.labels)) % 4 == 0))
    for name, alike in (("natural", False), ("balanced", True)):
        feed = feed_of(units, replace(samples.FIT, sampling=name, class_weights=True), samples.TASK)
        assert np.allclose(feed.weights, 1) is alike
        sums = np.bincount(feed.labels[feed.order[: len(units.labels)]], feed.weights[feed.order[: len(units.labels)]])
        assert np.ptp(sums) <= 1.01, "either way the classes weigh alike"
