"""Fitting: its products, its reproducibility, and its independence of the test units."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lineage.errors import Fault
from lineage.fingerprint import file_sha256

pytestmark = pytest.mark.usefixtures("home")


def test_the_report_describes_the_fit(trained: Any) -> None:
    report = json.loads((trained.models / "fit.json").read_text())
    assert report["backend"] == "tensorflow"
    assert report["parameters"] < 1_500_000
    assert report["units"] == {"training": 96, "validation": 60}
    assert 1 <= report["best_epoch"] <= report["epochs"] <= 3
    assert report["parity"] < 1e-4
    assert report["graph_sha256"] == file_sha256(trained.models / "graph.onnx")
    history = pd.read_csv(trained.models / "history.csv")
    assert list(history["epoch"]) == list(range(1, report["epochs"] + 1))
    assert report["best_validation_loss"] == pytest.approx(history["val_loss"][report["best_epoch"] - 1])


def test_the_same_seed_gives_the_same_weights_for_any_test_units(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    first = json.loads((trained.models / "fit.json").read_text())
    units = samples.units()
    test = (units.table["side"] == "test").to_numpy()
    units.pixels[test] = 7.0
    units.labels[test] = 0
    again = fit.fit(units, samples.TASK, samples.FIT, tmp_path / "again")
    assert again.weights_sha256 == first["weights_sha256"]
    assert file_sha256(tmp_path / "again" / "graph.onnx") == first["graph_sha256"]
    assert pd.read_csv(tmp_path / "again" / "history.csv").equals(pd.read_csv(trained.models / "history.csv"))


@pytest.mark.parametrize("side", ["training", "validation"])
def test_an_empty_split_is_refused(samples: Any, side: str, tmp_path: Path) -> None:
    from training.fitting import fit

    units = samples.units()
    with pytest.raises(Fault, match=f"no unit in the {side} split"):
        fit.fit(units.where(units.table["side"] != side), samples.TASK, samples.FIT, tmp_path / "models")


def test_a_class_without_training_units_is_refused(samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    units = samples.units()
    is_benign_training = (units.table["side"] == "training") & (units.table["label"] == "benign")
    with pytest.raises(Fault, match="no training unit of class benign"):
        fit.fit(units.where(~is_benign_training), samples.TASK, samples.FIT, tmp_path / "models")


def test_a_loss_that_is_not_a_number_leaves_no_model(home: Path, samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "graph.onnx").write_text("of an earlier fit")
    with pytest.raises(Fault, match="loss is not a number in epoch 1; lower"):
        fit.fit(samples.units(60), samples.TASK, replace(samples.FIT, learning_rate=1e30), tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    assert not list((home / "checkpoints").iterdir())


def test_an_image_with_a_nan_is_refused(samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    units = samples.units(60)
    units.pixels[3, 5, 5, 0] = np.nan
    with pytest.raises(Fault, match="pixels of unit unit-003 of batch first are not finite"):
        fit.fit(units, samples.TASK, samples.FIT, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_training_units_of_one_patient_are_refused(samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    units = samples.units()
    training = units.table["side"] == "training"
    is_first_patient = units.table["cluster"] == "P000"
    with pytest.raises(Fault, match=r"all training units are of one patient \(P000\)"):
        fit.fit(units.where(is_first_patient | ~training), samples.TASK, samples.FIT, tmp_path / "models")
    with pytest.raises(Fault, match="no unit in the validation split"):
        fit.fit(units.where(is_first_patient), samples.TASK, samples.FIT, tmp_path / "models")


def test_every_epoch_has_every_unit_in_a_new_order_in_whole_batches(samples: Any) -> None:
    from training.fitting.augmentation import Feed

    units = samples.units(20)
    orders = []
    for epoch in (0, 1, 0):
        feed = Feed(units.pixels, units.labels, np.arange(40.0), 16, seed=7)
        feed.deal(epoch)
        batches = [feed[batch_number] for batch_number in range(len(feed))]
        assert [len(labels) for _, labels, _ in batches] == [16, 16, 16]
        orders.append(np.concatenate([weights for _, _, weights in batches]))
        assert sorted(orders[-1][:40]) == list(range(40))
        assert np.array_equal(orders[-1][40:], orders[-1][:8]), "the last batch is filled with the first units"
        for pixels, labels, weights in batches:
            assert np.array_equal(pixels, units.pixels[weights.astype(int)])
            assert np.array_equal(labels, units.labels[weights.astype(int)])
    assert np.array_equal(orders[0], orders[2]) and not np.array_equal(orders[0], orders[1])


def test_the_tensorflow_pipeline_gives_the_same_batches(samples: Any) -> None:
    from training.fitting.augmentation import Feed

    units = samples.units(20)
    feed = Feed(units.pixels, units.labels, np.arange(40.0), 16, 7, units.masks)
    source = feed.source()
    for epoch in (0, 3):
        feed.deal(epoch)
        for (inputs, labels, weights), expected in zip(
            source, [feed[batch_number] for batch_number in range(3)], strict=True
        ):
            assert np.array_equal(labels, expected[1]) and np.array_equal(weights, expected[2])
            pairs = (
                [(inputs, expected[0])]
                if units.masks is None
                else [(inputs[key], expected[0][key]) for key in expected[0]]
            )
            assert all(np.array_equal(value, expected_value) for value, expected_value in pairs)


def test_class_weights_give_each_class_the_same_sum() -> None:
    from training.fitting.training_split import class_weights

    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights(labels, 3)
    assert np.allclose([weights[index] * (labels == index).sum() for index in range(3)], 10 / 3)
