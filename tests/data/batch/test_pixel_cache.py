"""The network's input that a batch carries: what a second decoding would give, and never what other code gave."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.batch import manifest as batch_manifest
from data.batch import pixel_cache
from data.dataset import shards
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.record import PixelSettings, Side, Task
from lineage.errors import Fault


@pytest.fixture
def batch(home: Path, brain: Task) -> Path:
    """A batch of 3 brain volumes as it is admitted."""
    source, target = home.parent / "inbox" / "first", home.parent / "batches" / "first"
    phantom_batch.write_batch(source, brain, 3, study.usual(brain), 1, slices=2)
    batch_manifest.index_batch(source, target, brain)
    return target


def packed(batch: Path, task: Task, target: Path) -> np.ndarray:
    manifest = batch_manifest.read_manifest(batch / "manifest.csv")
    rows = [
        {"task": task.name, "cluster": name, "side": Side.TRAINING.value, "epoch": 1}
        for name in manifest["cluster"].unique()
    ]
    shards.pack([batch], pd.DataFrame(rows), task, target)
    return shards.load(target).pixels


def units(batch: Path) -> list[str]:
    return batch_manifest.read_manifest(batch / "manifest.csv")["unit_id"].tolist()


def test_what_is_kept_is_what_a_second_decoding_gives(batch: Path, brain: Task, tmp_path: Path) -> None:
    assert pixel_cache.ready(batch, units(batch), brain) is not None and not (batch / pixel_cache.PARTS).exists()
    kept = packed(batch, brain, tmp_path / "kept")
    pixel_cache.drop(batch)
    again = packed(batch, brain, tmp_path / "again")
    np.testing.assert_array_equal(kept, again)
    assert (tmp_path / "kept/first.npy").read_bytes() == (tmp_path / "again/first.npy").read_bytes()


def test_other_settings_and_other_code_decode_anew(
    batch: Path, brain: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = dataclasses.replace(brain, pixels=PixelSettings(48, None))
    assert pixel_cache.ready(batch, units(batch), smaller) is None
    assert packed(batch, smaller, tmp_path / "out").shape[1:] == (48, 48, 1)
    monkeypatch.setattr(pixel_cache.fingerprint, "code", lambda _: {"files": {"pixels.py": "edited"}})
    assert pixel_cache.ready(batch, units(batch), brain) is None


def test_fewer_units_are_cut_out(batch: Path, brain: Task, tmp_path: Path) -> None:
    whole = np.load(batch / pixel_cache.SHARD).copy()
    table = batch_manifest.read_manifest(batch / "manifest.csv")
    kept = table.iloc[[1, 4]].reset_index(drop=True)
    assert pixel_cache.ready(batch, kept["unit_id"].tolist(), brain) is None
    pixel_cache.narrow(batch, batch, kept["unit_id"].tolist())
    np.testing.assert_array_equal(np.load(batch / pixel_cache.SHARD), whole[[1, 4]])
    assert pixel_cache.ready(batch, kept["unit_id"].tolist(), brain) is not None
    assert table["unit_id"][0] not in (batch / pixel_cache.RECORD).read_text()
    assert whole[0].tobytes() not in (batch / pixel_cache.SHARD).read_bytes()
    pixel_cache.narrow(tmp_path, batch, [])  # a batch that carries none
    assert json.loads((batch / pixel_cache.RECORD).read_text())["units"] == kept["unit_id"].tolist()


def test_damage_is_refused_by_name(batch: Path, brain: Task) -> None:
    content = bytearray((batch / pixel_cache.SHARD).read_bytes())
    content[-1] ^= 1
    (batch / pixel_cache.SHARD).write_bytes(content)
    with pytest.raises(Fault, match=r"prepared\.npy.*dvc checkout"):
        pixel_cache.ready(batch, units(batch), brain)
