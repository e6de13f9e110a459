"""The near-duplicate index of a task on disk: segment files, merged as in a log-structured merge tree."""

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
NONE = -1  # the segment of a unit without a picture
TAIL = 4096  # maximum of newest vectors that are in no segment and searched linearly
LARGEST = 2**18  # maximum vectors of one segment
CHUNK = 2**15  # vectors in memory at once


@dataclass(frozen=True)
class OpenIndex:
    """The memory-mapped segments, and an index in memory of the newest vectors."""

    indexes: list[Any]


def update_segments(database: sqlite3.Connection, place: Path) -> None:
    """Write the newest vectors into a segment if there are enough, and merge segments of similar size.

    As in a log-structured merge tree (O'Neil et al. 1996), a vector is written again only when its segment is merged
    with one of similar size. So admitting a batch costs time by the size of the batch. A segment never exceeds
    `LARGEST`.
    """
    if _vector_count(database, None) > TAIL:
        _merge_segments(database, place)
    file_names = {f"{row[0]}.index" for row in database.execute("SELECT id FROM segments")}
    for path in place.glob("*.index*"):
        if path.name not in file_names:
            path.unlink()


def drop(database: sqlite3.Connection, place: Path, numbers: Sequence[int]) -> None:
    """Delete segments, within the caller's transaction. Their remaining vectors are written into a later segment."""
    for number in numbers:
        database.execute("UPDATE units SET segment = NULL WHERE segment = ?", (number,))
        database.execute("DELETE FROM segments WHERE id = ?", (number,))
        (place / f"{number}.index").unlink(missing_ok=True)


def open_index(database: sqlite3.Connection, place: Path) -> OpenIndex:
    """Open all segments for `search`. OSError if a file is missing or truncated."""
    indexes = []
    for number, size in database.execute("SELECT id, bytes FROM segments").fetchall():
        path = place / f"{number}.index"
        if path.stat().st_size != size:
            raise OSError(f"{path.name} has {path.stat().st_size} bytes, not {size}")
        indexes.append(vector_index.load(path))
    chunks = list(_vectors(database, None))
    if chunks:
        count = sum(len(numbers) for numbers, _ in chunks)
        indexes.append(vector_index.build(count, chunks[0][1], chunks))
    return OpenIndex(indexes)


def search(index: OpenIndex, queries: Array, count: int) -> tuple[Array, Positions]:
    """The `count` nearest of each query over all segments: cosines and numbers, best first.

    Number -1 if there is none.
    """
    if not index.indexes:
        return np.zeros((len(queries), 1), np.float32), np.full((len(queries), 1), -1, np.int64)
    results = [vector_index.search(segment_index, queries, count) for segment_index in index.indexes]
    cosines, numbers = (np.concatenate(parts, 1) for parts in zip(*results, strict=True))
    cosines = np.where(numbers < 0, -np.inf, cosines)
    order = np.argsort(-cosines, 1, kind="stable")[:, :count]
    return np.take_along_axis(cosines, order, 1), np.take_along_axis(numbers, order, 1)


def _merge_segments(database: sqlite3.Connection, place: Path) -> None:
    """Merge the newest vectors with all segments that are not much larger than the merge so far."""
    count = _vector_count(database, None)
    merged: list[int] = []
    for number, size in database.execute("SELECT id, count FROM segments ORDER BY count").fetchall():
        if size > 2 * count or size + count > LARGEST:
            break
        merged.append(number)
        count += size
    number = database.execute("SELECT coalesce(max(id), 0) + 1 FROM segments").fetchone()[0]
    database.execute("BEGIN IMMEDIATE")
    drop(database, place, merged)
    number = max([number, *(merged_number + 1 for merged_number in merged)])
    for offset in range(0, count, LARGEST):
        _write_segment(database, place, number + offset // LARGEST)
    database.execute("COMMIT")


def _write_segment(database: sqlite3.Connection, place: Path, number: int) -> None:
    """Write one segment with at most LARGEST of the vectors that are in no segment."""
    database.execute(
        "UPDATE units SET segment = ? WHERE id IN (SELECT id FROM units WHERE segment IS NULL ORDER BY id LIMIT ?)",
        (number, LARGEST),
    )
    count = _vector_count(database, number)
    sample = [vectors[:: max(1, count // CHUNK)] for _, vectors in _vectors(database, number)]
    index = vector_index.build(count, np.concatenate(sample), _vectors(database, number))
    temporary = place / f"{number}.index.part"
    vector_index.save(index, temporary)
    temporary.replace(place / f"{number}.index")
    size = (place / f"{number}.index").stat().st_size
    database.execute("INSERT INTO segments VALUES (?, ?, ?)", (number, count, size))


def _vector_count(database: sqlite3.Connection, segment: int | None) -> int:
    return int(database.execute("SELECT count(*) FROM units WHERE segment IS ?", (segment,)).fetchone()[0])


def _vectors(database: sqlite3.Connection, segment: int | None) -> Iterator[tuple[Positions, Array]]:
    """Yield numbers and vectors of a segment (None: of the vectors in no segment), a chunk at a time."""
    rows = database.execute(
        "SELECT units.id, vector FROM units JOIN pictures USING (id) WHERE segment IS ? ORDER BY units.id", (segment,)
    )
    while chunk := rows.fetchmany(CHUNK):
        numbers = np.array([number for number, _ in chunk], np.int64)
        vectors = np.frombuffer(b"".join(vector for _, vector in chunk), "<f2").astype(np.float32)
        yield numbers, vectors.reshape(len(chunk), LENGTH)
