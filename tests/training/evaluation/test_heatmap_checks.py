"""The pointing game on maps whose hottest position is known, and on networks that were told where to look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.dataset.shards import Units
from lineage.errors import Fault
from training.evaluation import heatmap_checks
from training.network import feature_grid

pytestmark = pytest.mark.usefixtures("home")
KERNEL = np.array([[-1.0, 1.0]], np.float32)  # one channel, which speaks for class 1


def played(samples: Any, hottest: list[tuple[int, int]], masks: np.ndarray, clusters: list[str]) -> dict[str, Any]:
    """The hit rate of maps of 8 × 8 positions with these hottest ones."""
    features = np.full((len(hottest), 8, 8, 1), 0.1, np.float32)
    for place, spot in enumerate(hottest):
        features[(place, *spot)] = 1.0
    answers = np.ones(len(hottest), np.int64)
    return heatmap_checks.hits(features, KERNEL, answers, masks, np.array(clusters), samples.EVALUATE)


def test_a_hit_is_at_most_one_position_beside_the_lesion(samples: Any) -> None:
    masks = np.zeros((6, 32, 32, 1), np.float32)
    masks[:, 12:16, 12:16] = 1 / 255  # position (3, 3) alone, hardly touched
    told = played(samples, [(3, 3), (2, 4), (4, 2), (5, 3), (3, 1), (7, 7)], masks, ["a", "a", "b", "b", "c", "c"])
    assert told["value"] == pytest.approx(3 / 6) and (told["units"], told["clusters"]) == (6, 3)
    assert told["low"] <= told["value"] <= told["high"] and told["low"] == 0.0
    assert told["chance"] == pytest.approx(9 / 64) and "reason" not in told


def test_pointing_blindly_reaches_what_chance_says(samples: Any) -> None:
    random = np.random.default_rng(4)
    masks = np.zeros((2000, 32, 32, 1), np.float32)
    for mask, (y, x, size) in zip(masks, random.integers(0, 24, (2000, 3)), strict=True):
        mask[y : y + size + 1, x : x + size + 1] = 1
    spots = [(int(y), int(x)) for y, x in random.integers(0, 8, (2000, 2))]
    told = played(samples, spots, masks, [str(place) for place in range(2000)])
    assert told["low"] < told["chance"] < told["high"] and told["high"] - told["low"] < 0.06


def test_only_masks_that_show_a_lesion_count_and_silence_misses(samples: Any) -> None:
    masks = np.zeros((4, 32, 32, 1), np.float32)
    masks[0], masks[3, :4, :4] = np.nan, 1
    told = played(samples, [(0, 0)] * 4, masks, ["a", "b", "c", "d"])
    assert (told["value"], told["units"], told["clusters"], told["low"]) == (1.0, 1, 1, None)
    silent = heatmap_checks.hits(
        np.zeros((1, 8, 8, 1), np.float32), KERNEL, np.ones(1, np.int64), masks[3:], np.array(["d"]), samples.EVALUATE
    )
    assert silent["value"] == 0.0, "a map without evidence points at nothing"
    for given in (None, masks[:3]):
        none = played(samples, [(0, 0)] * 3, given, ["a", "b", "c"])
        assert none["value"] is none["chance"] is None and none["units"] == none["clusters"] == 0
        assert none["reason"].startswith("no unit that was called positive has a lesion mask that shows a lesion")


@pytest.mark.parametrize(("grid", "positions"), [(32, 16), (32, 7), (32, 4), (32, 1), (32, 64), (4, 6)])
def test_positions_cover_every_cell(grid: int, positions: int) -> None:
    spans = feature_grid.cells(grid, positions)
    assert len(spans) == positions and all(span.stop > span.start for span in spans)
    assert {cell for span in spans for cell in range(span.start, span.stop)} == set(range(grid))
    mask = np.zeros((grid, grid), np.float32)
    mask[1, grid - 1] = 1
    found = np.argwhere(heatmap_checks.touched(mask, (positions, positions)))
    for row, column in found:  # the position and the cell do overlap
        assert row / positions < 2 / grid and (row + 1) / positions > 1 / grid
        assert (column + 1) / positions > (grid - 1) / grid
    assert len(found)


def test_the_fit_sees_the_same_positions_as_the_check() -> None:
    from training.network import model

    random = np.random.default_rng(5)
    masks = (random.random((5, 32, 32, 1)) < 0.02).astype(np.float32)
    for shape in ((16, 16), (7, 7), (4, 4)):
        found = np.asarray(model.covered(masks, shape)) > model.TOUCH
        np.testing.assert_array_equal(found, np.stack([heatmap_checks.touched(mask[:, :, 0], shape) for mask in masks]))


def shortcut(samples: Any, masked: bool = True) -> tuple[Units, Any]:
    """Pictures of 64 pixels, half of them with a faint lesion somewhere and a plain mark at the left upper edge, which
    tells the label at once: a network has no reason to look at the lesion. The units and their task."""
    random, count = np.random.default_rng(8), 160
    labels = np.arange(count) % 2
    pixels, drawn = random.normal(0.4, 0.06, (count, 64, 64, 1)), np.zeros((count, 64, 64, 1), np.float32)
    rows, columns = np.mgrid[:64, :64]
    for place in np.flatnonzero(labels):
        y, x = random.uniform(28, 54, 2)
        drawn[place] = (np.hypot(rows - y, columns - x) < 6)[..., np.newaxis]
        pixels[place] += 0.15 * drawn[place]
        pixels[place, 2:10, 2:10] += 0.4
    place = np.arange(count)
    side = np.array(["training", "validation", "test"])[np.searchsorted([0.5, 0.7], place / count, side="right")]
    names = [f"P{at // 2:03d}" for at in place]
    table = pd.DataFrame(
        {
            "unit_id": [f"unit-{at}" for at in place],
            "batch": "first",
            "cluster": names,
            "case": names,
            "site": "north",
            "label": np.array(["normal", "tumour"])[labels],
            "side": side,
            "epoch": 1,
            "scanner": "one",
            "mean": pixels.mean(axis=(1, 2, 3)),
        }
    )
    masks = drawn.reshape(count, 32, 2, 32, 2, 1).mean(axis=(2, 4))
    masks[::5] = np.nan  # some units came without
    task = replace(
        samples.TASK, classes=("normal", "tumour"), positive=("tumour",), pixels=replace(samples.TASK.pixels, size=64)
    )
    seen = np.clip(pixels, 0, 1).astype(np.float32)
    return Units(table, seen, labels.astype(np.int64), masks.astype(np.float32) if masked else None), task


def test_told_where_lesions_are_a_network_looks_there(samples: Any, tmp_path: Path) -> None:
    from training.evaluation import evaluate
    from training.fitting import fit

    told = {}
    for weight in (0.0, 2.0):
        units, task = shortcut(samples)
        settings = replace(
            samples.FIT,
            epochs=10,
            patience=10,
            batch_size=16,
            mask_weight=weight,
            augment=replace(samples.FIT.augment, flip=False),
        )
        folder = tmp_path / str(weight)
        report = fit.fit(units, task, settings, folder / "models")
        evaluated = evaluate.evaluate(units, task, folder / "models", samples.CALIBRATE, samples.EVALUATE, folder / "e")
        told[weight] = evaluated["maps"]["hits"] | {"parameters": report.parameters, "parity": report.parity}
        assert evaluated["test"]["auroc"]["value"] > 0.9
    blind, shown = told[0.0], told[2.0]
    assert blind["value"] < 0.4 and shown["value"] > 0.8 and shown["low"] > shown["chance"], told
    assert blind["parameters"] == shown["parameters"] and shown["parity"] < 1e-4, "the exported network is the same"


def test_a_map_for_a_wrong_class_has_nothing_to_hit(samples: Any) -> None:
    """Benign lesions are outlined too where a task says so: a false alarm on one is no hit."""
    features, masks = np.zeros((4, 8, 8, 1), np.float32), np.zeros((4, 32, 32, 1), np.float32)
    features[:, 2, 2], masks[:, 8:12, 8:12] = 1, 1
    names = np.array(list("abcd"))
    told = heatmap_checks.hits(
        features, KERNEL, np.ones(4, np.int64), masks, names, samples.EVALUATE, np.array([1, 0, 1, 0])
    )
    assert told["units"] == 2 and told["value"] == 1
    none = heatmap_checks.hits(
        features, KERNEL, np.ones(4, np.int64), masks, names, samples.EVALUATE, np.zeros(4, np.int64)
    )
    assert none["value"] is None and none["reason"].startswith("no unit that was called positive")


def test_a_positive_unit_with_an_empty_mask_teaches_no_place(samples: Any) -> None:
    """Its label is its patient's: "nowhere" would contradict it."""
    from training.fitting import training_split

    units = samples.units(30)
    place = int(np.flatnonzero(units.labels == 2)[0])
    units.masks[place] = 0
    kept = training_split.outlines(units, samples.TASK, 1.0)
    assert np.isnan(kept[place]).all() and not np.isnan(kept[np.arange(len(kept)) != place]).any()


def test_a_benign_lesion_is_nothing_to_look_for(samples: Any) -> None:
    from training.fitting import training_split

    units = samples.units(30)
    units.masks[:4] = np.nan
    kept = training_split.outlines(units, samples.TASK, 1.0)
    malignant = units.labels == 2
    here = malignant & (np.arange(len(malignant)) >= 4)
    assert np.isnan(kept[:4]).all() and np.array_equal(kept[here], units.masks[here]) and kept[here].any()
    assert not kept[4:][~malignant[4:]].any() and units.masks[4:][~malignant[4:]].any()
    assert training_split.outlines(units, samples.TASK, 0.0) is None
    assert training_split.outlines(units.where(units.labels == 1), samples.TASK, 1.0) is None
    with pytest.raises(Fault, match=r"fit\.mask_weight is -1\.0: use 0"):
        training_split.outlines(units, samples.TASK, -1.0)


def test_a_weight_without_masks_changes_nothing_and_an_interrupted_fit_ends_the_same(
    samples: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.fitting import checkpoint, fit

    settings = replace(samples.FIT, epochs=3, batch_size=16, mask_weight=1.0)
    bare, task = shortcut(samples, masked=False)
    plain = fit.fit(bare, task, replace(settings, mask_weight=0.0), tmp_path / "plain")
    assert fit.fit(bare, task, settings, tmp_path / "bare").weights_sha256 == plain.weights_sha256
    units, _ = shortcut(samples)
    whole = fit.fit(units, task, settings, tmp_path / "whole")
    assert whole.weights_sha256 != plain.weights_sha256
    real = checkpoint.save

    def killed(path: Path, reached: checkpoint.Progress) -> None:
        real(path, reached)
        if len(reached.history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            fit.fit(units, task, settings, tmp_path / "halves")
    assert list((home / "checkpoints").iterdir())
    resumed = fit.fit(units, task, settings, tmp_path / "halves")
    assert resumed.resumed_epochs == 2 and resumed.weights_sha256 == whole.weights_sha256
