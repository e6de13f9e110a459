"""The near-duplicate index: segments of Faiss (data/duplicates) compared with one index of USearch.

    python -m venv USEARCH && USEARCH/bin/pip install usearch==2.26.6 numpy
    python bench/data/vector_search.py --usearch-python USEARCH/bin/python

Both get the same simulated vectors (bench/data/near_duplicate_search.py) and queries, a tenth of which are as near to a
known vector as a cropped copy. Recall is against all pairs. Last, a hundred vectors are deleted and the bytes of their
half-precision values are searched in the files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from near_duplicate_search import COPY, SCATTER, fill, phantom_thumbnails, scatter, search_by_brute_force

from data.duplicates import admitted_units, index_segments
from data.duplicates.near_duplicates import NEIGHBOUR_COUNT, Array
from data.scan import thumbnail

DELETED = 100  # vectors


def make_queries(thumbnails: Any, known_vectors: Array, count: int) -> Array:
    """Unit vectors, of which the first tenth are near copies of known ones."""
    random = np.random.default_rng(2)
    centres = thumbnail.thumbnail_vectors(thumbnail.decode_thumbnails(thumbnails["thumbnail"]))
    queries = scatter(random, centres[random.integers(0, len(centres), count)], SCATTER)
    planted = random.choice(len(known_vectors), count // 10, replace=False)
    queries[: len(planted)] = scatter(random, known_vectors[planted], COPY)
    return queries


def measure_ours(folder: Path, thumbnails: Any, count: int, queries_count: int) -> tuple[dict[str, Any], Array, Array]:
    """Figures of the segments, the known vectors and the queries."""
    start = time.perf_counter()
    known_vectors = fill(folder, thumbnails, count)
    figures: dict[str, Any] = {"build_s": round(time.perf_counter() - start, 2)}  # with the database of units
    queries = make_queries(thumbnails, known_vectors, queries_count)
    nearest = search_by_brute_force(queries, known_vectors)
    with admitted_units.open_projection(folder) as database:
        segment_numbers = [row[0] for row in database.execute("SELECT id FROM segments")]
        start = time.perf_counter()
        index_segments.drop(database, folder, segment_numbers)
        index_segments.update_segments(database, folder)
        figures["index_s"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        _, numbers = index_segments.search(index_segments.open_index(database, folder), queries, NEIGHBOUR_COUNT)
        figures["search_s"] = round(time.perf_counter() - start, 3)
        figures["bytes"] = sum(path.stat().st_size for path in folder.glob("*.index"))
        figures["vectors_on_disk_before"] = count_on_disk(folder, known_vectors[:DELETED])
        start = time.perf_counter()
        delete_units(database, folder)
        figures["delete_s"] = round(time.perf_counter() - start, 2)
    figures["recall"] = recall(numbers, nearest)
    figures["deleted_vectors_on_disk"] = count_on_disk(folder, known_vectors[:DELETED])
    return figures, known_vectors, queries


def delete_units(database: Any, folder: Path) -> None:
    """Delete the first units and write their segments again, as a withdrawal does with the batches of a patient."""
    numbers = [
        row[0] for row in database.execute("SELECT DISTINCT segment FROM units WHERE id < ?", (DELETED,)).fetchall()
    ]
    database.execute("BEGIN IMMEDIATE")
    index_segments.drop(database, folder, [number for number in numbers if number is not None])
    database.execute("DELETE FROM pictures WHERE id < ?", (DELETED,))
    database.execute("DELETE FROM units WHERE id < ?", (DELETED,))
    database.execute("COMMIT")
    index_segments.update_segments(database, folder)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def recall(numbers: Any, nearest: Any) -> float:
    """The share of the true nearest neighbours among the answers."""
    pairs = zip(numbers, nearest, strict=True)
    return round(float(np.mean([len(set(row) & set(true_row)) / len(true_row) for row, true_row in pairs])), 4)


def count_on_disk(folder: Path, vectors: Array) -> int:
    """How many of these vectors occur in a file of the folder, as half-precision numbers."""
    contents = [path.read_bytes() for path in folder.iterdir() if path.is_file()]
    patterns = [vector.astype("<f2").tobytes() for vector in vectors]
    return sum(any(pattern in content for content in contents) for pattern in patterns)


def measure_usearch(folder: Path, python: str, known_vectors: Array, queries: Array) -> dict[str, Any]:
    """Figures of USearch, which runs in its own environment."""
    inputs, outputs = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(inputs, stored_vectors=known_vectors, queries=queries)
    program = Path(__file__).with_name("usearch_index.py")
    index_folder = folder / "usearch"
    index_folder.mkdir()
    command = [python, str(program), str(inputs), str(outputs), str(index_folder)]
    command += [str(NEIGHBOUR_COUNT), str(DELETED)]
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    with np.load(outputs) as content:
        figures["recall"] = recall(content["numbers"], search_by_brute_force(queries, known_vectors))
    figures["vectors_on_disk_before"] = count_on_disk(index_folder, known_vectors[:DELETED])
    for step in ("saved", "compacted"):
        figures[f"deleted_vectors_on_disk_{step}"] = count_on_disk(index_folder / step, known_vectors[:DELETED])
    return figures


def main() -> None:
    """Build, search and delete with both; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--usearch-python", required=True, help="a Python with usearch")
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--new", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ours, known_vectors, queries = measure_ours(place / "known", phantom_thumbnails(), options.known, options.new)
        theirs = measure_usearch(place, options.usearch_python, known_vectors, queries)
    sys.stdout.write(json.dumps({"ours": ours, "usearch": theirs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
