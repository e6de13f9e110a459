"""A warm fit: from weights that are pinned by hash, on what is new and a replay of what is old."""

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


def warm(samples: Any, folder: Path, sha256: str | None = None, replay: float = 0.5) -> Any:
    pin = {"folder": str(folder), "sha256": sha256 or file_sha256(folder / "weights.weights.h5")}
    return replace(samples.FIT, strategy="warm", warm=WarmSettings(replay, 1e-9, {samples.TASK.name: pin}))


def grown(samples: Any) -> Any:
    """The first batch, that the parent has seen, and a second one of other patients."""
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


def test_a_warm_fit_goes_on_from_its_parent(samples: Any, trained: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    units = grown(samples)
    settings = replace(warm(samples, trained.models), epochs=1)
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
    assert np.allclose(heads[0], heads[1], atol=1e-6), "at a rate of next to nothing it stays where its parent was"
    assert not np.allclose(heads[0], heads[2], atol=0.01)


def test_the_replay_keeps_all_that_is_new_and_some_of_every_old_class(samples: Any) -> None:
    units = grown(samples)
    training = units.where(units.table["side"] == "training")
    ancestor = warm_start.Parent(Path("w"), "", ("first",))
    for share, low, high in ((0.0, 3, 3), (0.25, 10, 14), (1.0, 48, 48)):
        kept = warm_start.replayed(training, ancestor, share, seed=7).table
        old = kept[kept["batch"] == "first"]
        assert (kept["batch"] == "second").sum() == (training.table["batch"] == "second").sum()
        assert low <= old["cluster"].nunique() <= high
        assert set(old["label"]) == set(samples.TASK.classes)
        assert (old.groupby("cluster").size() == 2).all(), "whole patients"
    again, other = (warm_start.replayed(training, ancestor, 0.5, seed).table["unit_id"].tolist() for seed in (7, 8))
    assert again == warm_start.replayed(training, ancestor, 0.5, 7).table["unit_id"].tolist() != other


def test_what_is_pinned_must_be_there_and_be_that(samples: Any, trained: Any, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"weights.weights.h5 has the hash \w{12}, pinned is 000000000000; restore"):
        warm_start.pinned(samples.TASK, warm(samples, trained.models, "0" * 64))
    with pytest.raises(Fault, match="is missing; name the folder of a version"):
        warm_start.pinned(samples.TASK, warm(samples, tmp_path, "0" * 64))
    other = replace(samples.TASK, classes=("normal", "malignant"))
    with pytest.raises(Fault, match="tells normal, benign, malignant: a task with other classes begins anew"):
        warm_start.pinned(other, warm(samples, trained.models))
    with pytest.raises(Fault, match="strategy 'tepid' is unknown: use one of full, warm"):
        warm_start.pinned(samples.TASK, replace(samples.FIT, strategy="tepid"))
    alias = replace(samples.FIT, strategy="warm", warm=WarmSettings(parents={"lung-ct": {"alias": "champion"}}))
    with pytest.raises(Fault, match="needs the two keys folder and sha256, not alias"):
        warm_start.pinned(samples.TASK, alias)


def test_a_first_model_has_no_parent(samples: Any, trained: Any) -> None:
    assert warm_start.pinned(samples.TASK, replace(samples.FIT, strategy="warm")) is None
    assert warm_start.pinned(samples.TASK, replace(warm(samples, trained.models), strategy="full")) is None
    told = json.loads((trained.models / "fit.json").read_text())
    assert told["strategy"] == "full" and told["batches"] == ["first"]
