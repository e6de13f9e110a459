"""A warm fit: from pinned weights, on new data and a replay of old data."""

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
from training.fitting import warm_start
from training.settings import WarmSettings

pytestmark = pytest.mark.usefixtures("home")


def warm_settings(samples: Any, folder: Path, sha256: str | None = None, replay: float = 0.5) -> Any:
    pin = {"folder": str(folder), "sha256": sha256 or file_sha256(folder / "weights.weights.h5")}
    return replace(samples.FIT, strategy="warm", warm=WarmSettings(replay, 1e-9, {samples.TASK.name: pin}))


def two_batches(samples: Any) -> Any:
    """The batch of the parent, and a second batch of other patients."""
    old, new = samples.units(), samples.units(60, seed=5)
    renamed = {name: "new-" + new.table[name] for name in ("unit_id", "cluster", "case")}
    table = pd.concat([old.table, new.table.assign(batch="second", **renamed)], ignore_index=True)
    return replace(
        old,
        table=table,
        pixels=np.concatenate([old.pixels, new.pixels]),
        labels=np.concatenate([old.labels, new.labels]),
        masks=np.concatenate([old.masks, new.masks]),
    )


def test_a_warm_fit_starts_from_its_parent(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    units = two_batches(samples)
    settings = replace(warm_settings(samples, trained.models), epochs=1)
    report = fit.fit(units, samples.TASK, settings, tmp_path / "warm")
    assert report.strategy == "warm"
    assert report.parent_sha256 == file_sha256(trained.models / "weights.weights.h5")
    assert report.batches == ("first", "second")
    assert 44 <= report.units["training"] - 48 <= 52, "48 new units and half of the 96 old ones"
    full = fit.fit(units, samples.TASK, replace(samples.FIT, epochs=1), tmp_path / "full")
    assert full.strategy == "full" and full.parent_sha256 is None and full.units["training"] == 144
    heads = [
        np.load(folder / "head.npz")["kernel"] for folder in (trained.models, tmp_path / "warm", tmp_path / "full")
    ]
    assert np.allclose(heads[0], heads[1], atol=1e-6), "with a tiny learning rate the weights stay those of the parent"
    assert not np.allclose(heads[0], heads[2], atol=0.01)


def test_the_replay_has_all_new_units_and_some_of_every_old_class(samples: Any) -> None:
    units = two_batches(samples)
    training = units.where(units.table["side"] == "training")
    parent = warm_start.Parent(Path("w"), "", ("first",))
    for share, low, high in ((0.0, 3, 3), (0.25, 10, 14), (1.0, 48, 48)):
        replayed = warm_start.replay_units(training, parent, share, seed=7).table
        old_units = replayed[replayed["batch"] == "first"]
        assert (replayed["batch"] == "second").sum() == (training.table["batch"] == "second").sum()
        assert low <= old_units["cluster"].nunique() <= high
        assert set(old_units["label"]) == set(samples.TASK.classes)
        assert (old_units.groupby("cluster").size() == 2).all(), "whole patients"
    same_seed, other_seed = (
        warm_start.replay_units(training, parent, 0.5, seed).table["unit_id"].tolist() for seed in (7, 8)
    )
    assert same_seed == warm_start.replay_units(training, parent, 0.5, 7).table["unit_id"].tolist() != other_seed


def test_a_missing_or_different_parent_is_refused(samples: Any, trained: Any, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"weights.weights.h5 has the hash \w{12}, pinned is 000000000000; restore"):
        warm_start.pinned_parent(samples.TASK, warm_settings(samples, trained.models, "0" * 64))
    with pytest.raises(Fault, match="is missing; name the folder of a version"):
        warm_start.pinned_parent(samples.TASK, warm_settings(samples, tmp_path, "0" * 64))
    other_task = replace(samples.TASK, classes=("normal", "malignant"))
    with pytest.raises(
        Fault, match=r"has the classes normal, benign, malignant: fit a task with other classes with fit\.strategy full"
    ):
        warm_start.pinned_parent(other_task, warm_settings(samples, trained.models))
    with pytest.raises(Fault, match="strategy 'tepid' is unknown: use one of full, warm"):
        warm_start.pinned_parent(samples.TASK, replace(samples.FIT, strategy="tepid"))
    alias_pin = replace(samples.FIT, strategy="warm", warm=WarmSettings(parents={"lung-ct": {"alias": "champion"}}))
    with pytest.raises(Fault, match="needs the two keys folder and sha256, not alias"):
        warm_start.pinned_parent(samples.TASK, alias_pin)


def test_a_first_model_has_no_parent(samples: Any, trained: Any) -> None:
    assert warm_start.pinned_parent(samples.TASK, replace(samples.FIT, strategy="warm")) is None
    assert (
        warm_start.pinned_parent(samples.TASK, replace(warm_settings(samples, trained.models), strategy="full")) is None
    )
    report = json.loads((trained.models / "fit.json").read_text())
    assert report["strategy"] == "full" and report["batches"] == ["first"]
