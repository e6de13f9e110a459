"""The manifest of a batch: index a folder of labelled scans, and read a manifest back."""

from __future__ import annotations

import base64
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.batch import lesion_grid, pixel_cache
from data.batch.examine_scan import ExaminedScan, Job, embedding_text, examine_scan, suffix
from data.batch.incoming_batch import IncomingBatch, digest_files
from data.batch.metadata_table import read_metadata
from data.core_types import MANIFEST, SOURCE_COLUMNS, Task, check_cluster
from data.parallel import run_parallel
from data.patients.contradictions import SIGNS
from data.scan import slice_features
from data.settings import Disagreement
from lineage.errors import Fault

__all__ = [
    "COLUMNS",
    "TEXT",
    "IndexedBatch",
    "RefusedFile",
    "embedding_text",
    "embeddings",
    "index_batch",
    "index_incoming",
    "read_manifest",
    "read_metadata",
]

log = logging.getLogger(__name__)

COLUMNS = (
    *MANIFEST,
    *slice_features.FACTS,
    *slice_features.DESCRIPTION,
    *slice_features.RULE_ONLY,
    "embedding",
    "thumbnail",
)
NUMBERS = ("slice", "age", "lesion_mm", *slice_features.DESCRIPTION, *slice_features.RULE_ONLY)
LATER_COLUMNS = ("outlined", *SIGNS, *SOURCE_COLUMNS)  # columns that old manifests lack
EARLIER_COLUMNS = ("dhash",)  # columns that only old manifests have
TEXT = {name: str for name in COLUMNS if name not in NUMBERS}


@dataclass(frozen=True)
class RefusedFile:
    """A refused file: its metadata row and its hash, and the reason in one sentence."""

    file: str
    reason: str


@dataclass(frozen=True)
class IndexedBatch:
    """An indexed batch.

    `manifest` has one row per unit. `digest` identifies the batch. `rows` is the row of metadata.csv of every unit.
    `left_out` are the files of series that are none of their slices.
    """

    manifest: pd.DataFrame
    refused: list[RefusedFile]
    digest: str
    rows: dict[str, int] = field(default_factory=dict)
    left_out: tuple[RefusedFile, ...] = ()

    def warnings(self) -> list[str]:
        """One sentence that lists the files left out of series; empty if there are none."""
        listed = "; ".join(f"{file.file} ({file.reason})" for file in self.left_out)
        count = len(self.left_out)
        return [f"{count} file{'s' * (count > 1)} of series left out: {listed}"] if listed else []


def index_batch(
    source: Path, target: Path, task: Task, workers: int = 2, disagreement: Disagreement = Disagreement.MAJORITY
) -> IndexedBatch:
    """Read a folder that no flow judges, and index it as `index_incoming` does an incoming batch."""
    table = read_metadata(source)
    if table["task"].iloc[0] != task.name:
        raise Fault(f"{source.name}: its rows belong to another task than {task.name}; give each task a batch")
    indexed, scan_hashes = _index_scans(source, table, target, task, workers, disagreement)
    return replace(indexed, digest=digest_files(source, table, scan_hashes))


def index_incoming(
    batch: IncomingBatch, target: Path, workers: int = 2, disagreement: Disagreement = Disagreement.MAJORITY
) -> IndexedBatch:
    """Read, hash, de-identify and describe every scan of a batch once.

    Writes into `target`: de-identified copies in scans/, named by content; manifest.csv; the network input of every
    unit (data/batch/pixel_cache.py); and lesion grids, if the batch has masks (data/batch/lesion_grid.py). An unusable
    file is refused and the other files are indexed. Fault if the batch as a whole cannot be trusted, or if a scan is
    another than the one that the digest of the batch covers.
    """
    indexed, scan_hashes = _index_scans(batch.folder, batch.table, target, batch.task, workers, disagreement)
    changed = [name for name, sha256 in scan_hashes.items() if sha256 and sha256 != batch.scan_hashes[name]]
    if changed:
        raise Fault(
            f"{batch.name}: {len(changed)} files of the folder changed while the batch was judged; run `oncoloop "
            "ingest` again when it is complete"
        )
    return replace(indexed, digest=batch.digest)


def _index_scans(
    source: Path, table: pd.DataFrame, target: Path, task: Task, workers: int, disagreement: Disagreement
) -> tuple[IndexedBatch, dict[str, str]]:
    """The indexed batch without its digest, and the hash of each scan by its file name ("" if it was not read)."""
    check_cluster(task)
    for name in ("scans", pixel_cache.PARTS):
        shutil.rmtree(target / name, ignore_errors=True)
        (target / name).mkdir(parents=True)
    rows_by_file: dict[str, list[dict[str, str]]] = {}
    first_row: dict[str, int] = {}
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        rows_by_file.setdefault(row["file_name"], []).append({str(column): str(cell) for column, cell in row.items()})
        first_row.setdefault(row["file_name"], number)
    jobs = [Job(source, name, first_row[name], rows, target, task, disagreement) for name, rows in rows_by_file.items()]
    scans = run_parallel(examine_scan, jobs, workers)
    lesion_grid.check_one_meaning({name: values for scan in scans for name, values in scan.mask_values.items()})
    rows = list(_manifest_rows(scans))
    manifest = pd.DataFrame(rows, columns=list(COLUMNS))
    manifest.to_csv(target / "manifest.csv", index=False, lineterminator="\n")
    pixel_cache.join_parts(
        target, [scan.cached_pixels for scan in scans if scan.cached_pixels], manifest["unit_id"].tolist(), task
    )
    grids = {row["unit_id"]: row["outline"] for row in rows if row["outline"] is not None}
    lesion_grid.write_grids(target / lesion_grid.NAME, grids)
    refused = [
        RefusedFile(file_reference(first_row[scan.file_name], scan.sha256), scan.refusal)
        for scan in scans
        if scan.refusal
    ]
    left_out = tuple(
        RefusedFile(f"row {first_row[scan.file_name]}, {file}", reason)
        for scan in scans
        for file, reason in scan.left_out
    )
    log.info("%s: %d units in %d files, %d refused", source.name, len(manifest), len(scans), len(refused))
    row_by_unit = {row["unit_id"]: first_row[row["file_name"]] for row in rows}
    scan_hashes = {scan.file_name: scan.sha256 for scan in scans}
    return IndexedBatch(manifest, refused, "", row_by_unit, left_out), scan_hashes


def file_reference(row: int, sha256: str) -> str:
    """How messages and records refer to a file: by row and hash, because its name can contain a patient's name."""
    return f"row {row}, sha256 {sha256[:8]}" if sha256 else f"row {row}"


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest.csv: text columns as text ("" if empty), numbers as numbers (NaN if empty).

    Columns that older manifests lack are added empty; columns that only they have are left out. Fault for a manifest
    of before the BLAKE3 hashes.
    """
    table = pd.read_csv(path, dtype=TEXT, usecols=lambda name: name not in EARLIER_COLUMNS)
    if "pixels_sha256" in table:
        raise Fault(f"{path} was written before pixels were hashed by BLAKE3; ingest the batch into a new workspace")
    for name in LATER_COLUMNS:
        table[name] = table.get(name, "")
    return table.fillna({name: "" for name in TEXT if name in table})


def embeddings(column: pd.Series[str]) -> NDArray[np.float32]:
    """The descriptor vectors of a manifest, n × 32, decoded from text."""
    raw = b"".join(base64.b64decode(text) for text in column)
    return np.frombuffer(raw, dtype="<f2").astype(np.float32).reshape(len(column), -1)


def _manifest_rows(scans: list[ExaminedScan]) -> Iterator[dict[str, Any]]:
    """The manifest rows in the order of metadata.csv. Exact copies of a file share one stored scan."""
    stored_by_hash: dict[str, tuple[str, str]] = {}
    copy_count: dict[str, int] = {}
    for scan in scans:
        if scan.stored_path is None:
            continue
        copy_count[scan.sha256] = copy_count.get(scan.sha256, 0) + 1
        if scan.sha256 in stored_by_hash:
            scan.stored_path.unlink()
        else:
            name = scan.sha256[:16] + suffix(scan.stored_path.name)
            scan.stored_path.rename(scan.stored_path.with_name(name))
            stored_by_hash[scan.sha256] = (f"scans/{name}", scan.units[0]["stored_sha256"])
        file, stored_sha256 = stored_by_hash[scan.sha256]
        copy = f"-copy{copy_count[scan.sha256]}" if copy_count[scan.sha256] > 1 else ""
        for unit in scan.units:
            unit_id = f"{scan.sha256[:16]}-{unit['slice']:03d}{copy}"
            yield unit | {
                "unit_id": unit_id,
                "file": file,
                "stored_sha256": stored_sha256,
                "file_name": scan.file_name,
            }
