"""Lesions that go over: into slices without one, out of slices with one, and the label with them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from data.dataset.shards import Units
from data.record import MaskMeaning
from lineage.errors import Fault
from training.fitting.lesion_paste import Lesions, inside, laid, outline, placed

SIDE = 64


@pytest.fixture
def units(samples: Any) -> Units:
    """A grey body in black air; malignant units have a bright square in it, and a mask of 32 cells; two have none."""
    labels = np.array([0, 0, 0, 2, 2, 2, 0, 2])
    pixels = np.zeros((8, SIDE, SIDE, 1), np.float32)
    pixels[:, 8:56, 8:56] = 0.4
    masks = np.zeros((8, 32, 32, 1), np.float32)
    for place in np.flatnonzero(labels):
        pixels[place, 20:28, 30:38] = 0.9
        masks[place, 10:14, 15:19] = 1
    masks[6:] = np.nan
    table = samples.units(4).table.assign(label=np.array(samples.TASK.classes)[labels])
    return Units(table, pixels, labels, masks)


def test_a_lesion_comes_into_a_free_slice_and_leaves_another_with_its_label(units: Units) -> None:
    shown = Lesions(units, 1.0, 7).shown(0)
    assert shown.labels.tolist() == [2, 2, 2, 0, 0, 0, 0, 2]
    bright = (shown.pixels > 0.7).sum(axis=(1, 2, 3))
    assert (bright[:3] > 20).all() and not bright[3:6].any()
    assert shown.masks is not None
    for place in range(3):
        cells = np.kron(shown.masks[place, ..., 0], np.ones((2, 2))) > 0.5
        assert (shown.pixels[place, ..., 0] > 0.7)[cells].sum() >= 0.9 * bright[place], "the mask is where it lies"
        assert (units.pixels[place, ..., 0] > 0)[shown.pixels[place, ..., 0] > 0.7].all(), "in the body"
    assert not shown.masks[3:6].any()
    assert np.array_equal(shown.pixels[6:], units.pixels[6:]), "without a mask nobody knows what to move"


def test_what_is_shown_follows_from_the_seed_and_the_epoch(units: Units) -> None:
    kept = units.pixels.copy()
    first, again, later = (Lesions(units, 1.0, 7).shown(epoch).pixels for epoch in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, later)
    assert not np.array_equal(first, Lesions(units, 1.0, 8).shown(3).pixels)
    assert np.array_equal(units.pixels, kept)


def test_a_share_of_the_units_is_changed(samples: Any) -> None:
    units = samples.units(200)
    changed = (Lesions(units, 0.3, 7).shown(0).pixels != units.pixels).any(axis=(1, 2, 3))
    assert 0.2 < changed.mean() < 0.4


@pytest.mark.parametrize("left", ["free", "ill", "none"])
def test_with_one_kind_alone_nothing_changes(units: Units, left: str) -> None:
    assert units.masks is not None
    ill = units.masks.any(axis=(1, 2, 3))
    chosen = {"free": ~ill, "ill": ill, "none": np.isnan(units.masks[:, 0, 0, 0])}[left]
    part = units.where(chosen)
    assert Lesions(part, 1.0, 7).shown(0) is part
    bare = dataclasses.replace(units, masks=None)
    assert Lesions(bare, 1.0, 7).shown(0) is bare


def test_an_empty_mask_under_a_positive_label_is_left_alone(units: Units) -> None:
    units.labels[0] = 2
    shown = Lesions(units, 1.0, 7, (2,)).shown(0)
    assert np.array_equal(shown.pixels[0], units.pixels[0])
    assert shown.labels.tolist() == [2, 2, 2, 0, 0, 0, 0, 2]
    assert Lesions(units, 1.0, 7).shown(0).labels[0] == 2 and 0 in Lesions(units, 1.0, 7).bodies


def test_where_lesions_of_any_class_are_outlined_labels_follow_what_is_shown(units: Units, samples: Any) -> None:
    """A benign lesion makes no slice malignant, and only tissue of a class without lesions takes one away."""
    task = dataclasses.replace(samples.TASK, mask=MaskMeaning.LESION, lesion_free=samples.TASK.classes[:1])
    units.labels[3:6] = 1
    shown = Lesions(units, 1.0, 7, task.unclear_index).shown(0)
    assert shown.labels.tolist() == [1, 1, 1, 0, 0, 0, 0, 2]
    none = dataclasses.replace(task, lesion_free=())
    assert Lesions(units, 1.0, 7, none.unclear_index).shown(0) is units, "no class is known to be free of lesions"
    assert dataclasses.replace(task, mask=MaskMeaning.POSITIVE).unclear_index == [2]


def test_a_share_that_is_none_is_refused(units: Units) -> None:
    with pytest.raises(Fault, match=r"fit\.augment\.paste is 1\.5"):
        Lesions(units, 1.5, 7)


def test_the_body_holds_what_it_encloses_and_not_its_rim() -> None:
    picture = np.zeros((SIDE, SIDE), np.float32)
    picture[10:50, 10:50] = 0.5
    picture[20:30, 20:30] = 0.0
    body = inside(picture)
    assert body[25, 25] and body[14, 14] and not body[11, 30] and not body[5, 5]
    assert not inside(np.zeros((8, 8), np.float32)).any()


def test_pixels_are_laid_as_light_as_their_surroundings() -> None:
    here, there = np.full((16, 16), 0.6, np.float32), np.full((16, 16), 0.5, np.float32)
    where = np.zeros((16, 16), np.float32)
    where[4:12, 4:12], where[6:10, 6:10] = 0.5, 1.0
    assert np.allclose(laid(here, there, where), 0.6, atol=1e-6)
    assert np.array_equal(laid(here, there, np.zeros_like(where)), here)


def test_a_place_without_a_body_is_its_own(units: Units) -> None:
    picture, where = units.pixels[3, ..., 0], outline(units.masks[3, ..., 0], (SIDE, SIDE))  # type: ignore[index]
    assert where.max() == 1 and 64 < where.sum() < 160
    for body in (np.zeros((SIDE, SIDE), bool), np.pad(np.ones((1, 1), bool), ((60, 3), (60, 3)))):
        moved, lies = placed(picture, where, body, np.random.default_rng(0))
        assert moved.shape == lies.shape == (SIDE, SIDE) and lies.sum() > 5


def test_a_fit_is_fed_what_each_epoch_shows(samples: Any, home: Any) -> None:
    from training.fitting.training_loop import feed_of

    units = samples.units(20)
    settings = dataclasses.replace(
        samples.FIT, mask_weight=1.0, augment=dataclasses.replace(samples.FIT.augment, paste=0.5)
    )
    feed = feed_of(units, settings, samples.TASK)
    source = feed.source()
    seen = []
    for epoch in (0, 3, 0):
        feed.deal(epoch)
        given = list(source)
        for (pixels, labels, weights), mine in zip(given, [feed[place] for place in range(len(feed))], strict=True):
            assert all(np.array_equal(pixels[name], mine[0][name]) for name in ("pixels", "masks"))
            assert np.array_equal(labels, mine[1]) and np.array_equal(weights, mine[2])
        seen.append(np.concatenate([pixels["pixels"] for pixels, _, _ in given]))
        assert (feed.masks[feed.labels == 1] <= 0).all(), "a benign lesion does not speak for the positive class"
    assert np.array_equal(seen[0], seen[2]) and not np.array_equal(seen[0], seen[1])
