"""Copy-paste augmentation: lesions pasted into slices, lesions removed, and their labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from data.core_types import MaskMeaning
from data.dataset.shards import Units
from lineage.errors import Fault
from training.fitting.lesion_paste import LesionPaste, blend, body_interior, soft_outline, transform_lesion

SIDE = 64


@pytest.fixture
def units(samples: Any) -> Units:
    """A grey body in black air; malignant units have a bright square; masks have 32 cells; two units have no mask."""
    labels = np.array([0, 0, 0, 2, 2, 2, 0, 2])
    pixels = np.zeros((8, SIDE, SIDE, 1), np.float32)
    pixels[:, 8:56, 8:56] = 0.4
    masks = np.zeros((8, 32, 32, 1), np.float32)
    for position in np.flatnonzero(labels):
        pixels[position, 20:28, 30:38] = 0.9
        masks[position, 10:14, 15:19] = 1
    masks[6:] = np.nan
    table = samples.units(4).table.assign(label=np.array(samples.TASK.classes)[labels])
    return Units(table, pixels, labels, masks)


def test_a_lesion_is_pasted_or_removed_with_its_label(units: Units) -> None:
    augmented = LesionPaste(units, 1.0, 7).augment_epoch(0)
    assert augmented.labels.tolist() == [2, 2, 2, 0, 0, 0, 0, 2]
    bright = (augmented.pixels > 0.7).sum(axis=(1, 2, 3))
    assert (bright[:3] > 20).all() and not bright[3:6].any()
    assert augmented.masks is not None
    for position in range(3):
        cells = np.kron(augmented.masks[position, ..., 0], np.ones((2, 2))) > 0.5
        assert (augmented.pixels[position, ..., 0] > 0.7)[cells].sum() >= 0.9 * bright[position], (
            "the mask covers the lesion"
        )
        assert (units.pixels[position, ..., 0] > 0)[augmented.pixels[position, ..., 0] > 0.7].all(), (
            "the lesion is in the body"
        )
    assert not augmented.masks[3:6].any()
    assert np.array_equal(augmented.pixels[6:], units.pixels[6:]), "units without a mask are unchanged"


def test_an_epoch_depends_on_the_seed_and_its_number(units: Units) -> None:
    original = units.pixels.copy()
    first, again, later = (LesionPaste(units, 1.0, 7).augment_epoch(epoch).pixels for epoch in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, later)
    assert not np.array_equal(first, LesionPaste(units, 1.0, 8).augment_epoch(3).pixels)
    assert np.array_equal(units.pixels, original)


def test_a_share_of_the_units_is_changed(samples: Any) -> None:
    units = samples.units(200)
    changed = (LesionPaste(units, 0.3, 7).augment_epoch(0).pixels != units.pixels).any(axis=(1, 2, 3))
    assert 0.2 < changed.mean() < 0.4


@pytest.mark.parametrize("kind", ["free", "ill", "none"])
def test_without_units_of_both_kinds_nothing_changes(units: Units, kind: str) -> None:
    assert units.masks is not None
    has_lesion = units.masks.any(axis=(1, 2, 3))
    chosen = {"free": ~has_lesion, "ill": has_lesion, "none": np.isnan(units.masks[:, 0, 0, 0])}[kind]
    subset = units.where(chosen)
    assert LesionPaste(subset, 1.0, 7).augment_epoch(0) is subset
    without_masks = dataclasses.replace(units, masks=None)
    assert LesionPaste(without_masks, 1.0, 7).augment_epoch(0) is without_masks


def test_an_empty_mask_under_a_positive_label_is_left_alone(units: Units) -> None:
    units.labels[0] = 2
    augmented = LesionPaste(units, 1.0, 7, (2,)).augment_epoch(0)
    assert np.array_equal(augmented.pixels[0], units.pixels[0])
    assert augmented.labels.tolist() == [2, 2, 2, 0, 0, 0, 0, 2]
    assert (
        LesionPaste(units, 1.0, 7).augment_epoch(0).labels[0] == 2
        and 0 in LesionPaste(units, 1.0, 7).bodies_by_position
    )


def test_with_masks_of_all_classes_labels_follow_the_pasted_lesion(units: Units, samples: Any) -> None:
    """A benign lesion does not make a slice malignant; only tissue of a lesion-free class replaces a lesion."""
    task = dataclasses.replace(samples.TASK, mask=MaskMeaning.LESION, lesion_free=samples.TASK.classes[:1])
    units.labels[3:6] = 1
    augmented = LesionPaste(units, 1.0, 7, task.unclear_index).augment_epoch(0)
    assert augmented.labels.tolist() == [1, 1, 1, 0, 0, 0, 0, 2]
    without_free_class = dataclasses.replace(task, lesion_free=())
    assert LesionPaste(units, 1.0, 7, without_free_class.unclear_index).augment_epoch(0) is units, (
        "no class is known to be lesion-free"
    )
    assert dataclasses.replace(task, mask=MaskMeaning.POSITIVE).unclear_index == [2]


def test_a_share_out_of_range_is_refused(units: Units) -> None:
    with pytest.raises(Fault, match=r"fit\.augment\.paste is 1\.5"):
        LesionPaste(units, 1.5, 7)


def test_the_body_interior_has_enclosed_holes_and_no_rim() -> None:
    image = np.zeros((SIDE, SIDE), np.float32)
    image[10:50, 10:50] = 0.5
    image[20:30, 20:30] = 0.0
    body = body_interior(image)
    assert body[25, 25] and body[14, 14] and not body[11, 30] and not body[5, 5]
    assert not body_interior(np.zeros((8, 8), np.float32)).any()


def test_pasted_pixels_match_the_brightness_of_their_surroundings() -> None:
    target, source = np.full((16, 16), 0.6, np.float32), np.full((16, 16), 0.5, np.float32)
    outline = np.zeros((16, 16), np.float32)
    outline[4:12, 4:12], outline[6:10, 6:10] = 0.5, 1.0
    assert np.allclose(blend(target, source, outline), 0.6, atol=1e-6)
    assert np.array_equal(blend(target, source, np.zeros_like(outline)), target)


def test_without_a_body_a_lesion_stays_at_its_position(units: Units) -> None:
    image, outline = units.pixels[3, ..., 0], soft_outline(units.masks[3, ..., 0], (SIDE, SIDE))  # type: ignore[index]
    assert outline.max() == 1 and 64 < outline.sum() < 160
    for body in (np.zeros((SIDE, SIDE), bool), np.pad(np.ones((1, 1), bool), ((60, 3), (60, 3)))):
        moved_image, moved_outline = transform_lesion(image, outline, body, np.random.default_rng(0))
        assert moved_image.shape == moved_outline.shape == (SIDE, SIDE) and moved_outline.sum() > 5


def test_the_feed_gives_the_augmented_units_of_each_epoch(samples: Any, home: Any) -> None:
    from training.fitting.training_loop import make_feed

    units = samples.units(20)
    settings = dataclasses.replace(
        samples.FIT, mask_weight=1.0, augment=dataclasses.replace(samples.FIT.augment, paste=0.5)
    )
    feed = make_feed(units, settings, samples.TASK)
    source = feed.source()
    pixels_by_epoch = []
    for epoch in (0, 3, 0):
        feed.deal(epoch)
        batches = list(source)
        for (pixels, labels, weights), expected in zip(
            batches, [feed[batch_number] for batch_number in range(len(feed))], strict=True
        ):
            assert all(np.array_equal(pixels[name], expected[0][name]) for name in ("pixels", "masks"))
            assert np.array_equal(labels, expected[1]) and np.array_equal(weights, expected[2])
        pixels_by_epoch.append(np.concatenate([pixels["pixels"] for pixels, _, _ in batches]))
        assert (feed.masks[feed.labels == 1] <= 0).all(), "a benign lesion is no evidence for the positive class"
    assert np.array_equal(pixels_by_epoch[0], pixels_by_epoch[2]) and not np.array_equal(
        pixels_by_epoch[0], pixels_by_epoch[1]
    )
