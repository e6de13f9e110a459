"""Packed shards of the network input of admitted batches: write them, and load them for training and evaluation."""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.batch import label_corrections, lesion_grid, pixel_cache
from data.batch import manifest as batch_manifest
from data.core_types import PixelSettings, Side, Task
from data.core_types import ValueUnit as ValueUnit
from data.parallel import run_parallel
from data.scan import preprocess, read
from data.scan.slice_features import DESCRIPTION
from lineage import fingerprint
from lineage.errors import Fault

log = logging.getLogger(__name__)

UNITS_FILE = "units.csv"
SUMS = "shards.sha256"  # in the format of sha256sum, for `sha256sum -c`
HEADER_FACTS = ("manufacturer", "model", "kernel")
FROM_MANIFEST = (
    *("unit_id", "cluster", "case", "label", "site", "scanner", "sex", "age", "lesion_mm"),
    *HEADER_FACTS,
    *DESCRIPTION,
)
UNITS = (
    "unit_id",
    "batch",
    "cluster",
    "case",
    "label",
    "target",
    "side",
    "epoch",
    "site",
    "scanner",
    "sex",
    "age",
    "lesion_mm",
    "slice",
    *HEADER_FACTS,
    *DESCRIPTION,
    "shard",
    "row",
)
TEXT = ("unit_id", "batch", "cluster", "case", "label", "side", "site", "scanner", "sex", *HEADER_FACTS, "shard")


@dataclass(frozen=True)
class Units:
    """n units in memory.

    `table` has the columns of units.csv. `pixels` is (n, size, size, 1), float32 in [0, 1]. `labels` (n,) are positions
    in the classes of the task. `masks` is (n, g, g, 1), float32: the lesion share of each cell of a coarse grid over
    the pixels; NaN for a unit without a mask; None if no unit has one.
    """

    table: pd.DataFrame
    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.float32] | None = None

    def where(self, mask: NDArray[np.bool_] | pd.Series[bool]) -> Units:
        """The units for which `mask` (n,) is true, in the same order."""
        is_chosen = np.asarray(mask, dtype=bool)
        masks = None if self.masks is None else self.masks[is_chosen]
        return Units(
            self.table[is_chosen].reset_index(drop=True), self.pixels[is_chosen], self.labels[is_chosen], masks
        )

    @property
    def masked(self) -> NDArray[np.bool_]:
        """Which units (n) have a mask, even if it is empty."""
        if self.masks is None:
            return np.zeros(len(self.labels), bool)
        return np.asarray(~np.isnan(self.masks[:, 0, 0, 0]))


def pack_shards(batches: list[Path], cohorts: pd.DataFrame, task: Task, target: Path, workers: int = 2) -> None:
    """Pack all units of the batches into the folder `target`.

    It writes units.csv, a shard <batch>.npy for each batch, and <batch>.masks.npz for a batch with masks. A shard is
    float32, units × size × size × 1. Batches are sorted by name and units are in manifest order, so the same input
    gives the same bytes. Corrected labels replace the original ones. Fault for a cluster without a side, a label that
    is no class of the task, or a stored scan with another hash than in the manifest.
    """
    if not batches:
        raise Fault(f"{task.name}: there is no admitted batch yet; run `oncoloop ingest` on a labelled folder first")
    target.mkdir(parents=True, exist_ok=True)
    for old_file in [*target.glob("*.npy"), *target.glob("*.npz")]:
        old_file.unlink()
    tables = []
    corrections = label_corrections.read_corrections(batches[0].parent)
    for batch in sorted(batches, key=lambda path: path.name):
        table = _batch_units(batch, cohorts, task, corrections)
        if table.empty:  # a batch of corrections
            continue
        _write_shard(batch, table, task, target / f"{batch.name}.npy", workers)
        grids = lesion_grid.read_grids(batch / lesion_grid.NAME)
        lesion_grid.write_grids(
            target / _mask_file(batch.name), {unit: grids[unit] for unit in table["unit_id"] if unit in grids}
        )
        tables.append(table)
        log.info("%s: %d units of %s packed", task.name, len(table), batch.name)
    units = pd.concat(tables, ignore_index=True)
    units[list(UNITS)].to_csv(target / UNITS_FILE, index=False, lineterminator="\n")
    files = [UNITS_FILE, *units["shard"].unique(), *sorted(path.name for path in target.glob("*.npz"))]
    sums = "".join(f"{fingerprint.file_sha256(target / name)}  {name}\n" for name in files)
    (target / SUMS).write_text(sums, encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Compare a packed folder with its `shards.sha256`. Fault with the first file that is missing or damaged."""
    if not (folder / SUMS).is_file():
        raise Fault(f"{folder / SUMS} is missing; run `oncoloop retrain`, or `dvc repro` in the workspace")
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        sha256, _, name = line.partition("  ")
        if not (folder / name).is_file() or fingerprint.file_sha256(folder / name) != sha256:
            raise Fault(f"{folder / name} is damaged: its bytes are not those that were packed; run `dvc checkout`")


def read_units_table(folder: Path) -> pd.DataFrame:
    """Read the units.csv of a packed folder: text as text ("" if empty), numbers as numbers."""
    path = folder / UNITS_FILE
    if not path.is_file():
        raise Fault(f"{path} is missing; run `oncoloop retrain`, or `dvc repro` in the workspace")
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str)).fillna(dict.fromkeys(TEXT, ""))


def load_units(folder: Path, sides: list[Side | str] | None = None) -> Units:
    """Load the units of a packed folder, or only those of `sides`. Fault if a shard is damaged or no unit is left."""
    units = read_units_table(folder)
    check_sums(folder)
    if sides is not None:
        units = units[units["side"].isin([str(side) for side in sides])].reset_index(drop=True)
    if units.empty:
        raise Fault(f"{folder}: no unit on the side {', '.join(map(str, sides or []))}; admit more patients")
    shards = {name: np.load(folder / name, mmap_mode="r") for name in units["shard"].unique()}
    shape = next(iter(shards.values())).shape[1:]
    pixels = np.empty((len(units), *shape), np.float32)
    for name, shard in shards.items():
        in_shard = (units["shard"] == name).to_numpy()
        pixels[in_shard] = shard[units.loc[in_shard, "row"].to_numpy()]
    return Units(units, pixels, units["target"].to_numpy(np.int64), _load_masks(folder, units))


def _load_masks(folder: Path, units: pd.DataFrame) -> NDArray[np.float32] | None:
    """The masks of the units in their order, from the file of each batch; None if no unit has one."""
    masks = None
    for name, rows in units.groupby("batch", sort=False):
        batch_masks = lesion_grid.stack_grids(folder / _mask_file(str(name)), rows["unit_id"].tolist())
        if batch_masks is not None:
            if masks is None:
                masks = np.full((len(units), *batch_masks.shape[1:]), np.nan, np.float32)
            masks[rows.index.to_numpy()] = batch_masks
    return masks


def _mask_file(batch: str) -> str:
    return f"{batch}.{lesion_grid.NAME}"


def _batch_units(batch: Path, cohorts: pd.DataFrame, task: Task, corrections: pd.DataFrame) -> pd.DataFrame:
    """The manifest of one batch with the side of every cluster, and the columns needed to read its scans."""
    manifest = label_corrections.apply_corrections(batch_manifest.read_manifest(batch / "manifest.csv"), corrections)
    unknown = set(manifest["label"]) - set(task.classes)
    if unknown:
        raise Fault(
            f"{batch}: the label {sorted(unknown)[0]!r} is none of {', '.join(task.classes)}; correct the tasks"
        )
    sides = cohorts[cohorts["task"] == task.name].drop_duplicates("cluster").set_index("cluster")
    missing = set(manifest["cluster"]) - set(sides.index)
    if missing:
        raise Fault(f"{batch}: {sorted(missing)[0]} is on no side of the cohorts; ingest the batch again")
    units = manifest[[*FROM_MANIFEST, "file", "slice", "stored_sha256", "units"]].copy()
    units["batch"], units["shard"], units["row"] = batch.name, f"{batch.name}.npy", np.arange(len(units))
    units["target"] = [task.classes.index(label) for label in units["label"]]
    for column in ("side", "epoch"):
        units[column] = units["cluster"].map(sides[column])
    return units


@dataclass(frozen=True)
class _StoredScan:
    """One stored scan to pack: its hash, its `slices`, their `rows` in the shard, and the `unit` of its values."""

    path: Path
    sha256: str
    slices: list[int]
    rows: list[int]
    shard: Path
    settings: PixelSettings
    unit: ValueUnit


def _write_shard(batch: Path, units: pd.DataFrame, task: Task, path: Path, workers: int) -> None:
    cached_shard = pixel_cache.ready_shard(batch, units["unit_id"].tolist(), task)
    if cached_shard is not None:
        shutil.copyfile(cached_shard, path)
        return
    size = task.pixels.size
    np.lib.format.open_memmap(path, "w+", np.float32, (len(units), size, size, 1)).flush()
    columns = units[["file", "stored_sha256", "units", "slice", "row"]].to_numpy().tolist()
    slices_by_scan: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
    for file, sha256, unit, number, row in columns:
        slices, rows = slices_by_scan.setdefault((str(file), str(sha256), str(unit)), ([], []))
        slices.append(int(number))
        rows.append(int(row))
    jobs = [
        _StoredScan(batch / file, sha256, slices, rows, path, task.pixels, ValueUnit(unit))
        for (file, sha256, unit), (slices, rows) in slices_by_scan.items()
    ]
    run_parallel(_pack_scan, jobs, workers)


def _pack_scan(scan_file: _StoredScan) -> None:
    """Write the slices of one scan into their rows of the shard. Fault if the bytes of the scan have changed."""
    content = scan_file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != scan_file.sha256:
        raise Fault(f"{scan_file.path}: its bytes are not those that were admitted; restore it with `dvc checkout`")
    scan = read.read_scan(scan_file.path.name, content)
    shard = np.load(scan_file.shard, mmap_mode="r+")
    for number, row in zip(scan_file.slices, scan_file.rows, strict=True):
        shard[row] = preprocess.unit_pixels(scan.pixels[number], scan_file.unit, scan_file.settings)
