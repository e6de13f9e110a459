from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineage.errors import Fault
from serving.inference import outlier


def held_out(seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (200, 2, 2, 16)).astype(np.float32)


def test_usual_slices_are_near_and_shifted_ones_far(tmp_path: Path) -> None:
    outlier.save(tmp_path / "reference.npz", held_out())
    reference = outlier.load(tmp_path / "reference.npz")
    limit = outlier.distance_limit(tmp_path / "reference.npz", 0.995)
    usual, far = outlier.distance(reference, held_out(1)), outlier.distance(reference, held_out(1, 3.0))
    assert usual.shape == (200,) and 0.8 < usual.mean() < 1.2
    assert np.mean(usual > limit) < 0.05 and np.all(far > limit)


def test_a_constant_channel_gives_a_finite_distance() -> None:
    features = held_out()
    features[..., 0] = 0
    changed = features.copy()
    changed[..., 0] = 1
    distance = outlier.distance(outlier.fit(features), changed)
    assert np.all(np.isfinite(distance)) and distance.min() > 10


def test_too_few_slices_and_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two slices"):
        outlier.fit(held_out()[:1])
    with pytest.raises(Fault, match="reference of held-out features"):
        outlier.load(tmp_path / "reference.npz")
    np.savez(tmp_path / "reference.npz", other=np.zeros(3))
    with pytest.raises(Fault, match="not centre"):
        outlier.load(tmp_path / "reference.npz")
