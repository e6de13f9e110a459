"""Admitted batches -> packed shards of network input, and back into arrays for training and evaluation."""

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
from data.parallel import run_parallel
from data.record import PixelSettings, Side, Task
from data.record import Units as ValueUnit
from data.scan import preprocess, read
from data.scan.slice_features import DESCRIPTION
from lineage import fingerprint
from lineage.errors import Fault

log = logging.getLogger(__name__)

UNITS_FILE = "units.csv"
SUMS = "shards.sha256"  # as sha256sum writes it, so that `sha256sum -c` checks a folder anywhere
FROM_MANIFEST = ("unit_id", "cluster", "case", "label", "site", "scanner", "sex", "age", "lesion_mm", *DESCRIPTION)
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
    *DESCRIPTION,
    "shard",
    "row",
)
TEXT = ("unit_id", "batch", "cluster", "case", "label", "side", "site", "scanner", "sex", "shard")


@dataclass(frozen=True)
class Units:
    """Units side by side: `table` (the columns of units.csv), `pixels` (n, size, size, 1) float32 in [0, 1],
    `labels` (n,) as positions among the task's classes, `masks` (n, g, g, 1) float32: the share of each cell of a
    coarse grid over the pixels that the lesion takes, NaN for a unit that came without a mask; None where all did."""

    table: pd.DataFrame
    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.float32] | None = None

    def where(self, mask: NDArray[np.bool_] | pd.Series[bool]) -> Units:
        """The units for which `mask` (n,) is true, in the same order."""
        chosen = np.asarray(mask, dtype=bool)
        masks = None if self.masks is None else self.masks[chosen]
        return Units(self.table[chosen].reset_index(drop=True), self.pixels[chosen], self.labels[chosen], masks)

    @property
    def masked(self) -> NDArray[np.bool_]:
        """Which units (n) came with a mask, be it empty."""
        if self.masks is None:
            return np.zeros(len(self.labels), bool)
        return np.asarray(~np.isnan(self.masks[:, 0, 0, 0]))


def pack(batches: list[Path], cohorts: pd.DataFrame, task: Task, target: Path, workers: int = 2) -> None:
    """Prepare every unit of the batches once: `target`/units.csv, for each batch a shard `target`/<batch>.npy, and
    `target`/<batch>.masks.npz for those that came with masks.

    A shard is float32, units × size × size × 1. Batches go in the order of their names, units in the order of their
    manifest, so the same input gives the same bytes. A label that a later batch corrected is read as corrected.
    Fault for a cluster without a side, a label that the task does not know, or a stored scan whose hash is not the
    manifest's.
    """
    if not batches:
        raise Fault(f"{task.name}: there is no admitted batch yet; run `oncoloop ingest` on a labelled folder first")
    target.mkdir(parents=True, exist_ok=True)
    for stale in [*target.glob("*.npy"), *target.glob("*.npz")]:
        stale.unlink()
    tables = []
    corrected = label_corrections.given(batches[0].parent)
    for batch in sorted(batches, key=lambda path: path.name):
        table = _units(batch, cohorts, task, corrected)
        if table.empty:  # a batch of corrections
            continue
        _write_shard(batch, table, task, target / f"{batch.name}.npy", workers)
        grids = lesion_grid.read_grids(batch / lesion_grid.NAME)
        lesion_grid.write(
            target / _masks(batch.name), {unit: grids[unit] for unit in table["unit_id"] if unit in grids}
        )
        tables.append(table)
        log.info("%s: %d units of %s packed", task.name, len(table), batch.name)
    units = pd.concat(tables, ignore_index=True)
    units[list(UNITS)].to_csv(target / UNITS_FILE, index=False, lineterminator="\n")
    files = [UNITS_FILE, *units["shard"].unique(), *sorted(path.name for path in target.glob("*.npz"))]
    sums = "".join(f"{fingerprint.file_sha256(target / name)}  {name}\n" for name in files)
    (target / SUMS).write_text(sums, encoding="utf-8")


def check(folder: Path) -> None:
    """Compare a packed folder with its `shards.sha256`. Fault names the first file that is missing or damaged."""
    if not (folder / SUMS).is_file():
        raise Fault(f"{folder / SUMS} is missing; run `oncoloop retrain`, or `dvc repro` in the workspace")
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        told, _, name = line.partition("  ")
        if not (folder / name).is_file() or fingerprint.file_sha256(folder / name) != told:
            raise Fault(f"{folder / name} is damaged: its bytes are not those that were packed; run `dvc checkout`")


def table(folder: Path) -> pd.DataFrame:
    """units.csv of a packed folder: text as text ("" where empty), numbers as numbers."""
    path = folder / UNITS_FILE
    if not path.is_file():
        raise Fault(f"{path} is missing; run `oncoloop retrain`, or `dvc repro` in the workspace")
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str)).fillna(dict.fromkeys(TEXT, ""))


def load(folder: Path, sides: list[Side | str] | None = None) -> Units:
    """The units of a packed folder (of the named sides alone); Fault where a shard is damaged."""
    units = table(folder)
    check(folder)
    if sides is not None:
        units = units[units["side"].isin([str(side) for side in sides])].reset_index(drop=True)
    if units.empty:
        raise Fault(f"{folder}: no unit on the side {', '.join(map(str, sides or []))}; admit more patients")
    shards = {name: np.load(folder / name, mmap_mode="r") for name in units["shard"].unique()}
    shape = next(iter(shards.values())).shape[1:]
    stacked = np.empty((len(units), *shape), np.float32)
    for name, shard in shards.items():
        here = (units["shard"] == name).to_numpy()
        stacked[here] = shard[units.loc[here, "row"].to_numpy()]
    return Units(units, stacked, units["target"].to_numpy(np.int64), _stacked_masks(folder, units))


def _stacked_masks(folder: Path, units: pd.DataFrame) -> NDArray[np.float32] | None:
    """The masks of the units in their order, from the file of each batch; None where none has one."""
    whole = None
    for name, rows in units.groupby("batch", sort=False):
        found = lesion_grid.stack_grids(folder / _masks(str(name)), rows["unit_id"].tolist())
        if found is not None:
            if whole is None:
                whole = np.full((len(units), *found.shape[1:]), np.nan, np.float32)
            whole[rows.index.to_numpy()] = found
    return whole


def _masks(batch: str) -> str:
    return f"{batch}.{lesion_grid.NAME}"


def _units(batch: Path, cohorts: pd.DataFrame, task: Task, corrected: pd.DataFrame) -> pd.DataFrame:
    """The manifest of one batch with the side of every cluster; the columns after FROM_MANIFEST are for reading."""
    manifest = label_corrections.apply(batch_manifest.read_manifest(batch / "manifest.csv"), corrected)
    unknown = set(manifest["label"]) - set(task.classes)
    if unknown:
        raise Fault(f"{batch}: the label {sorted(unknown)[0]!r} is none of {', '.join(task.classes)}; mend the tasks")
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
class _Stored:
    """One stored scan to prepare: its hash, its `slices`, their `rows` in the shard, the `unit` of its values."""

    path: Path
    sha256: str
    slices: list[int]
    rows: list[int]
    shard: Path
    settings: PixelSettings
    unit: ValueUnit


def _write_shard(batch: Path, units: pd.DataFrame, task: Task, path: Path, workers: int) -> None:
    made = pixel_cache.ready_shard(batch, units["unit_id"].tolist(), task)
    if made is not None:
        shutil.copyfile(made, path)
        return
    size = task.pixels.size
    np.lib.format.open_memmap(path, "w+", np.float32, (len(units), size, size, 1)).flush()
    columns = units[["file", "stored_sha256", "units", "slice", "row"]].to_numpy().tolist()
    found: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
    for file, sha256, unit, number, row in columns:
        slices, rows = found.setdefault((str(file), str(sha256), str(unit)), ([], []))
        slices.append(int(number))
        rows.append(int(row))
    jobs = [
        _Stored(batch / file, sha256, slices, rows, path, task.pixels, ValueUnit(unit))
        for (file, sha256, unit), (slices, rows) in found.items()
    ]
    run_parallel(_prepare, jobs, workers)


def _prepare(stored: _Stored) -> None:
    """Write the slices of one scan into their rows of the shard."""
    content = stored.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != stored.sha256:
        raise Fault(f"{stored.path}: its bytes are not those that were admitted; restore it with `dvc checkout`")
    scan = read.read(stored.path.name, content)
    shard = np.load(stored.shard, mmap_mode="r+")
    for number, row in zip(stored.slices, stored.rows, strict=True):
        shard[row] = preprocess.unit_pixels(scan.pixels[number], stored.unit, stored.settings)
