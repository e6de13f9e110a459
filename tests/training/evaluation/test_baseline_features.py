"""Simple baselines: slice position, lesion size, header facts, and further feature sets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.evaluation import baseline, baseline_features


def judged_at_random(units: Any, samples: Any) -> pd.DataFrame:
    """Predictions of a network that knows nothing."""
    held_out = units.table[units.table["side"] != "training"]
    scores = np.random.default_rng(5).uniform(size=len(held_out))
    classes = samples.TASK.classes
    return held_out.assign(
        positive=held_out["label"].isin(samples.TASK.positive).astype(int),
        score=scores,
        flagged=(scores >= 0.5).astype(int),
        predicted=np.where(scores >= 0.5, "malignant", "normal"),
        **{f"p_{name}": scores if name == "malignant" else (1 - scores) / 2 for name in classes},
    )


def with_columns(samples: Any, **columns: Any) -> Any:
    units = samples.units()
    return dataclasses.replace(units, table=units.table.assign(**columns))


def compare(units: Any, samples: Any, further: Any = None) -> dict[str, Any]:
    baselines = baseline.predict_further(units, samples.TASK, samples.EVALUATE.seed, further)
    return baseline.compare_further(judged_at_random(units, samples), baselines, samples.TASK, samples.EVALUATE)


def test_each_fact_that_gives_the_label_away_is_a_strong_baseline(samples: Any) -> None:
    labels = samples.units().labels
    malignant = labels == 2
    random = np.random.default_rng(0)
    units = with_columns(
        samples,
        slice=np.where(malignant, 40, 10) + random.integers(0, 10, len(labels)),
        lesion_mm=np.where(malignant, 25.0, 8.0) + random.uniform(0, 5, len(labels)),
        manufacturer=np.where(malignant, "Alder", "Birch"),
        thickness=1.0,
    )
    texture = random.normal(size=(len(labels), 4)) + 3 * malignant[:, np.newaxis]
    comparisons = compare(units, samples, {"texture": texture})
    assert set(comparisons) == {"slice position", "lesion size", "header facts", "texture"}
    for name, entry in comparisons.items():
        assert entry["status"] == "known", name
        assert entry["auroc"]["value"] > 0.9, name
        assert entry["difference"]["high"] < 0, name
        assert entry["network_auroc"] == pytest.approx(entry["auroc"]["value"] + entry["difference"]["value"])


def test_a_fact_without_information_is_a_weak_baseline(samples: Any) -> None:
    count = len(samples.units().labels)
    units = with_columns(samples, manufacturer=np.random.default_rng(1).choice(["Alder", "Birch"], count))
    assert 0.3 < compare(units, samples)["header facts"]["auroc"]["value"] < 0.7


def test_lesion_size_is_judged_on_units_with_a_lesion_only(samples: Any) -> None:
    """A healthy unit has no size: that it has none would be its label."""
    labels = samples.units().labels
    size = np.where(labels > 0, 10 + np.random.default_rng(2).uniform(0, 5, len(labels)), np.nan)
    entry = compare(with_columns(samples, lesion_mm=size), samples)["lesion size"]
    table = samples.units().table
    assert entry["units"] == int(((table["side"] == "test").to_numpy() & (labels > 0)).sum())
    assert 0.25 < entry["auroc"]["value"] < 0.75
    only_malignant = np.where(labels == 2, size, np.nan)
    entry = compare(with_columns(samples, lesion_mm=only_malignant), samples)["lesion size"]
    assert entry == {"status": "unknown", "reason": "only positive or only negative training patients have it"}


def test_a_fact_of_few_test_patients_is_not_judged(samples: Any) -> None:
    table = samples.units().table
    few_patients = table.loc[table["side"] == "test", "cluster"].unique()[:6]
    has_size = (table["side"] != "test") | table["cluster"].isin(few_patients)
    size = np.where(has_size, 10 + np.random.default_rng(2).uniform(0, 5, len(table)), np.nan)
    entry = compare(with_columns(samples, lesion_mm=size), samples)["lesion size"]
    assert entry == {"status": "unknown", "reason": "fewer than 5 positive or negative test patients have it"}


def test_missing_facts_are_named(samples: Any) -> None:
    assert {name: entry["reason"] for name, entry in compare(samples.units(), samples).items()} == {
        "slice position": "no scan has several slices",
        "lesion size": "no unit has a lesion size",
        "header facts": "all scans have the same header facts",
    }
    graded = dataclasses.replace(samples.TASK, ordered=True)
    assert "grades" in baseline_features.lesion_size(with_columns(samples, lesion_mm=9.0), graded).missing


def test_test_labels_do_not_reach_the_fit(samples: Any) -> None:
    units = with_columns(samples, slice=np.arange(len(samples.units().labels)) % 17)
    features = baseline_features.slice_position(units)
    first = baseline.predict_held_out(units, features, samples.TASK, 7)
    test = (units.table["side"] == "test").to_numpy()
    units.labels[test] = 0
    again = baseline.predict_held_out(units, features, samples.TASK, 7)
    assert np.array_equal(first["score"], again["score"])


def test_position_is_between_the_first_and_last_slice_of_a_case(samples: Any) -> None:
    units = samples.units(clusters=3)
    table = units.table.assign(slice=[10, 20, 5, 5, 0, 3], case=["a", "a", "b", "c", "d", "d"])
    features = baseline_features.slice_position(dataclasses.replace(units, table=table))
    relative = features.values[:, features.names.index("relative position")]
    assert relative.tolist() == [0.0, 1.0, 0.5, 0.5, 0.0, 1.0]
