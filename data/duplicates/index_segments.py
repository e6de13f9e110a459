"""The near-duplicate index of a task on disk: files of growing size, each written once and joined with its equals.

As in a log-structured merge tree (O'Neil et al. 1996) a vector is written again only when its file is joined with one
of about the same size, so that admitting a batch costs what the batch costs; a file never outgrows `LARGEST`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.duplicates import vector_index
from data.duplicates.near_duplicates import Array, Positions
from data.scan.thumbnail import LENGTH

TABLE = "CREATE TABLE segments (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, bytes INTEGER NOT NULL);"
NONE = -1  # the file of a unit without a picture
TAIL = 4096  # newest vectors, not yet in a file: looked through one by one
LARGEST = 2**18  # vectors of one file
CHUNK = 2**15  # vectors in memory at once


@dataclass(frozen=True)
class Opened:
    """The mapped index files, and one in memory of the newest vectors."""

    indexes: list[Any]


def keep(database: sqlite3.Connection, place: Path) -> None:
    """Put the newest vectors into a file if there are enough, and join files of about the same size."""
    if _count(database, None) > TAIL:
        _write(database, place)
    known = {f"{row[0]}.index" for row in database.execute("SELECT id FROM segments")}
    for path in place.glob("*.index*"):
        if path.name not in known:
            path.unlink()


def drop(database: sqlite3.Connection, place: Path, numbers: Sequence[int]) -> None:
    """Take files out, inside the caller's transaction; what stays of their vectors waits for a new one."""
    for number in numbers:
        database.execute("UPDATE units SET segment = NULL WHERE segment = ?", (number,))
        database.execute("DELETE FROM segments WHERE id = ?", (number,))
        (place / f"{number}.index").unlink(missing_ok=True)


def opened(database: sqlite3.Connection, place: Path) -> Opened:
    """What `search` looks into. OSError where a file is missing or cut short."""
    indexes = []
    for number, size in database.execute("SELECT id, bytes FROM segments").fetchall():
        path = place / f"{number}.index"
        if path.stat().st_size != size:
            raise OSError(f"{path.name} holds {path.stat().st_size} bytes, not {size}")
        indexes.append(vector_index.load(path))
    chunks = list(_vectors(database, None))
    if chunks:
        count = sum(len(numbers) for numbers, _ in chunks)
        indexes.append(vector_index.build(count, chunks[0][1], chunks))
    return Opened(indexes)


def search(index: Opened, queries: Array, count: int) -> tuple[Array, Positions]:
    """The `count` nearest of each query over all files: cosines and numbers, best first; number -1 where none is."""
    if not index.indexes:
        return np.zeros((len(queries), 1), np.float32), np.full((len(queries), 1), -1, np.int64)
    found = [vector_index.search(one, queries, count) for one in index.indexes]
    cosines, numbers = (np.concatenate(parts, 1) for parts in zip(*found, strict=True))
    cosines = np.where(numbers < 0, -np.inf, cosines)
    best = np.argsort(-cosines, 1, kind="stable")[:, :count]
    return np.take_along_axis(cosines, best, 1), np.take_along_axis(numbers, best, 1)


def _write(database: sqlite3.Connection, place: Path) -> None:
    """One file of the newest vectors and of all files that are not much larger than what is joined so far."""
    count = _count(database, None)
    joined: list[int] = []
    for number, size in database.execute("SELECT id, count FROM segments ORDER BY count").fetchall():
        if size > 2 * count or size + count > LARGEST:
            break
        joined.append(number)
        count += size
    number = database.execute("SELECT coalesce(max(id), 0) + 1 FROM segments").fetchone()[0]
    database.execute("BEGIN IMMEDIATE")
    drop(database, place, joined)
    number = max([number, *(old + 1 for old in joined)])
    for part in range(0, count, LARGEST):
        _one(database, place, number + part // LARGEST)
    database.execute("COMMIT")


def _one(database: sqlite3.Connection, place: Path, number: int) -> None:
    """One file of at most LARGEST of the vectors that wait."""
    database.execute(
        "UPDATE units SET segment = ? WHERE id IN (SELECT id FROM units WHERE segment IS NULL ORDER BY id LIMIT ?)",
        (number, LARGEST),
    )
    count = _count(database, number)
    sample = [vectors[:: max(1, count // CHUNK)] for _, vectors in _vectors(database, number)]
    index = vector_index.build(count, np.concatenate(sample), _vectors(database, number))
    part = place / f"{number}.index.part"
    vector_index.save(index, part)
    part.replace(place / f"{number}.index")
    size = (place / f"{number}.index").stat().st_size
    database.execute("INSERT INTO segments VALUES (?, ?, ?)", (number, count, size))


def _count(database: sqlite3.Connection, segment: int | None) -> int:
    return int(database.execute("SELECT count(*) FROM units WHERE segment IS ?", (segment,)).fetchone()[0])


def _vectors(database: sqlite3.Connection, segment: int | None) -> Iterator[tuple[Positions, Array]]:
    """Numbers and vectors of a file (None: of those in no file yet), a chunk at a time."""
    rows = database.execute(
        "SELECT units.id, vector FROM units JOIN pictures USING (id) WHERE segment IS ? ORDER BY units.id", (segment,)
    )
    while chunk := rows.fetchmany(CHUNK):
        numbers = np.array([number for number, _ in chunk], np.int64)
        vectors = np.frombuffer(b"".join(vector for _, vector in chunk), "<f2").astype(np.float32)
        yield numbers, vectors.reshape(len(chunk), LENGTH)
