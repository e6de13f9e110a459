"""The admitted units of a task: a database derived from the manifests that answers queries, and can be rebuilt."""

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
from data.patients.identity_signs import JOINING, SIGN_SEPARATOR, SIGNS
from data.scan import thumbnail

log = logging.getLogger(__name__)
VERSION = 5  # of tables, thumbnails and vectors; another version is rebuilt
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
CHUNK = 500  # values in one query, rows in one insert
# what SQLite and Faiss raise for a damaged file
DAMAGE_ERRORS = (sqlite3.DatabaseError, RuntimeError, ValueError, LookupError, OSError)


def find_related_units(batches: Path, place: Path, new: pd.DataFrame) -> pd.DataFrame:
    """The admitted units that the leakage checks of a batch need, out of all in `batches`/*/manifest.csv.

    These are: units with the same pixels or from the same file; one unit per cluster (and batch) that contains a
    patient of the batch or shares an identity sign with one (data/patients/contradictions.py); and the nearest pictures
    of other clusters for each new picture. Columns: `COLUMNS`. The projection in the folder `place` is first updated
    for added and removed batches. A damaged one, or one of another version, is rebuilt from the manifests, which are
    the source of truth. Time and memory grow with `new` and the added batches only; index files are memory-mapped.
    """
    try:
        return _query(batches, place, new)
    except DAMAGE_ERRORS as error:
        log.warning("%s is damaged and is rebuilt: %s", place.name, error)
        shutil.rmtree(place, ignore_errors=True)
        return _query(batches, place, new)


def delete_projection(place: Path) -> None:
    """Delete the projection of a task completely; the next query rebuilds it."""
    shutil.rmtree(place, ignore_errors=True)


def _query(batches: Path, place: Path, new: pd.DataFrame) -> pd.DataFrame:
    with open_projection(place) as database:
        _update(database, batches, place)
        numbers = {
            *_matching_numbers(database, "units", "pixels_blake3", new["pixels_blake3"]),
            *_matching_numbers(database, "units", "sha256", new["sha256"]),
            *_matching_numbers(database, "owners", "patient", new["patient"]),
            *_matching_numbers(database, "signs", "sign", _unit_signs(new)["sign"]),
            *_nearest_numbers(database, place, new[pictures(new)] if len(new) else new),
        }
        return select_units(database, sorted(numbers))


@contextmanager
def open_projection(place: Path) -> Iterator[sqlite3.Connection]:
    """Open the database of the projection, created if missing. Deleted content is overwritten on disk."""
    place.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(place / "known.db", isolation_level=None)
    try:
        database.execute("PRAGMA secure_delete = ON")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"its version is {version}, not {VERSION}")
        if version == 0:
            database.executescript(f"BEGIN; {TABLES} {index_segments.TABLE} PRAGMA user_version = {VERSION}; COMMIT;")
        yield database
    finally:
        database.close()


def _update(database: sqlite3.Connection, batches: Path, place: Path) -> None:
    """Remove the batches that are gone or changed, and add the new ones, each in one transaction."""
    content_by_batch = {path.parent.name: _fingerprint(path) for path in sorted(batches.glob("*/manifest.csv"))}
    recorded = dict(database.execute("SELECT batch, content FROM batches"))
    outdated = [name for name in recorded if content_by_batch.get(name) != recorded[name]]
    if outdated:
        _remove_batches(database, place, outdated)
    for name in content_by_batch.keys() - recorded.keys() | set(outdated) & content_by_batch.keys():
        _add_batch(database, name, content_by_batch[name], read_manifest(batches / name / "manifest.csv"))
    index_segments.update_segments(database, place)


def _fingerprint(manifest: Path) -> str:
    """A fingerprint of the content of a batch: the hash of its `.dvc` file, or else the time of its table.

    And the size.
    """
    pointer = manifest.parent.with_name(manifest.parent.name + ".dvc")
    fingerprint = (
        hashlib.sha256(pointer.read_bytes()).hexdigest() if pointer.is_file() else str(manifest.stat().st_mtime_ns)
    )
    return f"{fingerprint} {manifest.stat().st_size}"


def _remove_batches(database: sqlite3.Connection, place: Path, names: Sequence[str]) -> None:
    """Remove batches: their rows, and every index file that contains one of their vectors."""
    placeholders = ",".join("?" * len(names))
    database.execute("BEGIN IMMEDIATE")
    segments = f"SELECT DISTINCT segment FROM units WHERE batch IN ({placeholders}) AND segment > {index_segments.NONE}"
    index_segments.drop(database, place, [row[0] for row in database.execute(segments, names)])
    database.execute(f"DELETE FROM pictures WHERE id IN (SELECT id FROM units WHERE batch IN ({placeholders}))", names)
    for table in ("units", "owners", "signs", "batches"):
        database.execute(f"DELETE FROM {table} WHERE batch IN ({placeholders})", names)
    database.execute("COMMIT")


def _add_batch(database: sqlite3.Connection, name: str, content: str, manifest: pd.DataFrame) -> None:
    table = manifest.assign(batch=name).reindex(columns=list(COLUMNS)).fillna({"thumbnail": "", "std": 0.0})
    table = table.fillna(dict.fromkeys(SIGNS, ""))
    database.execute("BEGIN IMMEDIATE")
    first_id = database.execute("SELECT coalesce(max(id), -1) + 1 FROM units").fetchone()[0]
    table.index = pd.RangeIndex(first_id, first_id + len(table))
    columns = [column for column in COLUMNS if column != "thumbnail"]
    placeholders = ",".join("?" * (len(columns) + 1))
    rows = table[columns].itertuples(name=None)
    database.executemany(f"INSERT INTO units (id, {', '.join(columns)}) VALUES ({placeholders})", rows)
    with_picture = table[pictures(table) & (table["thumbnail"] != "")]
    for start in range(0, len(with_picture), CHUNK):
        thumbnails = with_picture["thumbnail"].iloc[start : start + CHUNK]
        vectors = thumbnail.thumbnail_vectors(thumbnail.decode_thumbnails(thumbnails)).astype("<f2")
        picture_rows = [
            (number, text, vector.tobytes())
            for number, text, vector in zip(thumbnails.index.tolist(), thumbnails, vectors, strict=True)
        ]
        database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", picture_rows)
    without_picture = [(index_segments.NONE, number) for number in sorted(set(table.index) - set(with_picture.index))]
    database.executemany("UPDATE units SET segment = ? WHERE id = ?", without_picture)
    owners = table.drop_duplicates(["patient", "cluster"])[["patient", "cluster", "batch"]]
    owner_rows = [(*row, number) for number, *row in owners.itertuples(name=None)]
    database.executemany("INSERT INTO owners VALUES (?, ?, ?, ?)", owner_rows)
    unit_signs = _unit_signs(table).drop_duplicates(["sign", "patient", "cluster"])
    sign_rows = [(*row, number) for number, *row in unit_signs.itertuples(name=None)]
    database.executemany("INSERT INTO signs (patient, cluster, batch, sign, id) VALUES (?, ?, ?, ?, ?)", sign_rows)
    database.execute("INSERT INTO batches VALUES (?, ?, ?)", (name, content, len(table)))
    database.execute("COMMIT")


def _unit_signs(units: pd.DataFrame) -> pd.DataFrame:
    """One row per identity sign of each unit, with patient and cluster; the index is the number of the unit."""
    table = units.reindex(columns=["patient", "cluster", "batch", *SIGNS]).fillna("")
    parts = [
        table[["patient", "cluster", "batch"]].assign(sign=table[name].astype(str).str.split(SIGN_SEPARATOR))
        for name in JOINING
    ]
    rows = pd.concat(parts).explode("sign")
    return rows[rows["sign"] != ""]


def _matching_numbers(database: sqlite3.Connection, table: str, column: str, values: pd.Series[str]) -> set[int]:
    numbers: set[int] = set()
    for chunk in _chunks(sorted({str(value) for value in values})):
        placeholders = ",".join("?" * len(chunk))
        numbers |= {
            row[0] for row in database.execute(f"SELECT id FROM {table} WHERE {column} IN ({placeholders})", chunk)
        }
    return numbers


def _nearest_numbers(database: sqlite3.Connection, place: Path, new: pd.DataFrame) -> set[int]:
    """The numbers of the nearest pictures in other clusters."""
    if new.empty:
        return set()
    index = index_segments.open_index(database, place)

    def find(queries: Array, count: int) -> tuple[Array, Positions]:
        return index_segments.search(index, queries, count)

    vectors = thumbnail.thumbnail_vectors(thumbnail.decode_thumbnails(new["thumbnail"]))
    clusters = new["cluster"].to_numpy(object)
    pairs = candidates(find, lambda numbers: clusters_of_units(database, numbers), vectors, clusters)
    return set(pairs[:, 1].tolist())


def clusters_of_units(database: sqlite3.Connection, numbers: Positions) -> Clusters:
    """The cluster of each unit, by its number."""
    unit_numbers, positions = np.unique(numbers, return_inverse=True)
    rows = _select(database, "units", ("id", "cluster"), unit_numbers.tolist())
    clusters = dict(zip(rows["id"], rows["cluster"], strict=True))
    return np.array([clusters[number] for number in unit_numbers.tolist()], object)[positions]


def select_units(database: sqlite3.Connection, numbers: list[int]) -> pd.DataFrame:
    units = _select(database, "units", ("id", *(name for name in COLUMNS if name != "thumbnail")), numbers)
    thumbnails = _select(database, "pictures", ("id", "thumbnail"), numbers)
    return units.merge(thumbnails, on="id", how="left").fillna({"thumbnail": ""})[list(COLUMNS)]


def _select(database: sqlite3.Connection, table: str, columns: Sequence[str], numbers: list[int]) -> pd.DataFrame:
    rows: list[Any] = []
    for chunk in _chunks(numbers):
        placeholders = ",".join("?" * len(chunk))
        rows += database.execute(
            f"SELECT {', '.join(columns)} FROM {table} WHERE id IN ({placeholders}) ORDER BY id", chunk
        )
    return pd.DataFrame(rows, columns=list(columns))


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
