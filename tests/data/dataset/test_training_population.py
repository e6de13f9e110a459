from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.dataset import training_population
from data.scan.slice_features import DESCRIPTION


def manifest(clusters: int, slices: int = 1, prefix: str = "P", scanner: str = "A 1", **shift: float) -> pd.DataFrame:
    """Units whose features vary from cluster to cluster with deviation 1 and hardly within; `shift` moves a feature."""
    random = np.random.default_rng([clusters, len(prefix)])
    rows = []
    for number in range(clusters):
        of_cluster = random.normal(size=len(DESCRIPTION))
        for _ in range(slices):
            values = of_cluster + random.normal(scale=0.01, size=len(DESCRIPTION))
            told = {name: value + shift.get(name, 0.0) for name, value in zip(DESCRIPTION, values, strict=True)}
            rows.append({"cluster": f"{prefix}{number}", "scanner": scanner, "site": "s", **told})
    return pd.DataFrame(rows)


def test_parts_together_are_the_whole() -> None:
    table = manifest(30)
    whole = training_population.describe(table)
    parts = training_population.together(
        [training_population.describe(table.iloc[:7]), training_population.describe(table.iloc[7:])]
    )
    assert parts.clusters == whole.clusters == 30
    for name in DESCRIPTION:
        assert parts.mean[name] == pytest.approx(whole.mean[name])
        assert parts.squares[name] == pytest.approx(whole.squares[name])


def test_a_scanner_with_another_gain_is_named_and_nothing_else() -> None:
    known = training_population.describe(manifest(60))
    new = training_population.describe(manifest(40, prefix="new", scanner="B 2", noise=3.0))
    warnings, figures = training_population.compare(new, known)
    assert set(figures["differences"]) == {"noise"} and figures["differences"]["noise"] == pytest.approx(3.0, abs=0.7)
    assert warnings[0] == "scanner never seen on the training side: B 2"
    assert warnings[1].startswith("differs from the 60 clusters") and "noise +" in warnings[1]


def test_the_same_population_is_not_called_different_however_many_slices_it_has() -> None:
    """Slices counted as patients, 3 standard errors would be passed by chance alone."""
    for clusters in (3, 4, 5, 8):
        known = training_population.describe(manifest(30))
        new = training_population.describe(manifest(clusters, slices=50, prefix="new"))
        assert training_population.compare(new, known)[0] == []


def test_without_a_reference_nothing_is_said() -> None:
    assert training_population.compare(training_population.describe(manifest(5)), training_population.together([])) == (
        [],
        {},
    )


def test_the_reference_is_the_training_side_worked_out_once(tmp_path: Path) -> None:
    table = manifest(10)
    batch = tmp_path / "lung-ct" / "first"
    batch.mkdir(parents=True)
    table.to_csv(batch / "manifest.csv", index=False)
    training = {"P0", "P1", "P2"}
    first = training_population.reference([batch], training, tmp_path / "kept")
    assert first.clusters == 3
    (batch / "manifest.csv").unlink()
    assert training_population.reference([batch], training, tmp_path / "kept") == first
