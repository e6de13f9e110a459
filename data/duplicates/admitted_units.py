"""What is already admitted of a task, ready to be asked: a projection of the manifests that can be deleted any time."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.batch.manifest import read_manifest
from data.duplicates import index_segments
from data.duplicates.near_duplicates import Array, Clusters, Positions, candidates, pictures
from data.patients.identity_signs import APART, JOINING, SIGNS
from data.scan import thumbnail

log = logging.getLogger(__name__)
VERSION = 5  # of tables, thumbnails and vectors: another one is built anew
COLUMNS = (
    "unit_id",
    "file",
    "sha256",
    "pixels_blake3",
    "label",
    "patient",
    "cluster",
    "std",
    "thumbnail",
    "batch",
    *SIGNS,
)
TABLES = """
CREATE TABLE batches (batch TEXT PRIMARY KEY, content TEXT NOT NULL, units INTEGER NOT NULL);
CREATE TABLE units (
    id INTEGER PRIMARY KEY, unit_id TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL,
    pixels_blake3 TEXT NOT NULL, label TEXT NOT NULL, patient TEXT NOT NULL, cluster TEXT NOT NULL, std REAL NOT NULL,
    batch TEXT NOT NULL, spelling TEXT NOT NULL, header_patient TEXT NOT NULL, header_person TEXT NOT NULL,
    header_study TEXT NOT NULL, header_series TEXT NOT NULL, header_frame TEXT NOT NULL,
    header_instance TEXT NOT NULL, header_others TEXT NOT NULL, header_name TEXT NOT NULL, header_birth TEXT NOT NULL,
    group_spelling TEXT NOT NULL, segment INTEGER
);
CREATE TABLE pictures (id INTEGER PRIMARY KEY, thumbnail TEXT NOT NULL, vector BLOB NOT NULL);
CREATE TABLE owners (patient TEXT, cluster TEXT, batch TEXT, id INTEGER, PRIMARY KEY (patient, cluster, batch));
CREATE TABLE signs (sign TEXT, patient TEXT, cluster TEXT, batch TEXT, id INTEGER,
    PRIMARY KEY (sign, patient, cluster, batch));
CREATE INDEX unit_pixels ON units (pixels_blake3);
CREATE INDEX unit_files ON units (sha256);
CREATE INDEX unit_batch ON units (batch);
CREATE INDEX unit_segment ON units (segment);
"""
PART = 500  # values in one question, rows written at once
BROKEN = (
    sqlite3.DatabaseError,
    RuntimeError,
    ValueError,
    LookupError,
    OSError,
)  # what SQLite and Faiss say of a damaged file


def related(batches: Path, place: Path, new: pd.DataFrame) -> pd.DataFrame:
    """The admitted units that the leakage checks of a batch need to see, out of all below `batches`/*/manifest.csv.

    Those are: units with the same pixels or from the same file; one unit of each cluster (and batch) that a patient of
    the batch is in, or that a sign of the batch's patients stands for (data/patients/contradictions.py); and of each
    new picture its
    nearest pictures of other clusters. Columns: `COLUMNS`. The projection in the folder `place` is first brought up to
    date with the batches that came or went; a damaged one, or one of another version, is built anew from the manifests,
    which alone are the truth. Cost and memory are those of `new` and of the batches that came since; an index file is
    mapped, not read.
    """
    try:
        return _asked(batches, place, new)
    except BROKEN as error:
        log.warning("%s is damaged and is built anew: %s", place.name, error)
        shutil.rmtree(place, ignore_errors=True)
        return _asked(batches, place, new)


def forget(place: Path) -> None:
    """Delete a task's projection with every byte in it; the next question builds it anew."""
    shutil.rmtree(place, ignore_errors=True)


def _asked(batches: Path, place: Path, new: pd.DataFrame) -> pd.DataFrame:
    with _opened(place) as database:
        _bring_up_to_date(database, batches, place)
        numbers = {
            *_matching(database, "units", "pixels_blake3", new["pixels_blake3"]),
            *_matching(database, "units", "sha256", new["sha256"]),
            *_matching(database, "owners", "patient", new["patient"]),
            *_matching(database, "signs", "sign", _signs(new)["sign"]),
            *_near(database, place, new[pictures(new)] if len(new) else new),
        }
        return _units(database, sorted(numbers))


@contextmanager
def _opened(place: Path) -> Iterator[sqlite3.Connection]:
    """The projection's database, made if there is none of this version. What is deleted in it is overwritten."""
    place.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(place / "known.db", isolation_level=None)
    try:
        database.execute("PRAGMA secure_delete = ON")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"it is of version {version}, not {VERSION}")
        if version == 0:
            database.executescript(f"BEGIN; {TABLES} {index_segments.TABLE} PRAGMA user_version = {VERSION}; COMMIT;")
        yield database
    finally:
        database.close()


def _bring_up_to_date(database: sqlite3.Connection, batches: Path, place: Path) -> None:
    """Drop the batches that are gone or differ, take in those that came, each in one transaction."""
    there = {path.parent.name: _content(path) for path in sorted(batches.glob("*/manifest.csv"))}
    known = dict(database.execute("SELECT batch, content FROM batches"))
    gone = [name for name in known if there.get(name) != known[name]]
    if gone:
        _drop(database, place, gone)
    for name in there.keys() - known.keys() | set(gone) & there.keys():
        _take_in(database, name, there[name], read_manifest(batches / name / "manifest.csv"))
    index_segments.keep(database, place)


def _content(manifest: Path) -> str:
    """What tells a batch from another of its name: the hash of its `.dvc` file if there is one, its table's size."""
    pointer = manifest.parent.with_name(manifest.parent.name + ".dvc")
    told = hashlib.sha256(pointer.read_bytes()).hexdigest() if pointer.is_file() else str(manifest.stat().st_mtime_ns)
    return f"{told} {manifest.stat().st_size}"


def _drop(database: sqlite3.Connection, place: Path, gone: Sequence[str]) -> None:
    """Forget batches: their rows, and every index file that holds one of their vectors."""
    marks = ",".join("?" * len(gone))
    database.execute("BEGIN IMMEDIATE")
    held = f"SELECT DISTINCT segment FROM units WHERE batch IN ({marks}) AND segment > {index_segments.NONE}"
    index_segments.drop(database, place, [row[0] for row in database.execute(held, gone)])
    database.execute(f"DELETE FROM pictures WHERE id IN (SELECT id FROM units WHERE batch IN ({marks}))", gone)
    for table in ("units", "owners", "signs", "batches"):
        database.execute(f"DELETE FROM {table} WHERE batch IN ({marks})", gone)
    database.execute("COMMIT")


def _take_in(database: sqlite3.Connection, name: str, content: str, manifest: pd.DataFrame) -> None:
    table = manifest.assign(batch=name).reindex(columns=list(COLUMNS)).fillna({"thumbnail": "", "std": 0.0})
    table = table.fillna(dict.fromkeys(SIGNS, ""))
    database.execute("BEGIN IMMEDIATE")
    first = database.execute("SELECT coalesce(max(id), -1) + 1 FROM units").fetchone()[0]
    table.index = pd.RangeIndex(first, first + len(table))
    columns = [column for column in COLUMNS if column != "thumbnail"]
    marks = ",".join("?" * (len(columns) + 1))
    rows = table[columns].itertuples(name=None)
    database.executemany(f"INSERT INTO units (id, {', '.join(columns)}) VALUES ({marks})", rows)
    shown = table[pictures(table) & (table["thumbnail"] != "")]
    for at in range(0, len(shown), PART):
        part = shown["thumbnail"].iloc[at : at + PART]
        vectors = thumbnail.vectors(thumbnail.greys(part)).astype("<f2")
        stored = [
            (number, text, vector.tobytes())
            for number, text, vector in zip(part.index.tolist(), part, vectors, strict=True)
        ]
        database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", stored)
    hidden = [(index_segments.NONE, number) for number in sorted(set(table.index) - set(shown.index))]
    database.executemany("UPDATE units SET segment = ? WHERE id = ?", hidden)
    owners = table.drop_duplicates(["patient", "cluster"])[["patient", "cluster", "batch"]]
    told = [(*row, number) for number, *row in owners.itertuples(name=None)]
    database.executemany("INSERT INTO owners VALUES (?, ?, ?, ?)", told)
    named = _signs(table).drop_duplicates(["sign", "patient", "cluster"])
    signs = [(*row, number) for number, *row in named.itertuples(name=None)]
    database.executemany("INSERT INTO signs (patient, cluster, batch, sign, id) VALUES (?, ?, ?, ?, ?)", signs)
    database.execute("INSERT INTO batches VALUES (?, ?, ?)", (name, content, len(table)))
    database.execute("COMMIT")


def _signs(units: pd.DataFrame) -> pd.DataFrame:
    """One row for each sign of each unit, with the unit's patient and cluster, under the unit's number."""
    table = units.reindex(columns=["patient", "cluster", "batch", *SIGNS]).fillna("")
    parts = [
        table[["patient", "cluster", "batch"]].assign(sign=table[name].astype(str).str.split(APART)) for name in JOINING
    ]
    rows = pd.concat(parts).explode("sign")
    return rows[rows["sign"] != ""]


def _matching(database: sqlite3.Connection, table: str, column: str, values: pd.Series[str]) -> set[int]:
    found: set[int] = set()
    for part in _parts(sorted({str(value) for value in values})):
        marks = ",".join("?" * len(part))
        found |= {row[0] for row in database.execute(f"SELECT id FROM {table} WHERE {column} IN ({marks})", part)}
    return found


def _near(database: sqlite3.Connection, place: Path, new: pd.DataFrame) -> set[int]:
    """The numbers of the nearest pictures of other clusters."""
    if new.empty:
        return set()
    index = index_segments.opened(database, place)

    def find(queries: Array, count: int) -> tuple[Array, Positions]:
        return index_segments.search(index, queries, count)

    vectors = thumbnail.vectors(thumbnail.greys(new["thumbnail"]))
    clusters = new["cluster"].to_numpy(object)
    pairs = candidates(find, lambda numbers: _clusters(database, numbers), vectors, clusters)
    return set(pairs[:, 1].tolist())


def _clusters(database: sqlite3.Connection, numbers: Positions) -> Clusters:
    """The cluster of each of these units."""
    asked, places = np.unique(numbers, return_inverse=True)
    told = _select(database, "units", ("id", "cluster"), asked.tolist())
    clusters = dict(zip(told["id"], told["cluster"], strict=True))
    return np.array([clusters[number] for number in asked.tolist()], object)[places]


def _units(database: sqlite3.Connection, numbers: list[int]) -> pd.DataFrame:
    units = _select(database, "units", ("id", *(name for name in COLUMNS if name != "thumbnail")), numbers)
    shown = _select(database, "pictures", ("id", "thumbnail"), numbers)
    return units.merge(shown, on="id", how="left").fillna({"thumbnail": ""})[list(COLUMNS)]


def _select(database: sqlite3.Connection, table: str, columns: Sequence[str], numbers: list[int]) -> pd.DataFrame:
    rows: list[Any] = []
    for part in _parts(numbers):
        marks = ",".join("?" * len(part))
        rows += database.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE id IN ({marks}) ORDER BY id", part)
    return pd.DataFrame(rows, columns=list(columns))


def _parts(values: list[Any]) -> Iterator[list[Any]]:
    for at in range(0, len(values), PART):
        yield values[at : at + PART]
