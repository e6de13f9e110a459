"""The pixel cache of a batch equals a second decoding, and is not used after a change of code or settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.batch import manifest as batch_manifest
from data.batch import pixel_cache
from data.core_types import PixelSettings, Side, Task
from data.dataset import shards
from data.phantom import batch as phantom_batch
from data.phantom import study
from lineage.errors import Fault


@pytest.fixture
def batch(home: Path, brain: Task) -> Path:
    """An indexed batch of 3 brain volumes."""
    source, target = home.parent / "inbox" / "first", home.parent / "batches" / "first"
    phantom_batch.write_batch(source, brain, 3, study.usual_scanner(brain), 1, slices=2)
    batch_manifest.index_batch(source, target, brain)
    return target


def pack_batch(batch: Path, task: Task, target: Path) -> np.ndarray:
    manifest = batch_manifest.read_manifest(batch / "manifest.csv")
    rows = [
        {"task": task.name, "cluster": name, "side": Side.TRAINING.value, "epoch": 1}
        for name in manifest["cluster"].unique()
    ]
    shards.pack_shards([batch], pd.DataFrame(rows), task, target)
    return shards.load_units(target).pixels


def units(batch: Path) -> list[str]:
    return batch_manifest.read_manifest(batch / "manifest.csv")["unit_id"].tolist()


def test_cached_pixels_equal_a_second_decoding(batch: Path, brain: Task, tmp_path: Path) -> None:
    assert pixel_cache.ready_shard(batch, units(batch), brain) is not None and not (batch / pixel_cache.PARTS).exists()
    cached = pack_batch(batch, brain, tmp_path / "kept")
    pixel_cache.drop(batch)
    decoded = pack_batch(batch, brain, tmp_path / "again")
    np.testing.assert_array_equal(cached, decoded)
    assert (tmp_path / "kept/first.npy").read_bytes() == (tmp_path / "again/first.npy").read_bytes()


def test_other_settings_or_code_decode_again(
    batch: Path, brain: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = dataclasses.replace(brain, pixels=PixelSettings(48, None))
    assert pixel_cache.ready_shard(batch, units(batch), smaller) is None
    assert pack_batch(batch, smaller, tmp_path / "out").shape[1:] == (48, 48, 1)
    monkeypatch.setattr(pixel_cache.fingerprint, "describe_code", lambda _: {"files": {"pixels.py": "edited"}})
    assert pixel_cache.ready_shard(batch, units(batch), brain) is None


def test_narrowing_removes_the_other_units(batch: Path, brain: Task, tmp_path: Path) -> None:
    shard = np.load(batch / pixel_cache.SHARD).copy()
    table = batch_manifest.read_manifest(batch / "manifest.csv")
    rows = table.iloc[[1, 4]].reset_index(drop=True)
    assert pixel_cache.ready_shard(batch, rows["unit_id"].tolist(), brain) is None
    pixel_cache.narrow(batch, batch, rows["unit_id"].tolist())
    np.testing.assert_array_equal(np.load(batch / pixel_cache.SHARD), shard[[1, 4]])
    assert pixel_cache.ready_shard(batch, rows["unit_id"].tolist(), brain) is not None
    assert table["unit_id"][0] not in (batch / pixel_cache.RECORD).read_text()
    assert shard[0].tobytes() not in (batch / pixel_cache.SHARD).read_bytes()
    pixel_cache.narrow(tmp_path, batch, [])  # a batch without a cache
    assert json.loads((batch / pixel_cache.RECORD).read_text())["units"] == rows["unit_id"].tolist()


def test_a_damaged_cache_is_refused_by_name(batch: Path, brain: Task) -> None:
    content = bytearray((batch / pixel_cache.SHARD).read_bytes())
    content[-1] ^= 1
    (batch / pixel_cache.SHARD).write_bytes(content)
    with pytest.raises(Fault, match=r"prepared\.npy.*dvc checkout"):
        pixel_cache.ready_shard(batch, units(batch), brain)
