"""The pointing game on constructed maps, and on networks fitted with the localisation loss."""

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
KERNEL = np.array([[-1.0, 1.0]], np.float32)  # one channel, evidence for class 1


def play_pointing_game(
    samples: Any, hottest: list[tuple[int, int]], masks: np.ndarray, clusters: list[str]
) -> dict[str, Any]:
    """The pointing game on maps of 8 × 8 positions with these hottest positions."""
    features = np.full((len(hottest), 8, 8, 1), 0.1, np.float32)
    for map_number, position in enumerate(hottest):
        features[(map_number, *position)] = 1.0
    answers = np.ones(len(hottest), np.int64)
    return heatmap_checks.pointing_game(features, KERNEL, answers, masks, np.array(clusters), samples.EVALUATE)


def test_a_hit_is_at_most_one_position_from_the_lesion(samples: Any) -> None:
    masks = np.zeros((6, 32, 32, 1), np.float32)
    masks[:, 12:16, 12:16] = 1 / 255  # position (3, 3) only, with a small value
    result = play_pointing_game(
        samples, [(3, 3), (2, 4), (4, 2), (5, 3), (3, 1), (7, 7)], masks, ["a", "a", "b", "b", "c", "c"]
    )
    assert result["value"] == pytest.approx(3 / 6) and (result["units"], result["clusters"]) == (6, 3)
    assert result["low"] <= result["value"] <= result["high"] and result["low"] == 0.0
    assert result["chance"] == pytest.approx(9 / 64) and "reason" not in result


def test_random_pointing_has_the_chance_hit_rate(samples: Any) -> None:
    random = np.random.default_rng(4)
    masks = np.zeros((2000, 32, 32, 1), np.float32)
    for mask, (y, x, size) in zip(masks, random.integers(0, 24, (2000, 3)), strict=True):
        mask[y : y + size + 1, x : x + size + 1] = 1
    positions = [(int(y), int(x)) for y, x in random.integers(0, 8, (2000, 2))]
    result = play_pointing_game(samples, positions, masks, [str(number) for number in range(2000)])
    assert result["low"] < result["chance"] < result["high"] and result["high"] - result["low"] < 0.06


def test_only_masks_with_a_lesion_count_and_a_map_without_evidence_is_a_miss(samples: Any) -> None:
    masks = np.zeros((4, 32, 32, 1), np.float32)
    masks[0], masks[3, :4, :4] = np.nan, 1
    result = play_pointing_game(samples, [(0, 0)] * 4, masks, ["a", "b", "c", "d"])
    assert (result["value"], result["units"], result["clusters"], result["low"]) == (1.0, 1, 1, None)
    without_evidence = heatmap_checks.pointing_game(
        np.zeros((1, 8, 8, 1), np.float32), KERNEL, np.ones(1, np.int64), masks[3:], np.array(["d"]), samples.EVALUATE
    )
    assert without_evidence["value"] == 0.0, "a map without evidence is a miss"
    for masks_without_lesions in (None, masks[:3]):
        no_hits = play_pointing_game(samples, [(0, 0)] * 3, masks_without_lesions, ["a", "b", "c"])
        assert no_hits["value"] is no_hits["chance"] is None and no_hits["units"] == no_hits["clusters"] == 0
        assert no_hits["reason"].startswith("no unit that was called positive has a lesion mask that shows a lesion")


@pytest.mark.parametrize(("grid", "positions"), [(32, 16), (32, 7), (32, 4), (32, 1), (32, 64), (4, 6)])
def test_positions_cover_every_cell(grid: int, positions: int) -> None:
    spans = feature_grid.cells_by_position(grid, positions)
    assert len(spans) == positions and all(span.stop > span.start for span in spans)
    assert {cell for span in spans for cell in range(span.start, span.stop)} == set(range(grid))
    mask = np.zeros((grid, grid), np.float32)
    mask[1, grid - 1] = 1
    covered_positions = np.argwhere(heatmap_checks.lesion_positions(mask, (positions, positions)))
    for row, column in covered_positions:  # the position and the cell do overlap
        assert row / positions < 2 / grid and (row + 1) / positions > 1 / grid
        assert (column + 1) / positions > (grid - 1) / grid
    assert len(covered_positions)


def test_the_localisation_loss_uses_the_same_positions_as_the_check() -> None:
    from training.network import model

    random = np.random.default_rng(5)
    masks = (random.random((5, 32, 32, 1)) < 0.02).astype(np.float32)
    for shape in ((16, 16), (7, 7), (4, 4)):
        positions = np.asarray(model.max_pool_masks(masks, shape)) > model.MIN_LESION_SHARE
        np.testing.assert_array_equal(
            positions, np.stack([heatmap_checks.lesion_positions(mask[:, :, 0], shape) for mask in masks])
        )


def shortcut_units(samples: Any, has_masks: bool = True) -> tuple[Units, Any]:
    """Units and task with a shortcut: images of 64 pixels, half of them with a faint lesion and a bright square at the
    upper left edge. The square alone predicts the label."""
    random, count = np.random.default_rng(8), 160
    labels = np.arange(count) % 2
    pixels, full_masks = random.normal(0.4, 0.06, (count, 64, 64, 1)), np.zeros((count, 64, 64, 1), np.float32)
    rows, columns = np.mgrid[:64, :64]
    for unit_number in np.flatnonzero(labels):
        y, x = random.uniform(28, 54, 2)
        full_masks[unit_number] = (np.hypot(rows - y, columns - x) < 6)[..., np.newaxis]
        pixels[unit_number] += 0.15 * full_masks[unit_number]
        pixels[unit_number, 2:10, 2:10] += 0.4
    unit_number = np.arange(count)
    side = np.array(["training", "validation", "test"])[np.searchsorted([0.5, 0.7], unit_number / count, side="right")]
    patients = [f"P{number // 2:03d}" for number in unit_number]
    table = pd.DataFrame(
        {
            "unit_id": [f"unit-{number}" for number in unit_number],
            "batch": "first",
            "cluster": patients,
            "case": patients,
            "site": "north",
            "label": np.array(["normal", "tumour"])[labels],
            "side": side,
            "epoch": 1,
            "scanner": "one",
            "mean": pixels.mean(axis=(1, 2, 3)),
        }
    )
    masks = full_masks.reshape(count, 32, 2, 32, 2, 1).mean(axis=(2, 4))
    masks[::5] = np.nan  # some units have no mask
    task = replace(
        samples.TASK, classes=("normal", "tumour"), positive=("tumour",), pixels=replace(samples.TASK.pixels, size=64)
    )
    clipped = np.clip(pixels, 0, 1).astype(np.float32)
    return Units(table, clipped, labels.astype(np.int64), masks.astype(np.float32) if has_masks else None), task


def test_the_localisation_loss_moves_heat_maps_to_lesions(samples: Any, tmp_path: Path) -> None:
    from training.evaluation import evaluate
    from training.fitting import fit

    results_by_weight = {}
    for weight in (0.0, 2.0):
        units, task = shortcut_units(samples)
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
        results_by_weight[weight] = evaluated["maps"]["hits"] | {
            "parameters": report.parameters,
            "parity": report.parity,
        }
        assert evaluated["test"]["auroc"]["value"] > 0.9
    without_loss, with_loss = results_by_weight[0.0], results_by_weight[2.0]
    assert without_loss["value"] < 0.4 and with_loss["value"] > 0.8 and with_loss["low"] > with_loss["chance"], (
        results_by_weight
    )
    assert without_loss["parameters"] == with_loss["parameters"] and with_loss["parity"] < 1e-4, (
        "the exported network is the same"
    )


def test_a_map_for_a_wrong_class_is_not_counted(samples: Any) -> None:
    """Masks may mark benign lesions too: a false positive on one is no hit."""
    features, masks = np.zeros((4, 8, 8, 1), np.float32), np.zeros((4, 32, 32, 1), np.float32)
    features[:, 2, 2], masks[:, 8:12, 8:12] = 1, 1
    patients = np.array(list("abcd"))
    result = heatmap_checks.pointing_game(
        features, KERNEL, np.ones(4, np.int64), masks, patients, samples.EVALUATE, np.array([1, 0, 1, 0])
    )
    assert result["units"] == 2 and result["value"] == 1
    no_hits = heatmap_checks.pointing_game(
        features, KERNEL, np.ones(4, np.int64), masks, patients, samples.EVALUATE, np.zeros(4, np.int64)
    )
    assert no_hits["value"] is None and no_hits["reason"].startswith("no unit that was called positive")


def test_a_positive_unit_with_an_empty_mask_is_left_out(samples: Any) -> None:
    """Its label is that of the patient: an empty mask would contradict it."""
    from training.fitting import training_split

    units = samples.units(30)
    position = int(np.flatnonzero(units.labels == 2)[0])
    units.masks[position] = 0
    masks = training_split.training_masks(units, samples.TASK, 1.0)
    assert np.isnan(masks[position]).all() and not np.isnan(masks[np.arange(len(masks)) != position]).any()


def test_the_mask_of_a_benign_lesion_becomes_empty(samples: Any) -> None:
    from training.fitting import training_split

    units = samples.units(30)
    units.masks[:4] = np.nan
    masks = training_split.training_masks(units, samples.TASK, 1.0)
    malignant = units.labels == 2
    is_malignant = malignant & (np.arange(len(malignant)) >= 4)
    assert (
        np.isnan(masks[:4]).all()
        and np.array_equal(masks[is_malignant], units.masks[is_malignant])
        and masks[is_malignant].any()
    )
    assert not masks[4:][~malignant[4:]].any() and units.masks[4:][~malignant[4:]].any()
    assert training_split.training_masks(units, samples.TASK, 0.0) is None
    assert training_split.training_masks(units.where(units.labels == 1), samples.TASK, 1.0) is None
    with pytest.raises(Fault, match=r"fit\.mask_weight is -1\.0: use 0"):
        training_split.training_masks(units, samples.TASK, -1.0)


def test_a_weight_without_masks_changes_nothing_and_an_interrupted_fit_ends_the_same(
    samples: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.fitting import checkpoint, fit

    settings = replace(samples.FIT, epochs=3, batch_size=16, mask_weight=1.0)
    without_masks, task = shortcut_units(samples, has_masks=False)
    without_weight = fit.fit(without_masks, task, replace(settings, mask_weight=0.0), tmp_path / "plain")
    assert fit.fit(without_masks, task, settings, tmp_path / "bare").weights_sha256 == without_weight.weights_sha256
    units, _ = shortcut_units(samples)
    uninterrupted = fit.fit(units, task, settings, tmp_path / "whole")
    assert uninterrupted.weights_sha256 != without_weight.weights_sha256
    save = checkpoint.save

    def save_and_interrupt(path: Path, progress: checkpoint.Progress) -> None:
        save(path, progress)
        if len(progress.history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit.fit(units, task, settings, tmp_path / "halves")
    assert list((home / "checkpoints").iterdir())
    resumed = fit.fit(units, task, settings, tmp_path / "halves")
    assert resumed.resumed_epochs == 2 and resumed.weights_sha256 == uninterrupted.weights_sha256
