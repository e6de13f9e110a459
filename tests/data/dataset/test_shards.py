from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.batch import manifest as batch_manifest
from data.batch import pixel_cache
from data.core_types import Modality, PixelSettings, Pooling, Side, Task
from data.dataset import shards
from data.phantom import batch, study
from data.scan.preprocess import unit_pixels
from data.scan.read import read_scan
from data.scan.slice_features import DESCRIPTION
from lineage import fingerprint
from lineage.errors import Fault

BRAIN = Task(
    "brain-mr",
    "Brain",
    "brain",
    Modality.MR,
    ("BRAIN",),
    ("no_tumour", "tumour"),
    ("tumour",),
    "slice",
    "patient",
    False,
    PixelSettings(64, None),
    Pooling("topk", 3),
    0.9,
    "",
)


@pytest.fixture
def admitted(home: Path, tmp_path: Path) -> tuple[list[Path], pd.DataFrame]:
    """Two admitted batches of brain volumes, and the side of every patient."""
    folders, rows = [], []
    for number, name in enumerate(("first", "second")):
        source = tmp_path / "inbox" / name
        batch.write_batch(source, BRAIN, 4, study.usual_scanner(BRAIN), number, slices=2)
        folders.append(tmp_path / "data" / "batches" / "brain-mr" / name)
        manifest = batch_manifest.index_batch(source, folders[-1], BRAIN).manifest
        for index, cluster in enumerate(manifest["cluster"].unique()):
            side = (Side.TRAINING, Side.VALIDATION, Side.TEST)[index % 3].value
            rows.append({"task": "brain-mr", "cluster": cluster, "side": side, "epoch": number + 1})
    assert home.is_dir()
    return folders, pd.DataFrame(rows)


def test_packed_pixels_equal_those_of_the_scan(admitted: tuple[list[Path], pd.DataFrame], tmp_path: Path) -> None:
    folders, cohorts = admitted
    shards.pack_shards(folders, cohorts, BRAIN, tmp_path / "out")
    units = shards.load_units(tmp_path / "out")
    assert units.pixels.shape == (16, 64, 64, 1) and units.pixels.dtype == np.float32
    assert list(units.table.columns) == list(shards.UNITS) and set(DESCRIPTION) < set(units.table.columns)
    manifest = batch_manifest.read_manifest(folders[1] / "manifest.csv").set_index("unit_id")
    for index in (8, 15):
        row = units.table.iloc[index]
        manifest_row = manifest.loc[row["unit_id"]]
        scan = read_scan("x", (folders[1] / manifest_row["file"]).read_bytes())
        expected = unit_pixels(scan.pixels[int(manifest_row["slice"])], scan.units, BRAIN.pixels)
        np.testing.assert_array_equal(units.pixels[index], expected)
        assert BRAIN.classes[units.labels[index]] == row["label"] == manifest_row["label"]
        assert row["mean"] == pytest.approx(manifest_row["mean"]) and row["epoch"] == 2


def test_the_same_input_gives_the_same_bytes(admitted: tuple[list[Path], pd.DataFrame], tmp_path: Path) -> None:
    folders, cohorts = admitted
    shards.pack_shards(folders, cohorts, BRAIN, tmp_path / "one")
    shards.pack_shards(folders[::-1], cohorts, BRAIN, tmp_path / "two")
    assert fingerprint.hash_folder(tmp_path / "one") == fingerprint.hash_folder(tmp_path / "two")
    (tmp_path / "one" / "withdrawn.npy").write_bytes(b"old")
    shards.pack_shards(folders[:1], cohorts, BRAIN, tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["first.npy", "shards.sha256", "units.csv"]


def test_the_units_of_a_side_are_loaded(admitted: tuple[list[Path], pd.DataFrame], tmp_path: Path) -> None:
    folders, cohorts = admitted
    shards.pack_shards(folders, cohorts, BRAIN, tmp_path)
    units = shards.load_units(tmp_path)
    test = shards.load_units(tmp_path, [Side.TEST])
    selected = units.where(units.table["side"] == "test")
    np.testing.assert_array_equal(test.pixels, selected.pixels)
    np.testing.assert_array_equal(test.labels, selected.labels)
    pd.testing.assert_frame_equal(test.table, selected.table)
    assert set(test.table["side"]) == {"test"}
    assert set(test.table["cluster"]).isdisjoint(shards.load_units(tmp_path, ["training"]).table["cluster"])


def test_changed_bytes_are_refused(admitted: tuple[list[Path], pd.DataFrame], tmp_path: Path) -> None:
    folders, cohorts = admitted
    pixel_cache.drop(folders[0])  # otherwise the scan is not read again
    scan = next((folders[0] / "scans").iterdir())
    scan.write_bytes(scan.read_bytes() + b"\0")
    with pytest.raises(Fault, match="not those that were admitted"):
        shards.pack_shards(folders, cohorts, BRAIN, tmp_path / "out")


def test_a_patient_without_a_side_is_refused(admitted: tuple[list[Path], pd.DataFrame], tmp_path: Path) -> None:
    folders, cohorts = admitted
    with pytest.raises(Fault, match="on no side"):
        shards.pack_shards(folders, cohorts.iloc[1:], BRAIN, tmp_path / "out")
    with pytest.raises(Fault, match="on no side"):  # another task's cohorts do not count
        shards.pack_shards(folders, cohorts.assign(task="lung-ct"), BRAIN, tmp_path / "out")


def test_without_batches_or_a_packed_folder_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="no admitted batch"):
        shards.pack_shards([], pd.DataFrame(), BRAIN, tmp_path)
    with pytest.raises(Fault, match="is missing"):
        shards.load_units(tmp_path / "nowhere")


def test_an_empty_side_is_refused_by_name(admitted: tuple[list[Path], pd.DataFrame], tmp_path: Path) -> None:
    folders, cohorts = admitted
    shards.pack_shards(folders, cohorts.assign(side="training"), BRAIN, tmp_path)
    with pytest.raises(Fault, match="validation"):
        shards.load_units(tmp_path, [Side.VALIDATION])


def test_an_unknown_label_is_refused_by_name(admitted: tuple[list[Path], pd.DataFrame], tmp_path: Path) -> None:
    folders, cohorts = admitted
    path = folders[0] / "manifest.csv"
    path.write_text(path.read_text().replace(",no_tumour,", ",nothing,"))
    with pytest.raises(Fault, match="'nothing'"):
        shards.pack_shards(folders, cohorts, BRAIN, tmp_path)
