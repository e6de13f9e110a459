"""Augmentation: only in training, within what it was told, and the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from training.settings import AugmentSettings

pytestmark = pytest.mark.usefixtures("home")
NONE = AugmentSettings(0, 0, 0, False, 0, 0, 0)


def augment(pixels: np.ndarray, settings: AugmentSettings, seed: int = 1, training: bool = True) -> np.ndarray:
    from training.augment import Augment

    return np.asarray(Augment(settings, seed)(pixels, training=training))


@pytest.fixture
def pixels(samples: Any) -> np.ndarray:
    return samples.units(20).pixels


def test_outside_of_training_nothing_happens(samples: Any, pixels: np.ndarray) -> None:
    assert np.array_equal(augment(pixels, samples.FIT.augment, training=False), pixels)


def test_without_reach_nothing_moves(pixels: np.ndarray) -> None:
    assert np.allclose(augment(pixels, NONE), pixels, atol=1e-6)


def test_mirrors_left_to_right_alone(pixels: np.ndarray) -> None:
    kinds = set()
    for before, after in zip(pixels, augment(pixels, replace(NONE, flip=True)), strict=True):
        kinds.add("same" if np.allclose(before, after, atol=1e-6) else "mirrored")
        assert np.allclose(before, after, atol=1e-6) or np.allclose(before[:, ::-1], after, atol=1e-6)
    assert kinds == {"same", "mirrored"}


def test_stays_in_range_and_differs_between_slices(samples: Any, pixels: np.ndarray) -> None:
    moved = augment(pixels, samples.FIT.augment)
    assert moved.shape == pixels.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    twice = np.repeat(pixels[:1], 2, axis=0)
    from training.augment import Augment

    one, other = np.asarray(Augment(samples.FIT.augment, 1)(twice, training=True))
    assert not np.allclose(one, other)


def test_same_seed_same_pictures(samples: Any, pixels: np.ndarray) -> None:
    assert np.array_equal(augment(pixels, samples.FIT.augment, 3), augment(pixels, samples.FIT.augment, 3))
    assert not np.array_equal(augment(pixels, samples.FIT.augment, 3), augment(pixels, samples.FIT.augment, 4))


def test_brightness_and_contrast_are_of_the_grey_range(pixels: np.ndarray) -> None:
    change = augment(pixels, replace(NONE, brightness=0.1)) - pixels
    inside = (pixels > 0.15) & (pixels < 0.85)
    assert np.abs(change[inside]).max() <= 0.1 + 1e-6
    assert np.abs(change[inside]).max() > 0.05
    spread = augment(pixels, replace(NONE, contrast=0.2))[:, :, :, 0].std(axis=(1, 2)) / pixels[:, :, :, 0].std(
        axis=(1, 2)
    )
    assert 0.79 < spread.min() < 1 < spread.max() < 1.21
