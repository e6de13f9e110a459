"""A folder of labelled scans -> the manifest table and de-identified copies, in one pass over each file."""

from __future__ import annotations

import base64
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.batch import lesion_grid, metadata_table, pixel_cache
from data.batch.examine_scan import Examined, Job, embedded, examine, scan_sha256, suffix
from data.batch.metadata_table import metadata
from data.parallel import spread
from data.patients.contradictions import SIGNS
from data.record import MANIFEST, Task, check_cluster
from data.scan import slice_features
from data.settings import Disagreement
from lineage import fingerprint
from lineage.errors import Fault

__all__ = [
    "COLUMNS",
    "TEXT",
    "IndexedBatch",
    "RefusedFile",
    "batch_digest",
    "embedded",
    "embeddings",
    "index_batch",
    "read_metadata",
    "read_manifest",
]

log = logging.getLogger(__name__)

COLUMNS = (
    *MANIFEST,
    *slice_features.FACTS,
    *slice_features.DESCRIPTION,
    *slice_features.CHECKED,
    "embedding",
    "thumbnail",
)
NUMBERS = ("slice", "age", "lesion_mm", *slice_features.DESCRIPTION, *slice_features.CHECKED)
LATER = ("outlined", *SIGNS)  # columns that the first manifests do not have
TEXT = {name: str for name in COLUMNS if name not in NUMBERS}


@dataclass(frozen=True)
class Refused:
    """A file that can't be a scan of this batch: its row of metadata and its hash, and why, in one sentence."""

    file: str
    reason: str


@dataclass(frozen=True)
class Indexed:
    """What a batch holds: one row for each unit, the files refused, the digest that says "this very batch", the row
    of metadata.csv that each unit is named in, and the files of series that are none of their slices."""

    manifest: pd.DataFrame
    refused: list[Refused]
    digest: str
    rows: dict[str, int] = field(default_factory=dict)
    left_out: tuple[Refused, ...] = ()

    def warnings(self) -> list[str]:
        """What was left out of series, file by file, as one sentence; none where nothing was."""
        named = "; ".join(f"{one.file} ({one.reason})" for one in self.left_out)
        count = len(self.left_out)
        return [f"{count} file{'s' * (count > 1)} of series left out: {named}"] if named else []


def index_batch(
    source: Path, target: Path, task: Task, workers: int = 2, disagreement: Disagreement = Disagreement.MAJORITY
) -> Indexed:
    """Read, hash, de-identify and describe every scan that metadata.csv names, once each.

    Writes de-identified copies into `target`/scans, named by content, `target`/manifest.csv, what a network would see
    of every unit (data/batch/pixel_cache.py), and where its lesion is, if the batch says so
    (data/batch/lesion_grid.py). A file that
    can't be used is refused by name and the rest goes on; Fault where the batch as a whole can't be trusted.
    """
    check_cluster(task)
    table = metadata(source)
    if table["task"].iloc[0] != task.name:
        raise Fault(f"{source.name}: its rows belong to another task than {task.name}; give each task a batch")
    for name in ("scans", pixel_cache.PARTS):
        shutil.rmtree(target / name, ignore_errors=True)
        (target / name).mkdir(parents=True)
    told: dict[str, list[dict[str, str]]] = {}
    first: dict[str, int] = {}
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        told.setdefault(row["file_name"], []).append({str(column): str(cell) for column, cell in row.items()})
        first.setdefault(row["file_name"], number)
    jobs = [Job(source, name, first[name], rows, target, task, disagreement) for name, rows in told.items()]
    examined = spread(examine, jobs, workers)
    lesion_grid.meaning({name: values for one in examined for name, values in one.mask_values.items()})
    rows = list(_rows(examined))
    manifest = pd.DataFrame(rows, columns=list(COLUMNS))
    manifest.to_csv(target / "manifest.csv", index=False, lineterminator="\n")
    pixel_cache.join(target, [one.prepared for one in examined if one.prepared], manifest["unit_id"].tolist(), task)
    drawn = {row["unit_id"]: row["outline"] for row in rows if row["outline"] is not None}
    lesion_grid.write(target / lesion_grid.NAME, drawn)
    refused = [Refused(called(first[one.file_name], one.sha256), one.refusal) for one in examined if one.refusal]
    left_out = tuple(
        Refused(f"row {first[one.file_name]}, {file}", why) for one in examined for file, why in one.left_out
    )
    digest = _digest(source, table, {one.file_name: one.sha256 for one in examined})
    log.info("%s: %d units in %d files, %d refused", source.name, len(manifest), len(examined), len(refused))
    named = {row["unit_id"]: first[row["file_name"]] for row in rows}
    return Indexed(manifest, refused, digest, named, left_out)


def called(row: int, sha256: str) -> str:
    """What a refused file is called wherever that is written down: its own name may be a patient's."""
    return f"row {row}, sha256 {sha256[:8]}" if sha256 else f"row {row}"


def batch_digest(source: Path) -> str:
    """One hash over metadata.csv and every file that it names: the same batch under another name has the same one."""
    table = metadata(source)
    names = {} if metadata_table.corrects(table) else dict.fromkeys(table["file_name"])
    return _digest(source, table, {name: scan_sha256(source / name) for name in names})


def read_manifest(path: Path) -> pd.DataFrame:
    """A batch's manifest.csv, with text as text ("" where empty) and numbers as numbers (NaN where empty).

    The signs of a person, which older manifests lack, are empty there.
    """
    table = pd.read_csv(path, dtype=TEXT)
    if "pixels_sha256" in table:
        raise Fault(f"{path} was written before pixels were hashed by BLAKE3; ingest the batch into a new workspace")
    for name in LATER:
        table[name] = table.get(name, "")
    return table.fillna({name: "" for name in TEXT if name in table})


def embeddings(column: pd.Series[str]) -> NDArray[np.float32]:
    """The descriptor's vectors of a manifest, n × 32, out of their text form."""
    raw = b"".join(base64.b64decode(text) for text in column)
    return np.frombuffer(raw, dtype="<f2").astype(np.float32).reshape(len(column), -1)


def _digest(source: Path, table: pd.DataFrame, files: dict[str, str]) -> str:
    masks = [] if metadata_table.corrects(table) else sorted(set(table["mask"]) - {""})
    files = files | {name: fingerprint.file_sha256(source / name) for name in masks}
    return fingerprint.digest({"metadata": fingerprint.file_sha256(source / metadata_table.NAME), "files": files})


def _rows(examined: list[Examined]) -> Iterator[dict[str, Any]]:
    """The manifest's rows in the order of metadata.csv; an exact copy of a file shares the first one's stored scan."""
    seen: dict[str, tuple[str, str]] = {}
    copies: dict[str, int] = {}
    for one in examined:
        if one.stored is None:
            continue
        copies[one.sha256] = copies.get(one.sha256, 0) + 1
        if one.sha256 in seen:
            one.stored.unlink()
        else:
            name = one.sha256[:16] + suffix(one.stored.name)
            one.stored.rename(one.stored.with_name(name))
            seen[one.sha256] = (f"scans/{name}", one.units[0]["stored_sha256"])
        file, stored_sha256 = seen[one.sha256]
        copy = f"-copy{copies[one.sha256]}" if copies[one.sha256] > 1 else ""
        for unit in one.units:
            unit_id = f"{one.sha256[:16]}-{unit['slice']:03d}{copy}"
            yield unit | {
                "unit_id": unit_id,
                "file": file,
                "stored_sha256": stored_sha256,
                "file_name": one.file_name,
            }
