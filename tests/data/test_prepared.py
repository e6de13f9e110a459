"""The network's input that a batch carries: what a second decoding would give, and never what other code gave."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data import batches, index, phantom, prepared
from data.record import PixelSettings, Side, Task
from lineage.fault import Fault


@pytest.fixture
def batch(home: Path, brain: Task) -> Path:
    """A batch of 3 brain volumes as it is admitted."""
    source, target = home.parent / "inbox" / "first", home.parent / "batches" / "first"
    phantom.write_batch(source, brain, 3, phantom.usual(brain), 1, slices=2)
    index.index_batch(source, target, brain)
    return target


def packed(batch: Path, task: Task, target: Path) -> np.ndarray:
    manifest = index.read_manifest(batch / "manifest.csv")
    rows = [
        {"task": task.name, "cluster": name, "side": Side.TRAINING.value, "epoch": 1}
        for name in manifest["cluster"].unique()
    ]
    batches.pack([batch], pd.DataFrame(rows), task, target)
    return batches.load(target).pixels


def units(batch: Path) -> list[str]:
    return index.read_manifest(batch / "manifest.csv")["unit_id"].tolist()


def test_what_is_kept_is_what_a_second_decoding_gives(batch: Path, brain: Task, tmp_path: Path) -> None:
    assert prepared.ready(batch, units(batch), brain) is not None and not (batch / prepared.PARTS).exists()
    kept = packed(batch, brain, tmp_path / "kept")
    prepared.drop(batch)
    again = packed(batch, brain, tmp_path / "again")
    np.testing.assert_array_equal(kept, again)
    assert (tmp_path / "kept/first.npy").read_bytes() == (tmp_path / "again/first.npy").read_bytes()


def test_other_settings_and_other_code_decode_anew(
    batch: Path, brain: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = dataclasses.replace(brain, pixels=PixelSettings(48, None))
    assert prepared.ready(batch, units(batch), smaller) is None
    assert packed(batch, smaller, tmp_path / "out").shape[1:] == (48, 48, 1)
    monkeypatch.setattr(prepared.fingerprint, "code", lambda _: {"files": {"pixels.py": "edited"}})
    assert prepared.ready(batch, units(batch), brain) is None


def test_fewer_units_are_cut_out(batch: Path, brain: Task, tmp_path: Path) -> None:
    whole = np.load(batch / prepared.SHARD).copy()
    table = index.read_manifest(batch / "manifest.csv")
    kept = table.iloc[[1, 4]].reset_index(drop=True)
    assert prepared.ready(batch, kept["unit_id"].tolist(), brain) is None
    prepared.narrow(batch, batch, kept["unit_id"].tolist())
    np.testing.assert_array_equal(np.load(batch / prepared.SHARD), whole[[1, 4]])
    assert prepared.ready(batch, kept["unit_id"].tolist(), brain) is not None
    assert table["unit_id"][0] not in (batch / prepared.RECORD).read_text()
    assert whole[0].tobytes() not in (batch / prepared.SHARD).read_bytes()
    prepared.narrow(tmp_path, batch, [])  # a batch that carries none
    assert json.loads((batch / prepared.RECORD).read_text())["units"] == kept["unit_id"].tolist()


def test_damage_is_refused_by_name(batch: Path, brain: Task) -> None:
    content = bytearray((batch / prepared.SHARD).read_bytes())
    content[-1] ^= 1
    (batch / prepared.SHARD).write_bytes(content)
    with pytest.raises(Fault, match=r"prepared\.npy.*dvc checkout"):
        prepared.ready(batch, units(batch), brain)
