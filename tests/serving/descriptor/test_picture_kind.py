"""The file of the test of the kind of picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineage.errors import Fault
from serving.descriptor import picture_kind
from training.picture_kind import fit

RANDOM = np.random.default_rng(5)
USUAL = RANDOM.normal(2, 0.3, (300, 12)).astype(np.float32)
OTHER = RANDOM.normal(0, 2, (600, 12)).astype(np.float32)


def test_likeness_is_high_for_fitted_vectors_and_zero_far_away() -> None:
    kind = fit.fit_vectors(USUAL, OTHER, seed=1)
    new = RANDOM.normal(2, 0.3, (100, 12)).astype(np.float32)
    far = RANDOM.normal(25, 1, (100, 12)).astype(np.float32)
    assert np.median(kind.likeness(new)) > 0.7
    assert np.abs(kind.likeness(far)).max() < 0.4
    assert (kind.likeness(far) < np.quantile(kind.likeness(new), 0.02)).all()


def test_a_file_holds_the_same_test(tmp_path: Path) -> None:
    kind = fit.fit_vectors(USUAL, OTHER, seed=1)
    picture_kind.save(tmp_path / "kind.npz", kind)
    loaded = picture_kind.load(tmp_path / "kind.npz")
    assert loaded.limit == kind.limit
    np.testing.assert_array_equal(loaded.likeness(USUAL), kind.likeness(USUAL))


def test_a_missing_file_or_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="missing"):
        picture_kind.load(tmp_path / "kind.npz")
    np.savez(tmp_path / "kind.npz", centre=np.zeros(3), scale=np.ones(3))
    with pytest.raises(Fault, match="lacks coefficients, limit, projection"):
        picture_kind.load(tmp_path / "kind.npz")
