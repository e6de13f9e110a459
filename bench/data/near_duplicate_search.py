"""The near-duplicate search against many known images: the index compared with brute force.

    python bench/data/near_duplicate_search.py                      1,000 new images against 1,000,000 known ones
    python bench/data/near_duplicate_search.py --known 100000 --json

The known images are simulated: vectors scattered around those of phantom chests, each with the thumbnail of its
phantom. A tenth of the new images are as near to a known one as a cropped copy. `search` is the query of
data/duplicates/admitted_units.py: vectors of the new thumbnails, index, clusters, rows of the candidates. `compare` is
the registration of the candidates (data/duplicates/image_alignment.py). Brute force compares all pairs.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np
import pandas as pd

from data.core_types import ValueUnit
from data.duplicates import admitted_units, image_alignment, index_segments
from data.duplicates.near_duplicates import MIN_COSINE, NEIGHBOUR_COUNT, Array, candidates
from data.phantom import study
from data.scan import thumbnail
from data.scan.preprocess import unit_pixels
from pipelines import params

SCATTER = 0.35  # distance of an image's vector from that of its phantom
COPY = 0.2  # the same for a cropped copy: cosine 0.98
PHANTOMS = 300
CHUNK = 2**15


def phantom_thumbnails() -> pd.DataFrame:
    """Thumbnails of phantom chests, one per patient."""
    task = params.load(Path(__file__).resolve().parents[2]).task("lung-ct")
    scanner, texts = study.usual_scanner(task), []
    for number in range(PHANTOMS):
        plane, _ = study.make_study(task, scanner, 77, number, task.classes[number % 3]).slice(0, 1)
        texts.append(thumbnail.thumbnail(unit_pixels(plane.astype(np.float32), ValueUnit.HU, task.pixels)))
    return pd.DataFrame({"thumbnail": texts})


def scatter(random: np.random.Generator, centres: Array, distance: float) -> Array:
    """Unit vectors (n × 51) at about this distance from the centres (n × 51)."""
    points = centres + distance * random.normal(size=centres.shape).astype(np.float32) / np.float32(
        np.sqrt(centres.shape[1])
    )
    unit_vectors: Array = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return unit_vectors


def fill(folder: Path, thumbnails: pd.DataFrame, count: int, seed: int = 1) -> Array:
    """Fill a projection with `count` simulated images, one per patient; their vectors (count × 51)."""
    random = np.random.default_rng(seed)
    centres = thumbnail.thumbnail_vectors(thumbnail.decode_thumbnails(thumbnails["thumbnail"]))
    thumbnail_texts, batches = thumbnails["thumbnail"].tolist(), []
    with admitted_units.open_projection(folder) as database:
        for first in range(0, count, CHUNK):
            phantoms = random.integers(0, len(centres), min(CHUNK, count - first))
            vectors = scatter(random, centres[phantoms], SCATTER).astype("<f2")
            batches.append(vectors)
            _insert(database, first, [thumbnail_texts[number] for number in phantoms], vectors)
            index_segments.update_segments(database, folder)
    return np.concatenate(batches).astype(np.float32)


def _insert(database: sqlite3.Connection, first: int, texts: list[str], vectors: Any) -> None:
    database.execute("BEGIN")
    columns = [name for name in admitted_units.COLUMNS if name != "thumbnail"]
    rows = []
    for number in range(first, first + len(texts)):
        unit = dict.fromkeys(columns, "") | {"file": "f", "label": "normal", "std": 1.0, "batch": "b"}
        unit |= {"unit_id": f"u{number}", "patient": f"p{number}", "cluster": f"p{number}"}
        unit |= {"sha256": f"{number:064x}", "pixels_blake3": f"{number:064x}"}
        rows.append((number, *unit.values()))
    placeholders = ", ".join("?" * (len(columns) + 1))
    database.executemany(f"INSERT INTO units (id, {', '.join(columns)}) VALUES ({placeholders})", rows)
    pictures = [(first + index, text, vectors[index].tobytes()) for index, text in enumerate(texts)]
    database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", pictures)
    database.execute("COMMIT")


def measure(folder: Path, known_vectors: Array, thumbnails: pd.DataFrame, count: int, runs: int) -> dict[str, Any]:
    """Seconds of index and brute force for `count` new images, and the share of true neighbours that it finds."""
    random = np.random.default_rng(2)
    centres = thumbnail.thumbnail_vectors(thumbnail.decode_thumbnails(thumbnails["thumbnail"]))
    queries = scatter(random, centres[random.integers(0, len(centres), count)], SCATTER)
    planted = random.choice(len(known_vectors), count // 10, replace=False)
    queries[: len(planted)] = scatter(random, known_vectors[planted], COPY)
    texts = thumbnails["thumbnail"].sample(count, replace=True, random_state=3).reset_index(drop=True)
    clusters = np.array([f"new{number}" for number in range(count)], object)
    seconds: dict[str, list[float]] = {"search": [], "compare": [], "brute": [], "search_cpu": []}
    for _ in range(runs):
        start, cpu_start = time.perf_counter(), time.process_time()
        with admitted_units.open_projection(folder) as database:
            thumbnail.thumbnail_vectors(
                thumbnail.decode_thumbnails(texts)
            )  # part of a real query; the vectors below are simulated
            index = index_segments.open_index(database, folder)
            pairs = candidates(
                lambda vectors, neighbour_count, index=index: index_segments.search(index, vectors, neighbour_count),
                lambda numbers, database=database: admitted_units.clusters_of_units(database, numbers),
                queries,
                clusters,
            )
            rows = admitted_units.select_units(database, sorted(set(pairs[:, 1].tolist())))
        seconds["search"].append(time.perf_counter() - start)
        seconds["search_cpu"].append(time.process_time() - cpu_start)
        seconds["compare"].append(_compare(texts, rows, pairs))
        start = time.perf_counter()
        nearest = search_by_brute_force(queries, known_vectors)
        seconds["brute"].append(time.perf_counter() - start)
    found_pairs = set(map(tuple, pairs.tolist()))
    true_pairs = [(query, int(number)) for query, row in enumerate(nearest) for number in row]
    true_pairs = [
        (query, number) for query, number in true_pairs if queries[query] @ known_vectors[number] >= MIN_COSINE + 0.01
    ]
    figures: dict[str, Any] = {f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()}
    figures["recall_of_copies"] = round(
        float(np.mean([(query, int(n)) in found_pairs for query, n in enumerate(planted)])), 4
    )
    figures["recall_of_nearest"] = round(float(np.mean([pair in found_pairs for pair in true_pairs])), 4)
    return figures | {"pairs_compared": len(pairs), "files": len(index.indexes)}


def _compare(texts: pd.Series[str], rows: pd.DataFrame, pairs: Any) -> float:
    """Seconds to register every pair of thumbnails."""
    start = time.perf_counter()
    query_greys = thumbnail.decode_thumbnails(texts)
    row_of_unit = dict(zip(rows["unit_id"], range(len(rows)), strict=True))
    matches = np.array([row_of_unit[f"u{number}"] for number in pairs[:, 1]])
    match_greys = thumbnail.decode_thumbnails(rows["thumbnail"])[matches]
    offsets = thumbnail.initial_alignment(
        thumbnail.body_frames(query_greys)[pairs[:, 0]], thumbnail.body_frames(match_greys)
    )
    image_alignment.likeness(query_greys[pairs[:, 0]], match_greys, offsets)
    return time.perf_counter() - start


def search_by_brute_force(queries: Array, known_vectors: Array) -> Any:
    """The nearest `WANTED` of each query, by comparing all pairs."""
    nearest = []
    for start in range(0, len(queries), 32):
        cosines = queries[start : start + 32] @ known_vectors.T
        nearest.append(np.argpartition(-cosines, NEIGHBOUR_COUNT, axis=1)[:, :NEIGHBOUR_COUNT])
    return np.concatenate(nearest)


def main() -> None:
    """Build the index, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=1_000_000)
    parser.add_argument("--new", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index_folder, thumbnails = Path(folder) / "known", phantom_thumbnails()
        start = time.perf_counter()
        known_vectors = fill(index_folder, thumbnails, options.known)
        figures = {"known": options.known, "new": options.new, "build_s": round(time.perf_counter() - start, 1)}
        figures |= measure(index_folder, known_vectors, thumbnails, options.new, options.runs)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:20} {value:>12}\n")


if __name__ == "__main__":
    main()
