from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blake3 import blake3

from data.batch.manifest import COLUMNS, TEXT, IndexedBatch, embeddings, index_batch, read_manifest
from data.core_types import SOURCE_COLUMNS, Task
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.scan import read
from lineage import site_hash
from lineage.errors import Fault
from tests.data.conftest import read_digest

Row = dict[str, str]
Edit = Callable[[Callable[[list[Row]], list[Row] | None]], None]


def test_every_slice_becomes_a_unit_with_all_columns(indexed: IndexedBatch) -> None:
    assert list(indexed.manifest.columns) == list(COLUMNS)
    assert len(indexed.manifest) == indexed.manifest["unit_id"].nunique() == 12
    assert indexed.manifest["cluster"].nunique() == 6
    assert set(indexed.manifest["label"]) == {"normal", "benign", "malignant"}
    assert set(indexed.manifest["units"]) == {"HU"}
    assert not indexed.refused


def test_stored_scans_are_named_by_content_and_show_the_same_pixels(indexed: IndexedBatch, home: Path) -> None:
    staging = home.parent / "staging" / "first"
    assert {f"scans/{path.name}" for path in staging.glob("scans/*")} == set(indexed.manifest["file"])
    for unit in indexed.manifest.itertuples():
        content = (staging / unit.file).read_bytes()
        assert unit.file == f"scans/{unit.sha256[:16]}.dcm"
        assert hashlib.sha256(content).hexdigest() == unit.stored_sha256
        plane = read.read_scan("scan", content).pixels[unit.slice]
        assert blake3(repr(plane.shape).encode() + plane.tobytes()).hexdigest() == unit.pixels_blake3


def test_the_source_in_the_header_is_stored_as_keyed_hashes(indexed: IndexedBatch, home: Path) -> None:
    scanner = study.SCANNERS["alder-ct"]
    assert set(indexed.manifest["institution_hash"]) == {site_hash.hash_site(f"{scanner.site} Hospital")}
    assert set(indexed.manifest["scanner_hash"]) == {site_hash.hash_scanner(f"{scanner.manufacturer} {scanner.model}")}
    stored = [path.read_bytes() for path in (home.parent / "staging" / "first").rglob("*") if path.is_file()]
    assert not [content for content in stored if f"{scanner.site} Hospital".encode() in content]


def test_manifests_of_before_name_no_source(indexed: IndexedBatch, tmp_path: Path) -> None:
    indexed.manifest.drop(columns=list(SOURCE_COLUMNS)).to_csv(tmp_path / "manifest.csv", index=False)
    assert (read_manifest(tmp_path / "manifest.csv")[list(SOURCE_COLUMNS)] == "").all(axis=None)


def test_no_identity_and_no_file_name_is_stored(batch: Path, indexed: IndexedBatch, home: Path) -> None:
    staging = home.parent / "staging" / "first"
    table = pd.read_csv(batch / "metadata.csv", dtype=str)
    identifying = [*table["patient_id"], *table["file_name"]]
    for path in staging.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [text for text in identifying if text.encode() in content or text in path.name]
    date_by_hash = {
        hashlib.sha256((batch / row.file_name).read_bytes()).hexdigest(): row.study_date for row in table.itertuples()
    }
    for (
        unit
    ) in indexed.manifest.itertuples():  # per unit: a shifted date of one patient can be the true date of another
        true_date = date_by_hash[unit.sha256]
        content = (staging / unit.file).read_bytes()
        assert unit.study_date != true_date
        assert true_date.encode() not in content and true_date.replace("-", "").encode() not in content
    assert len(indexed.manifest) == 12


def test_the_same_batch_has_the_same_digest_under_any_name_and_on_any_number_of_cores(
    batch: Path, indexed: IndexedBatch, lung: Task, tmp_path: Path
) -> None:
    renamed = shutil.copytree(batch, tmp_path / "again")
    assert read_digest(batch, lung) == read_digest(renamed, lung) == indexed.digest
    reindexed = index_batch(renamed, tmp_path / "alone", lung, workers=1)
    pd.testing.assert_frame_equal(reindexed.manifest, indexed.manifest)
    scan_file = next(renamed.glob("*.dcm"))
    scan_file.write_bytes(scan_file.read_bytes() + b"\0")
    assert read_digest(renamed, lung) != indexed.digest


def test_the_manifest_is_read_back_unchanged(indexed: IndexedBatch, home: Path) -> None:
    path = home.parent / "staging" / "first" / "manifest.csv"
    pd.testing.assert_frame_equal(read_manifest(path), indexed.manifest, check_dtype=False)
    assert set(TEXT) < set(COLUMNS)
    vectors = embeddings(indexed.manifest["embedding"])
    assert vectors.shape == (12, 32) and np.isfinite(vectors).all()


def test_a_second_run_replaces_the_files_of_the_first(
    batch: Path, indexed: IndexedBatch, lung: Task, home: Path
) -> None:
    staging = home.parent / "staging" / "first"
    (staging / "scans" / "stale.dcm").write_bytes(b"x")
    again = index_batch(batch, staging, lung)
    assert again.digest == indexed.digest
    assert len(list((staging / "scans").iterdir())) == 12


def test_a_broken_file_is_refused_by_its_row_and_the_others_are_indexed(batch: Path, edit: Edit, lung: Task) -> None:
    names = sorted(path.name for path in batch.glob("*.dcm"))
    (batch / "deep").mkdir()
    (batch / names[0]).rename(batch / "deep" / "cut.dcm")
    (batch / "deep" / "cut.dcm").write_bytes((batch / "deep" / "cut.dcm").read_bytes()[:4000])
    (batch / names[1]).write_text("no scan at all")

    def rename_file(rows: list[Row]) -> None:
        for row in rows:
            row["file_name"] = row["file_name"].replace(names[0], "deep/cut.dcm")

    edit(rename_file)
    result = index_batch(batch, batch.parent / "out", lung)
    sha256 = hashlib.sha256((batch / "deep" / "cut.dcm").read_bytes()).hexdigest()
    assert result.refused[0].file == f"row 2, sha256 {sha256[:8]}"
    assert [item.file.split(",")[0] for item in result.refused] == ["row 2", "row 3"]
    assert "cut.dcm" not in str(result.refused) and names[1] not in str(result.refused)
    assert all(item.reason and not item.reason.startswith(item.file) for item in result.refused)
    assert len(result.manifest) == 10 == len(list((batch.parent / "out" / "scans").iterdir()))


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"study_date": "yesterday"}, "not a date"),
        ({"patient_id": ""}, "neither patient_id nor group"),
        ({"slice": "1"}, "the slice of its row is not one of its 1, counted from 0"),
        ({"slice": "-1"}, "the slice of its row is not one"),
    ],
)
def test_an_invalid_row_refuses_its_file(batch: Path, edit: Edit, lung: Task, cells: Row, reason: str) -> None:
    edit(lambda rows: [(row | {"slice": ""}) for row in rows])
    edit(lambda rows: [rows[0] | cells, *rows[1:]])
    result = index_batch(batch, batch.parent / "out", lung)
    assert len(result.refused) == 1 and reason in result.refused[0].reason
    assert len(result.manifest) == 11


def test_volumes_give_the_slices_of_the_table_or_all(home: Path, brain: Task) -> None:
    folder = home.parent / "volumes"
    phantom_batch.write_batch(folder, brain, 2, study.usual_scanner(brain), seed=1, slices=3)
    selected = index_batch(folder, home.parent / "named", brain).manifest
    assert list(selected.groupby("file")["slice"].apply(list)) == [[1, 2, 3]] * 2
    assert selected["case"].nunique() == 2
    table = pd.read_csv(folder / "metadata.csv", dtype=str).drop(columns="slice").drop_duplicates("file_name")
    table.to_csv(folder / "metadata.csv", index=False)
    complete = index_batch(folder, home.parent / "whole", brain).manifest
    assert list(complete.groupby("file")["slice"].apply(len)) == [5, 5]
    assert (complete["std"] == 0).sum() == 4  # the padding


def test_readers_of_one_slice_become_one_label(batch: Path, edit: Edit, lung: Task) -> None:
    def three_readers(rows: list[Row]) -> list[Row]:
        labels = {"a": "normal", "b": "benign", "c": "benign"}
        readings = [{"labeller": name, "label": label, "truth": "reader"} for name, label in labels.items()]
        return [rows[0] | cells for cells in readings] + rows[1:]

    edit(three_readers)
    result = index_batch(batch, batch.parent / "out", lung)
    assert len(result.manifest) == 12
    assert (result.manifest["label"].iloc[0], result.manifest["labeller"].iloc[0]) == ("benign", "b;c")
    edit(lambda rows: [rows[0], *rows[2:]])
    assert "its readers disagree" in index_batch(batch, batch.parent / "out", lung).refused[0].reason


def test_copies_of_a_file_share_one_stored_scan_but_not_the_unit_id(batch: Path, edit: Edit, lung: Task) -> None:
    shutil.copy(batch / "scan-0000-0.dcm", batch / "copy.dcm")
    edit(lambda rows: [*rows, rows[0] | {"file_name": "copy.dcm", "patient_id": "another"}])
    manifest = index_batch(batch, batch.parent / "out", lung).manifest
    first, copy = manifest.iloc[0], manifest.iloc[-1]
    assert copy["unit_id"] == f"{first['unit_id']}-copy2"
    assert (copy["file"], copy["stored_sha256"]) == (first["file"], first["stored_sha256"])
    assert len(list((batch.parent / "out" / "scans").iterdir())) == 12


def test_another_task_and_a_split_by_image_are_refused(batch: Path, lung: Task, brain: Task) -> None:
    with pytest.raises(Fault, match="another task than brain-mr"):
        index_batch(batch, batch.parent / "out", brain)
    with pytest.raises(Fault, match="both sides of the split"):
        index_batch(batch, batch.parent / "out", replace(lung, cluster="image"))


def test_a_file_larger_than_the_limit_is_not_read(batch: Path, lung: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.batch.examine_scan.MAX_FILE", 1000)
    result = index_batch(batch, batch.parent / "out", lung)
    assert len(result.refused) == 12 and result.manifest.empty
    assert list(result.manifest.columns) == list(COLUMNS)
    assert not list((batch.parent / "out" / "scans").iterdir())


def test_a_manifest_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("unit_id,pixels_sha256\na,b\n")
    with pytest.raises(Fault, match=r"manifest\.csv was written before.*new workspace"):
        read_manifest(path)


def test_a_manifest_with_a_column_of_earlier_versions_is_read_like_a_new_one(
    indexed: IndexedBatch, tmp_path: Path
) -> None:
    new_path, old_path = tmp_path / "new.csv", tmp_path / "old.csv"
    indexed.manifest.to_csv(new_path, index=False)
    old = indexed.manifest.copy()
    old.insert(6, "dhash", "00000000000000e1")
    old.to_csv(old_path, index=False)
    pd.testing.assert_frame_equal(read_manifest(old_path), read_manifest(new_path))
