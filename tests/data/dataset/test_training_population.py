from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.dataset import training_population
from data.scan.slice_features import DESCRIPTION


def manifest(clusters: int, slices: int = 1, prefix: str = "P", scanner: str = "A 1", **shift: float) -> pd.DataFrame:
    """Units whose features have deviation 1 between clusters and 0.01 within; `shift` is added to a feature."""
    random = np.random.default_rng([clusters, len(prefix)])
    rows = []
    for number in range(clusters):
        centre = random.normal(size=len(DESCRIPTION))
        for _ in range(slices):
            values = centre + random.normal(scale=0.01, size=len(DESCRIPTION))
            features = {name: value + shift.get(name, 0.0) for name, value in zip(DESCRIPTION, values, strict=True)}
            rows.append({"cluster": f"{prefix}{number}", "scanner": scanner, "site": "s", **features})
    return pd.DataFrame(rows)


def test_merged_parts_equal_the_population_of_all() -> None:
    table = manifest(30)
    population = training_population.describe_population(table)
    parts = training_population.merge_populations(
        [
            training_population.describe_population(table.iloc[:7]),
            training_population.describe_population(table.iloc[7:]),
        ]
    )
    assert parts.clusters == population.clusters == 30
    for name in DESCRIPTION:
        assert parts.mean[name] == pytest.approx(population.mean[name])
        assert parts.squares[name] == pytest.approx(population.squares[name])


def test_only_the_feature_of_a_new_scanner_that_differs_is_named() -> None:
    training = training_population.describe_population(manifest(60))
    new = training_population.describe_population(manifest(40, prefix="new", scanner="B 2", noise=3.0))
    warnings, figures = training_population.compare_populations(new, training)
    assert set(figures["differences"]) == {"noise"} and figures["differences"]["noise"] == pytest.approx(3.0, abs=0.7)
    assert warnings[0] == "scanner not present on the training side: B 2"
    assert warnings[1].startswith("differs from the 60 clusters") and "noise +" in warnings[1]


def test_many_slices_per_patient_give_no_difference_by_chance() -> None:
    """If slices counted as patients, chance alone would exceed 3 standard errors."""
    for clusters in (3, 4, 5, 8):
        training = training_population.describe_population(manifest(30))
        new = training_population.describe_population(manifest(clusters, slices=50, prefix="new"))
        assert training_population.compare_populations(new, training)[0] == []


def test_without_a_reference_there_is_no_warning() -> None:
    assert training_population.compare_populations(
        training_population.describe_population(manifest(5)), training_population.merge_populations([])
    ) == (
        [],
        {},
    )


def test_the_reference_is_the_cached_training_side(tmp_path: Path) -> None:
    table = manifest(10)
    batch = tmp_path / "lung-ct" / "first"
    batch.mkdir(parents=True)
    table.to_csv(batch / "manifest.csv", index=False)
    training = {"P0", "P1", "P2"}
    first = training_population.read_training_population([batch], training, tmp_path / "kept")
    assert first.clusters == 3
    (batch / "manifest.csv").unlink()
    assert training_population.read_training_population([batch], training, tmp_path / "kept") == first
