"""Lesion masks from the batch to the packed units: only the grid over the network input is stored."""

from __future__ import annotations

import csv
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.batch import lesion_grid, manifest
from data.batch.metadata_table import read_metadata
from data.core_types import PixelSettings, Side, Task, ValueUnit
from data.dataset import shards
from data.importing.import_folder import import_folder
from data.importing.mask_volumes import pair_volumes
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.scan import preprocess
from data.scan.read import read_scan
from lineage import fingerprint
from lineage.errors import Fault
from tests.data.conftest import read_digest

Rows = list[dict[str, str]]


@pytest.fixture
def masked(home: Path, brain: Task) -> Path:
    """A batch of 4 brain volumes of two slices, each with a mask, in the inbox."""
    folder = home.parent / "inbox" / "masked"
    phantom_batch.write_batch(folder, brain, 4, study.usual_scanner(brain), 3, slices=2, masks=True)
    return folder


def edit_rows(folder: Path, change: Callable[[Rows], None]) -> None:
    """Change the rows of a batch's metadata.csv."""
    path = folder / "metadata.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def pack_batches(folders: list[Path], task: Task, target: Path) -> shards.Units:
    clusters = pd.concat([manifest.read_manifest(folder / "manifest.csv") for folder in folders])["cluster"].unique()
    side = {"task": task.name, "side": Side.TRAINING.value, "epoch": 1}
    shards.pack_shards(folders, pd.DataFrame([side | {"cluster": name} for name in clusters]), task, target)
    return shards.load_units(target)


def test_a_cell_holds_the_lesion_share_of_its_part_of_the_input() -> None:
    """A wide slice is padded to a square, as is its grid; one lesion pixel is enough for a non-zero cell."""
    outline = np.zeros((64, 128), bool)
    outline[8:16, 40:48] = True  # 32 rows of border above: cells 10 and 11 across, 10 and 11 down
    grid = lesion_grid.lesion_shares(outline)
    assert {tuple(map(int, cell)) for cell in np.argwhere(grid)} == {(10, 10), (10, 11), (11, 10), (11, 11)}
    assert (grid[10:12, 10:12] == lesion_grid.FULL).all()
    pixels = preprocess.unit_pixels(
        outline.astype(np.float32) * 255, ValueUnit.DISPLAY, PixelSettings(lesion_grid.GRID, None)
    )
    np.testing.assert_allclose(pixels[:, :, 0], grid / lesion_grid.FULL, atol=1e-6)
    single_pixel = np.zeros((512, 1024), bool)
    single_pixel[100, 100] = True
    assert lesion_grid.lesion_shares(single_pixel).sum() == 1
    assert (lesion_grid.lesion_shares(np.ones((64, 128), bool))[:8] == 0).all(), "the border is never a lesion"


def test_masks_of_a_batch_reach_the_packed_units(masked: Path, brain: Task, tmp_path: Path) -> None:
    manifest.index_batch(masked, tmp_path / "batches/masked", brain)
    units = pack_batches([tmp_path / "batches/masked"], brain, tmp_path / "out")
    assert units.masks is not None and units.masks.shape == (8, 32, 32, 1) and units.masks.dtype == np.float32
    assert units.masked.all()
    is_tumour = (units.table["label"] == "tumour").to_numpy()
    np.testing.assert_array_equal(units.masks.max(axis=(1, 2, 3)) > 0, is_tumour)
    lesion_area = (units.table["lesion_mm"].to_numpy() / 2) ** 2 * np.pi  # mm², of a round lesion
    mask_area = units.masks.sum(axis=(1, 2, 3)) * (1.725 * 128 / 32) ** 2
    np.testing.assert_allclose(mask_area[is_tumour], lesion_area[is_tumour], rtol=0.25)
    pixels = preprocess.resize_by_area(units.pixels[np.flatnonzero(is_tumour)[0], :, :, 0], 32, 32)
    is_lesion = units.masks[np.flatnonzero(is_tumour)[0], :, :, 0] == 1
    assert pixels[is_lesion].mean() > pixels[~is_lesion].mean() + 0.2, "the contrast-enhanced lesion is bright"
    chosen = units.where(is_tumour)
    assert chosen.masks is not None
    np.testing.assert_array_equal(chosen.masks, units.masks[is_tumour])


def test_units_without_a_mask_are_marked(masked: Path, batch: Path, lung: Task, brain: Task, tmp_path: Path) -> None:
    manifest.index_batch(batch, tmp_path / "lung/plain", lung)
    assert not (tmp_path / "lung/plain" / lesion_grid.NAME).exists()
    unmasked_units = pack_batches([tmp_path / "lung/plain"], lung, tmp_path / "none")
    assert (
        unmasked_units.masks is None
        and not unmasked_units.masked.any()
        and unmasked_units.where(unmasked_units.labels == 0).masks is None
    )
    edit_rows(masked, lambda rows: [row.update(mask="") for row in rows[:3]] and None)
    manifest.index_batch(masked, tmp_path / "brain/a", brain)
    phantom_batch.write_batch(tmp_path / "inbox/b", brain, 3, study.usual_scanner(brain), 4, slices=1)
    manifest.index_batch(tmp_path / "inbox/b", tmp_path / "brain/b", brain)
    units = pack_batches([tmp_path / "brain/a", tmp_path / "brain/b"], brain, tmp_path / "some")
    assert units.masked.tolist() == [False] * 3 + [True] * 5 + [False] * 3
    assert units.masks is not None and np.isnan(units.masks[~units.masked]).all()
    assert sorted(path.name for path in (tmp_path / "some").glob("*.npz")) == ["a.masks.npz"]
    (tmp_path / "some/a.masks.npz").write_bytes(b"PK")
    with pytest.raises(Fault, match=r"a\.masks\.npz is damaged"):
        shards.load_units(tmp_path / "some")
    pack_batches([tmp_path / "brain/b"], brain, tmp_path / "some")
    assert not list((tmp_path / "some").glob("*.npz")), "masks of a removed batch are removed"


def test_only_the_grid_is_stored(masked: Path, brain: Task, tmp_path: Path) -> None:
    """The headers of the mask files name the patient; neither these files nor their names are stored."""
    patient_ids = {row["patient_id"] for row in read_metadata(masked).to_dict("records")}
    headers = [gzip.decompress(path.read_bytes())[:400] for path in (masked / "masks").iterdir()]
    assert all(any(name.encode() in head for name in patient_ids) for head in headers)
    target = tmp_path / "staging"
    manifest.index_batch(masked, target, brain)
    paths = [path for path in target.rglob("*") if path.is_file()]
    assert lesion_grid.NAME in {path.name for path in paths} and len(paths) == 4 + 4  # scans, manifest, shard, masks
    for path in paths:
        content = path.read_bytes()
        assert not any(name.encode() in content or name.encode("utf-32-le") in content for name in patient_ids), path
    with np.load(target / lesion_grid.NAME) as arrays:
        assert set(arrays.files) == {"units", "shares"} and arrays["shares"].dtype == np.uint8
    assert (target / lesion_grid.NAME).stat().st_size < 12_000  # 1,024 cells of each of 8 units


def test_the_same_batch_gives_the_same_bytes_and_another_mask_another_digest(
    masked: Path, brain: Task, tmp_path: Path
) -> None:
    digests = [manifest.index_batch(masked, tmp_path / name, brain).digest for name in ("one", "two")]
    assert (tmp_path / "one/masks.npz").read_bytes() == (tmp_path / "two/masks.npz").read_bytes()
    assert digests == [read_digest(masked, brain)] * 2
    names = sorted((masked / "masks").iterdir())
    names[0].write_bytes(names[1].read_bytes())
    assert read_digest(masked, brain) != digests[0]


def test_narrowing_removes_the_masks_of_other_units(masked: Path, brain: Task, tmp_path: Path) -> None:
    manifest.index_batch(masked, tmp_path / "old", brain)
    (tmp_path / "new").mkdir()
    units = manifest.read_manifest(tmp_path / "old/manifest.csv")["unit_id"].tolist()
    grids = lesion_grid.read_grids(tmp_path / "old/masks.npz")
    lesion_grid.narrow(tmp_path / "old", tmp_path / "new", units[2:])
    narrowed = lesion_grid.read_grids(tmp_path / "new/masks.npz")
    assert list(narrowed) == units[2:] and units[0].encode("utf-32-le") not in (tmp_path / "new/masks.npz").read_bytes()
    assert all(np.array_equal(narrowed[unit], grids[unit]) for unit in narrowed)
    lesion_grid.narrow(tmp_path / "new", tmp_path / "new", [])
    assert not (tmp_path / "new/masks.npz").exists()


def test_a_mask_of_another_shape_refuses_its_scan_by_row(masked: Path, brain: Task, tmp_path: Path) -> None:
    names = [row["mask"] for row in read_metadata(masked).to_dict("records")]
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masked / "masks/small.png")
    (masked / names[2]).write_bytes(b"no scan at all")
    edit_rows(masked, lambda rows: [row.update(mask="masks/small.png") for row in rows[:2]] and None)
    indexed = manifest.index_batch(masked, tmp_path / "staging", brain)
    reasons = [refused.reason for refused in indexed.refused]
    assert len(indexed.manifest) == 4 and len(reasons) == 2
    assert reasons[0] == (
        "the mask of row 2: is 1 × 9 × 9, its scan 4 × 128 × 128 (slices × rows × columns); draw it on that very scan"
    )
    assert reasons[1].startswith("the mask of row 4: is not DICOM")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.png", "row 2: mask is not a plain path"),
        ("masks/gone.png", "1 files that metadata.csv names"),
        ("masks", "row 2 is not a regular file"),
        ("masks/link.png", "row 2 is a link"),
    ],
)
def test_a_mask_is_a_file_of_the_batch(masked: Path, name: str, message: str) -> None:
    (masked / "masks/link.png").symlink_to(masked / "metadata.csv")
    edit_rows(masked, lambda rows: rows[0].update(mask=name))
    with pytest.raises(Fault, match=message):
        read_metadata(masked)


def test_an_import_includes_the_masks(masked: Path, brain: Task, tmp_path: Path) -> None:
    """Imported volumes with masks, laid out as in a public set, give the same grids as the original batch."""
    for number, row in enumerate(read_metadata(masked).drop_duplicates("file_name").to_dict("records")):
        folder = tmp_path / "set" / f"{number:02d}"
        folder.mkdir(parents=True)
        shutil.copy(masked / row["file_name"], folder / "Pre_Scan.nii.gz")
        shutil.copy(masked / row["mask"], folder / "Pre_Mask.nii.gz")
    assert len(pair_volumes(tmp_path / "set", None)) == 4
    record = import_folder(tmp_path / "set", tmp_path / "inbox/taken", brain)
    assert (record["files"], record["rows"], record["blank_slices_left_out"]) == (4, 8, 8)
    table = read_metadata(tmp_path / "inbox/taken")
    assert set(table["mask"]) == {f"{number:02d}/Pre_Mask.nii.gz" for number in range(4)}
    second_record = import_folder(tmp_path / "inbox/taken", tmp_path / "inbox/again", brain)
    assert second_record["layout"] == "metadata.csv"
    tree = fingerprint.hash_folder(tmp_path / "inbox/again/00")
    assert set(tree) == {"Pre_Mask.nii.gz", "Pre_Scan.nii.gz"}
    for name, source in (("first", masked), ("second", tmp_path / "inbox/again")):
        assert not manifest.index_batch(source, tmp_path / name, brain).refused
    first, second = (lesion_grid.read_grids(tmp_path / name / "masks.npz") for name in ("first", "second"))
    assert first.keys() == second.keys() and all(np.array_equal(first[unit], second[unit]) for unit in first)


@pytest.mark.usefixtures("home")
def test_real_masks_match_the_network_input(real_data: Path, tmp_path: Path, brain: Task) -> None:
    for name in ("01", "02"):
        shutil.copytree(real_data / "brain-mr-tumor-progression" / name, tmp_path / "set" / name)
    import_folder(tmp_path / "set", tmp_path / "inbox/pre", brain, only="Pre*")
    indexed = manifest.index_batch(tmp_path / "inbox/pre", tmp_path / "pre", brain)
    units = pack_batches([tmp_path / "pre"], brain, tmp_path / "out")
    assert not indexed.refused and units.masked.all() and units.masks is not None
    np.testing.assert_array_equal(units.masks.max(axis=(1, 2, 3)) > 0, units.labels == 1)
    row = indexed.manifest[indexed.manifest["label"] == "tumour"].iloc[5]
    mask = read_scan("mask", (tmp_path / "set/01/Pre_Mask.nii.gz").read_bytes()).pixels[int(row["slice"])]
    pixels = preprocess.unit_pixels(255.0 * (mask > 0), ValueUnit.DISPLAY, PixelSettings(32, None))
    index = units.table["unit_id"].tolist().index(row["unit_id"])
    np.testing.assert_allclose(units.masks[index], pixels, atol=1 / 255 + 1e-6)


def volume(values: np.ndarray) -> bytes:
    import nibabel

    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = -100, -90, 20
    return bytes(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine).to_bytes())


@pytest.fixture(scope="module")
def lesion() -> np.ndarray:
    lesion = np.zeros((4, 40, 44), np.uint8)
    lesion[1:3, 10:18, 12:20] = 1
    return lesion


def test_nan_in_a_mask_is_no_lesion(lesion: np.ndarray) -> None:
    scan = read_scan("scan", volume(np.random.default_rng(0).integers(0, 900, lesion.shape).astype(np.int16)))
    content = volume(np.where(lesion, 1, np.nan).astype(np.float32))
    for values in ((), (1.0,)):
        assert lesion_grid.read_lesion_mask("m", content, scan, values).lesion.sum() == lesion.sum()


@pytest.mark.parametrize("values", [(), (1.0,)])
def test_an_inverted_mask_is_refused(lesion: np.ndarray, values: tuple[float, ...]) -> None:
    scan = read_scan("scan", volume(np.random.default_rng(0).integers(0, 900, lesion.shape).astype(np.int16)))
    with pytest.raises(Fault, match="may be inverted"):
        lesion_grid.read_lesion_mask("m", volume(1 - lesion), scan, values)
    large = lesion.copy()
    large[1, :, :] = 1
    large[2, :, 4:] = 1
    assert lesion_grid.read_lesion_mask("m", volume(large), scan, values).lesion.sum() == large.sum()


def test_a_scan_in_place_of_a_mask_is_refused(lesion: np.ndarray) -> None:
    content = volume(np.random.default_rng(0).integers(0, 900, lesion.shape).astype(np.int16))
    with pytest.raises(Fault, match="as a scan does and no mask"):
        lesion_grid.read_lesion_mask("m", content, read_scan("scan", content), (100.0,))
