"""A folder of labelled scans -> the manifest table and de-identified copies, in one pass over each file."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data import anonymise, describe, labels, person, pixels, read
from data.labels import metadata
from data.record import MANIFEST, Scan, Task
from data.split import check_cluster
from lineage import fingerprint
from lineage.fault import Fault

__all__ = ["COLUMNS", "TEXT", "Indexed", "Refused", "batch_digest", "embedded", "embeddings", "index_batch", "metadata",
           "read_manifest"]  # fmt: skip

log = logging.getLogger(__name__)

COLUMNS = (*MANIFEST, *describe.FACTS, *describe.DESCRIPTION, "embedding")
NUMBERS = ("slice", "age", "lesion_mm", *describe.DESCRIPTION)
TEXT = {name: str for name in COLUMNS if name not in NUMBERS}
MAX_FILE = 2**30


@dataclass(frozen=True)
class Refused:
    """A file that can't be a scan of this batch: its base name, and why, in one sentence."""

    file: str
    reason: str


@dataclass(frozen=True)
class Indexed:
    """What a batch holds: one row for each unit, the files refused, and the digest that says "this very batch"."""

    manifest: pd.DataFrame
    refused: list[Refused]
    digest: str


@dataclass(frozen=True)
class _Examined:
    """One file after its single pass: its hash, its units (or why it is refused), its de-identified copy."""

    file_name: str
    sha256: str
    units: list[dict[str, Any]]
    stored: Path | None
    refusal: str


def index_batch(source: Path, target: Path, task: Task, workers: int = 2) -> Indexed:
    """Read, hash, de-identify and describe every scan that metadata.csv names, once each.

    Writes de-identified copies into `target`/scans, named by content, and `target`/manifest.csv. A file that can't be
    used is refused by name and the rest goes on; Fault where the batch as a whole can't be trusted.
    """
    check_cluster(task)
    table = metadata(source)
    if table["task"].iloc[0] != task.name:
        raise Fault(f"{source.name}: its rows belong to task {table['task'].iloc[0]!r}, not to {task.name!r}")
    shutil.rmtree(target / "scans", ignore_errors=True)
    (target / "scans").mkdir(parents=True)
    jobs = [(source, str(name), rows, target / "scans", task) for name, rows in table.groupby("file_name", sort=False)]
    with ThreadPoolExecutor(workers) as pool:
        examined = list(pool.map(lambda job: _examine(*job), jobs))
    manifest = pd.DataFrame(_rows(examined), columns=list(COLUMNS))
    manifest.to_csv(target / "manifest.csv", index=False, lineterminator="\n")
    refused = [Refused(PurePosixPath(one.file_name).name, one.refusal) for one in examined if one.refusal]
    digest = _digest(source, {one.file_name: one.sha256 for one in examined})
    log.info("%s: %d units in %d files, %d refused", source.name, len(manifest), len(examined), len(refused))
    return Indexed(manifest, refused, digest)


def batch_digest(source: Path) -> str:
    """One hash over metadata.csv and every file that it names: the same batch under another name has the same one."""
    names = dict.fromkeys(metadata(source)["file_name"])
    return _digest(source, {name: fingerprint.file_sha256(source / name) for name in names})


def read_manifest(path: Path) -> pd.DataFrame:
    """A batch's manifest.csv, with text as text ("" where empty) and numbers as numbers (NaN where empty)."""
    table = pd.read_csv(path, dtype=TEXT)
    return table.fillna({name: "" for name in TEXT if name in table})


def embedded(unit_pixels: NDArray[np.float32]) -> str:
    """The descriptor's vector of one slice (size × size × 1 in [0, 1]) as text: base64 of 32 half-precision numbers."""
    return base64.b64encode(describe.embed(unit_pixels).astype("<f2").tobytes()).decode()


def embeddings(column: pd.Series[str]) -> NDArray[np.float32]:
    """The descriptor's vectors of a manifest, n × 32, out of their text form."""
    raw = b"".join(base64.b64decode(text) for text in column)
    return np.frombuffer(raw, dtype="<f2").astype(np.float32).reshape(len(column), -1)


def _digest(source: Path, files: dict[str, str]) -> str:
    return fingerprint.digest({"metadata": fingerprint.file_sha256(source / labels.NAME), "files": files})


def _examine(source: Path, file_name: str, rows: pd.DataFrame, scans: Path, task: Task) -> _Examined:
    """The single pass over one file. Whatever is wrong with it becomes its refusal."""
    path, sha256 = source / file_name, ""
    try:
        if path.stat().st_size > MAX_FILE:
            sha256 = fingerprint.file_sha256(path)
            raise Fault(f"larger than {MAX_FILE // 2**20} MiB; divide it")
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        scan = read.read(path.name, content)
        told = _told(rows, len(scan.pixels))
        whole = told[min(told)]
        new_name, clean = anonymise.anonymise(path.name, content, whole)
        facts = {"sha256": sha256, "stored_sha256": hashlib.sha256(clean).hexdigest()}
        facts |= person.who(whole, scan, sha256)
        units = [_unit(scan, number, row, task) | facts for number, row in sorted(told.items())]
        stored = _store(scans, sha256, new_name, clean)
    except (Fault, OSError) as error:
        return _Examined(file_name, sha256, [], None, str(error).removeprefix(f"{path.name}: "))
    return _Examined(file_name, sha256, units, stored, "")


def _told(rows: pd.DataFrame, slices: int) -> dict[int, dict[str, str]]:
    """What the metadata says of each slice that it speaks of; a row without `slice` speaks of them all."""
    for name in ("patient_id", "group"):
        if rows[name].nunique() > 1:
            raise Fault(f"its rows in {labels.NAME} name {rows[name].nunique()} different values of {name}; mend them")
    if not (rows["patient_id"].iloc[0] or rows["group"].iloc[0]):
        raise Fault(f"its row in {labels.NAME} has neither patient_id nor group, so nobody knows whose scan it is")
    told: dict[int, dict[str, str]] = {}
    for text, heard in rows.groupby("slice", sort=True):
        resolved = labels.resolve(heard)
        for number in _slices(str(text), slices):
            if number in told:
                raise Fault(
                    f"its rows in {labels.NAME} name a slice twice, or some name a slice and others none; mend them"
                )
            told[number] = resolved
    return told


def _slices(text: str, slices: int) -> range:
    if not text:
        return range(slices)
    if not text.isdecimal() or int(text) >= slices:
        raise Fault(f"slice {text!r} is not one of its {slices}, counted from 0")
    return range(int(text), int(text) + 1)


def _unit(scan: Scan, number: int, row: dict[str, str], task: Task) -> dict[str, Any]:
    """One slice: what the metadata says of it, what is measured on it, and its three kinds of likeness."""
    picture = np.ascontiguousarray(scan.pixels[number])
    small = pixels.unit_pixels(picture, scan.units, task.pixels)
    said = {name: row[name] for name in ("task", "label", "truth", "site", "labeller", "labelled_at", "stage")}
    return said | describe.describe(picture, scan) | {
        "slice": number,
        "lesion_mm": person.number(row["lesion_mm"], "lesion_mm"),
        "pixels_sha256": hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest(),
        "dhash": describe.dhash(small),
        "embedding": embedded(small),
    }  # fmt: skip


def _rows(examined: list[_Examined]) -> Iterator[dict[str, Any]]:
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
            name = one.sha256[:16] + _suffix(one.stored.name)
            one.stored.rename(one.stored.with_name(name))
            seen[one.sha256] = (f"scans/{name}", one.units[0]["stored_sha256"])
        file, stored_sha256 = seen[one.sha256]
        suffix = f"-copy{copies[one.sha256]}" if copies[one.sha256] > 1 else ""
        for unit in one.units:
            unit_id = f"{one.sha256[:16]}-{unit['slice']:03d}{suffix}"
            yield unit | {"unit_id": unit_id, "file": file, "stored_sha256": stored_sha256}


def _store(scans: Path, sha256: str, new_name: str, content: bytes) -> Path:
    """Write a de-identified copy under a name that no other thread uses; `_rows` gives it its final one."""
    path = scans / f"{sha256[:16]}-{os.urandom(4).hex()}{_suffix(new_name)}"
    path.write_bytes(content)
    return path


def _suffix(name: str) -> str:
    _, dot, suffix = name.partition(".")
    return dot + suffix
