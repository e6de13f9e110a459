from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom import Dataset, dcmread

from data import parallel
from data.batch.examine_scan import scan_sha256
from data.batch.manifest import IndexedBatch, index_batch
from data.core_types import Task
from data.dataset import shards
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.scan import read, zip_archive
from data.scan.preprocess import unit_pixels
from data.scan.series import join_series
from lineage import fingerprint
from lineage.errors import Fault
from tests.data.conftest import read_digest
from tests.data.scan.test_read import dicom

SLICES = 5


def zip_files(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def series_batch(home: Path, lung: Task) -> Callable[[str], Path]:
    """A function that writes a batch of three series with five slices each, all as folders or all as archives."""

    def make(kind: str) -> Path:
        folder = home.parent / "inbox" / kind
        phantom_batch.write_batch(folder, lung, 3, study.usual_scanner(lung), seed=1, slices=SLICES)
        with (folder / "metadata.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        batch_rows = []
        for patient in dict.fromkeys(row["patient_id"] for row in rows):
            series_rows = [row for row in rows if row["patient_id"] == patient]
            files = {row["file_name"]: (folder / row["file_name"]).read_bytes() for row in reversed(series_rows)}
            name = f"case-{len(batch_rows)}" + (".zip" if kind == "zips" else "")
            if kind == "zips":
                (folder / name).write_bytes(zip_files(files | {"__MACOSX/._x": b"x"}))
            else:
                (folder / name).mkdir()
                for number, (_, content) in enumerate(files.items()):
                    (folder / name / f"slice {number}").write_bytes(content)
            for file in files:
                (folder / file).unlink()
            batch_rows.append(series_rows[0] | {"file_name": name, "slice": "", "lesion_mm": ""})
        phantom_batch.write_metadata(folder, batch_rows)
        return folder

    return make


@pytest.mark.parametrize("kind", ["folders", "zips"])
def test_a_series_is_stored_as_one_archive_in_slice_order(
    kind: str, series_batch: Callable[[str], Path], lung: Task, tmp_path: Path
) -> None:
    source = series_batch(kind)
    indexed = index_batch(source, tmp_path / "out", lung)
    assert not indexed.refused and indexed.manifest["cluster"].nunique() == 3
    assert list(indexed.manifest.groupby("file", sort=False)["slice"].apply(list)) == [list(range(SLICES))] * 3
    assert set(indexed.manifest["geometry"]) == {"even"}
    for file, rows in indexed.manifest.groupby("file"):
        content = (tmp_path / "out" / str(file)).read_bytes()
        assert str(file).endswith(".zip") and set(rows["case"]) == {rows["case"].iloc[0]}
        scan = read.read_scan("stored", content)
        for row in rows.itertuples():
            assert row.mean == pytest.approx(float(scan.pixels[row.slice].mean()), abs=1e-4)
        members = dict(zip_archive.read_members("stored", content))
        assert len(members) == SLICES
        for name, member in members.items():
            assert name == f"{hashlib.sha256(member).hexdigest()[:16]}.dcm"
        heights = [
            float(read.read_scan(name, member).header["position"].split("\\")[2]) for name, member in members.items()
        ]
        reassembled = join_series([read.read_scan(name, member) for name, member in members.items()])
        assert float(reassembled.header["position"].split("\\")[2]) in heights
        np.testing.assert_array_equal(reassembled.pixels, scan.pixels)


def test_the_bytes_of_a_series_do_not_depend_on_file_names(
    series_batch: Callable[[str], Path], lung: Task, tmp_path: Path
) -> None:
    source = series_batch("folders")
    first = index_batch(source, tmp_path / "one", lung)
    assert first.digest == read_digest(source, lung)
    for number, path in enumerate(sorted((source / "case-0").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed {number}"))
    (source / "case-0" / ".DS_Store").write_bytes(b"left by a viewer")
    renamed = index_batch(source, tmp_path / "two", lung)
    assert renamed.digest == first.digest == read_digest(source, lung)
    assert fingerprint.hash_folder(tmp_path / "one") == fingerprint.hash_folder(tmp_path / "two")
    (source / "case-0" / "renamed 0").unlink()
    assert read_digest(source, lung) != first.digest
    assert scan_sha256(source / "case-0") != scan_sha256(source / "case-1")


def test_a_packed_series_has_the_pixels_of_its_slices(
    series_batch: Callable[[str], Path], lung: Task, tmp_path: Path
) -> None:
    manifest = index_batch(series_batch("zips"), tmp_path / "batches" / "b", lung).manifest
    sides = [{"task": lung.name, "cluster": name, "side": "training", "epoch": 1} for name in set(manifest["cluster"])]
    shards.pack_shards([tmp_path / "batches" / "b"], pd.DataFrame(sides), lung, tmp_path / "packed")
    units = shards.load_units(tmp_path / "packed")
    assert units.pixels.shape == (3 * SLICES, 64, 64, 1)
    last = manifest.iloc[-1]
    scan = read.read_scan("x", (tmp_path / "batches" / "b" / last["file"]).read_bytes())
    np.testing.assert_array_equal(units.pixels[-1], unit_pixels(scan.pixels[SLICES - 1], scan.units, lung.pixels))


def test_an_invalid_series_is_refused_by_its_row_and_the_others_are_indexed(
    series_batch: Callable[[str], Path], lung: Task, tmp_path: Path
) -> None:
    source = series_batch("folders")
    other_slice = next((source / "case-1").iterdir())
    (source / "case-0" / "stranger").write_bytes(other_slice.read_bytes())
    (source / "case-2" / "note.txt").write_text("no slice")
    indexed = index_batch(source, tmp_path / "out", lung)
    assert "two series" in indexed.refused[0].reason and "is not DICOM" in indexed.refused[1].reason
    assert len(indexed.manifest) == SLICES and len(list((tmp_path / "out" / "scans").iterdir())) == 1


def test_processes_and_threads_give_the_same_manifest(
    batch: Path, indexed: IndexedBatch, lung: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "MIN_JOBS", 2)
    from_processes = index_batch(batch, tmp_path / "out", lung)
    pd.testing.assert_frame_equal(from_processes.manifest, indexed.manifest)
    assert {path.name for path in (tmp_path / "out" / "scans").iterdir()} == {
        Path(file).name for file in indexed.manifest["file"]
    }


def test_a_full_disk_does_not_refuse_the_scan(batch: Path, lung: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def fail_in_scans(path: Path, content: bytes) -> int:
        if path.parent.name == "scans":
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail_in_scans)
    with pytest.raises(OSError, match="No space left"):
        index_batch(batch, batch.parent / "out", lung)


@pytest.mark.parametrize("kind", ["folders", "zips"])
def test_a_scout_among_the_slices_is_left_out_with_a_warning(
    kind: str, series_batch: Callable[[str], Path], lung: Task, tmp_path: Path
) -> None:
    """A series is sent as a folder or an archive, without an import."""
    import pydicom

    source, members = series_batch(kind), {}
    case = source / ("case-0.zip" if kind == "zips" else "case-0")
    members = (
        dict(zip_archive.read_members("x", case.read_bytes()))
        if kind == "zips"
        else {path.name: path.read_bytes() for path in case.iterdir()}
    )
    image = pydicom.dcmread(io.BytesIO(next(iter(members.values()))))
    image.ImageOrientationPatient, image.ImageType = (
        ["1", "0", "0", "0", "0", "-1"],
        ["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    if kind == "zips":
        case.write_bytes(zip_files({"a scout of Doe": stream.getvalue()} | members))
    else:
        (case / "a scout of Doe").write_bytes(stream.getvalue())
    indexed = index_batch(source, tmp_path / "out", lung)
    assert not indexed.refused and len(indexed.manifest) == 3 * SLICES
    (scout,) = indexed.left_out
    sha256 = hashlib.sha256(stream.getvalue()).hexdigest()[:8]
    assert scout.file.startswith("row 2, file ") and scout.file.endswith(f"sha256 {sha256}")
    assert scout.reason == "a localizer, not a slice"
    assert indexed.warnings() == [f"1 file of series left out: {scout.file} (a localizer, not a slice)"]
    archives = [
        dict(zip_archive.read_members("s", path.read_bytes())) for path in (tmp_path / "out" / "scans").iterdir()
    ]
    assert [len(slices) for slices in archives] == [SLICES] * 3


def enhanced(planes: list[np.ndarray], heights: list[int], spacings: tuple[str, ...] = ("2",)) -> bytes:
    """A multi-frame MR file with its frames in this order."""
    image = dcmread(io.BytesIO(dicom(np.stack(planes).astype("<u2"), Modality="MR", RescaleSlope=None)))
    groups = []
    for index, height in enumerate(heights):
        group, position, orientation, measures = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, orientation.ImageOrientationPatient = (
            ["0", "0", str(height)],
            ["1", "0", "0", "0", "1", "0"],
        )
        measures.PixelSpacing, measures.SliceThickness = [spacings[index % len(spacings)]] * 2, "3"
        group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence, image.NumberOfFrames = groups, len(groups)
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_a_row_counts_frames_in_the_order_of_the_file(home: Path, brain: Task) -> None:
    """Enhanced objects are often stored from head to foot; slices are sorted from foot to head."""
    phantom = study.make_study(brain, study.usual_scanner(brain), 1, 0, "tumour")
    planes = [np.clip(phantom.slice(index, 4, index == 0)[0], 0, None) for index in range(4)]
    folder = home.parent / "inbox" / "frames"
    folder.mkdir(parents=True)
    (folder / "a.dcm").write_bytes(enhanced(planes, [9, 6, 3, 0]))
    row = phantom.row("a.dcm", "no_tumour") | {"patient_id": "MRN000123456"}
    rows = [row | {"slice": str(index), "label": "no_tumour" if index else "tumour"} for index in range(4)]
    phantom_batch.write_metadata(folder, rows)
    units = index_batch(folder, home.parent / "out", brain).manifest.set_index("slice")
    assert units["label"].to_dict() == {0: "no_tumour", 1: "no_tumour", 2: "no_tumour", 3: "tumour"}
    assert units.at[3, "mean"] == pytest.approx(float(planes[0].mean()), rel=0.01)


def test_frames_of_two_pixel_spacings_are_refused() -> None:
    planes = [np.arange(80).reshape(8, 10) + index for index in range(4)]
    assert read.read_scan("a", enhanced(planes, [0, 3, 6, 9])).spacing == (3.0, 2.0, 2.0)
    with pytest.raises(Fault, match="a: frame 2 has another pixel spacing than frame 1; divide the file"):
        read.read_scan("a", enhanced(planes, [0, 3, 6, 9], ("2", "4")))
