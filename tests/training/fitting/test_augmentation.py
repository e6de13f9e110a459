"""Augmentation: only in training, within its ranges, and reproducible by seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from training.settings import AugmentSettings

pytestmark = pytest.mark.usefixtures("home")
NONE = AugmentSettings(0, 0, 0, False, 0, 0, 0)


def augment(pixels: np.ndarray, settings: AugmentSettings, seed: int = 1, training: bool = True) -> np.ndarray:
    from training.fitting.augmentation import Augment

    return np.asarray(Augment(settings, seed)(pixels, training=training))


@pytest.fixture
def pixels(samples: Any) -> np.ndarray:
    return samples.units(20).pixels


def test_outside_of_training_pixels_are_unchanged(samples: Any, pixels: np.ndarray) -> None:
    assert np.array_equal(augment(pixels, samples.FIT.augment, training=False), pixels)


def test_zero_ranges_change_nothing(pixels: np.ndarray) -> None:
    assert np.allclose(augment(pixels, NONE), pixels, atol=1e-6)


def test_mirrors_only_left_to_right(pixels: np.ndarray) -> None:
    kinds = set()
    for before, after in zip(pixels, augment(pixels, replace(NONE, flip=True)), strict=True):
        kinds.add("same" if np.allclose(before, after, atol=1e-6) else "mirrored")
        assert np.allclose(before, after, atol=1e-6) or np.allclose(before[:, ::-1], after, atol=1e-6)
    assert kinds == {"same", "mirrored"}


def test_stays_in_range_and_differs_between_slices(samples: Any, pixels: np.ndarray) -> None:
    augmented = augment(pixels, samples.FIT.augment)
    assert augmented.shape == pixels.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    twice = np.repeat(pixels[:1], 2, axis=0)
    from training.fitting.augmentation import Augment

    first, second = np.asarray(Augment(samples.FIT.augment, 1)(twice, training=True))
    assert not np.allclose(first, second)


def test_the_same_seed_gives_the_same_images(samples: Any, pixels: np.ndarray) -> None:
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


def test_a_share_of_the_images_loses_a_rectangle(pixels: np.ndarray) -> None:
    changed = (augment(pixels, replace(NONE, erase=0.5)) != pixels)[..., 0]
    is_erased = np.abs(augment(pixels, replace(NONE, erase=0.5)) - augment(pixels, NONE))[..., 0] > 1e-4
    has_rectangle = is_erased.any(axis=(1, 2))
    assert 0.25 < has_rectangle.mean() < 0.75 and changed.shape == is_erased.shape
    for rectangle in is_erased[has_rectangle]:
        rows, columns = np.flatnonzero(rectangle.any(axis=1)), np.flatnonzero(rectangle.any(axis=0))
        inside = rectangle[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.mean() > 0.9, "a rectangle, except where noise equals the old pixel"
        assert inside.size <= 0.25 * rectangle.size
    assert not (np.abs(augment(pixels, replace(NONE, erase=0.0)) - pixels) > 1e-5).any()


def test_resampling_agrees_with_keras_affine_transform(samples: Any, pixels: np.ndarray) -> None:
    """The compiled resampling against keras.ops.image.affine_transform, also beyond the border."""
    from keras import ops

    from training.fitting import image_transforms

    count, side, middle = len(pixels), samples.SIZE, (samples.SIZE - 1) / 2
    random = np.random.default_rng(3)
    a, b, d, e = random.normal([[1], [0], [0], [1]], 0.2, (4, count)).astype(np.float32)
    across, down = random.uniform(-0.4, 0.4, (2, count)).astype(np.float32)
    rows = [
        a,
        b,
        middle + across * side - (a + b) * middle,
        d,
        e,
        middle + down * side - (d + e) * middle,
        0 * a,
        0 * a,
    ]
    expected = ops.image.affine_transform(pixels, np.stack(rows, 1), interpolation="bilinear", fill_mode="reflect")
    resampled = np.asarray(image_transforms.apply_affine(pixels, (a, b, d, e, across, down)))
    assert np.quantile(np.abs(resampled - np.asarray(expected)), 0.999) < 1e-3


def test_noise_has_the_configured_strength_and_is_uncorrelated(pixels: np.ndarray) -> None:
    noise = (augment(np.full_like(pixels, 0.5), replace(NONE, noise=0.05)) - 0.5)[..., 0]
    assert noise.std() == pytest.approx(0.05, rel=0.05) and abs(noise.mean()) < 0.002
    correlations = np.corrcoef(noise.reshape(len(noise), -1))
    assert np.abs(correlations[~np.eye(len(correlations), dtype=bool)]).max() < 0.2, "each image has its own noise"


def test_a_mask_is_resampled_with_its_image(samples: Any) -> None:
    """A spot and its mask on a coarser grid have the same centre after augmentation."""
    from training.fitting.augmentation import Augment

    random, (rows, columns) = np.random.default_rng(2), np.mgrid[:64, :64]
    spots = np.stack([np.hypot(rows - y, columns - x) < 7 for y, x in random.uniform(20, 44, (24, 2))])[..., np.newaxis]
    pixels, masks = spots.astype(np.float32), spots.reshape(24, 16, 4, 16, 4, 1).mean(axis=(2, 4)).astype(np.float32)
    geometric = replace(samples.FIT.augment, rotation=30, shift=0.1, zoom=0.2, brightness=0, contrast=0, noise=0)
    augmented, moved_masks = (np.asarray(output) for output in Augment(geometric, 3)(pixels, masks, training=True))
    assert np.abs(bright_centres(augmented) - bright_centres(pixels)).mean() > 2, "the spots moved"
    np.testing.assert_allclose(bright_centres(moved_masks), bright_centres(augmented), atol=0.5)  # of 64 pixels
    with_intensity = Augment(samples.FIT.augment, 3)(pixels, masks, training=True)
    assert np.array_equal(with_intensity[0], augment(pixels, samples.FIT.augment, 3)), "masks do not change the images"
    assert np.asarray(with_intensity[1]).min() >= 0 and np.asarray(with_intensity[1]).max() <= 1, "no noise on a mask"
    inference = Augment(geometric, 3)(pixels, masks, training=False)
    assert np.array_equal(inference[0], pixels) and np.array_equal(inference[1], masks)
    absent_masks = np.asarray(Augment(samples.FIT.augment, 3)(pixels, np.full_like(masks, -1), training=True)[1])
    np.testing.assert_allclose(absent_masks, -1, atol=1e-5)


def bright_centres(images: np.ndarray) -> np.ndarray:
    """The intensity-weighted centre (n, 2), in pixels of an image 64 wide."""
    side = images.shape[1]
    positions = (np.arange(side) + 0.5) * 64 / side
    weights = images[..., 0] / images.sum(axis=(1, 2))[:, np.newaxis]
    return np.stack([weights.sum(axis=2) @ positions, weights.sum(axis=1) @ positions], axis=1)
