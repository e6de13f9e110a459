"""The near-duplicate search against many known pictures: the index beside brute force, in one run.

    python bench/near.py                      1,000 new pictures against 1,000,000 known ones
    python bench/near.py --known 100000 --json

The known pictures are simulated: vectors scattered about those of phantom chests, as the real ones are, each with a
thumbnail of the phantom that it was scattered about. A tenth of the new ones are copies of known ones as a crop leaves
them. `search` is the whole question of data/duplicates/admitted_units.py (vectors of the new thumbnails, index,
clusters, rows of what was
found), `compare` the registration of what was found (data/duplicates/image_alignment.py). Brute force compares each
with each.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np
import pandas as pd

from data.duplicates import admitted_units, image_alignment, index_segments
from data.duplicates.near_duplicates import LIKELY, WANTED, Array, candidates
from data.phantom import study
from data.record import Units
from data.scan import thumbnail
from data.scan.preprocess import unit_pixels
from pipelines import params

SCATTER = 0.35  # length of what a picture's vector differs by from that of the phantom it stands for
COPY = 0.2  # the same for a cropped copy: cosine 0.98
PHANTOMS = 300
CHUNK = 2**15


def pool() -> pd.DataFrame:
    """Thumbnails of phantom chests, one for each patient."""
    task = params.load(Path(__file__).resolve().parent.parent).task("lung-ct")
    scanner, texts = study.usual(task), []
    for number in range(PHANTOMS):
        plane, _ = study.study(task, scanner, 77, number, task.classes[number % 3]).slice(0, 1)
        texts.append(thumbnail.thumbnail(unit_pixels(plane.astype(np.float32), Units.HU, task.pixels)))
    return pd.DataFrame({"thumbnail": texts})


def scattered(random: np.random.Generator, about: Array, by: float) -> Array:
    """Unit vectors at about a distance `by` of others, n × 51."""
    found = about + by * random.normal(size=about.shape).astype(np.float32) / np.float32(np.sqrt(about.shape[1]))
    unit: Array = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def fill(place: Path, shown: pd.DataFrame, count: int, seed: int = 1) -> Array:
    """A projection of `count` simulated pictures of as many patients; their vectors."""
    random = np.random.default_rng(seed)
    about = thumbnail.vectors(thumbnail.greys(shown["thumbnail"]))
    texts, every = shown["thumbnail"].tolist(), []
    with admitted_units._opened(place) as database:
        for first in range(0, count, CHUNK):
            source = random.integers(0, len(about), min(CHUNK, count - first))
            vectors = scattered(random, about[source], SCATTER).astype("<f2")
            every.append(vectors)
            _insert(database, first, [texts[number] for number in source], vectors)
            index_segments.keep(database, place)
    return np.concatenate(every).astype(np.float32)


def _insert(database: sqlite3.Connection, first: int, texts: list[str], vectors: Any) -> None:
    database.execute("BEGIN")
    rows = [
        (number, f"u{number}", "f", f"{number:064x}", f"{number:064x}", "normal", f"p{number}", f"p{number}", 1.0, "b")
        for number in range(first, first + len(texts))
    ]
    database.executemany("INSERT INTO units VALUES (?,?,?,?,?,?,?,?,?,?,NULL)", rows)
    shown = [(first + at, text, vectors[at].tobytes()) for at, text in enumerate(texts)]
    database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", shown)
    database.execute("COMMIT")


def measure(place: Path, every: Array, shown: pd.DataFrame, count: int, runs: int) -> dict[str, Any]:
    """Seconds of index and brute force for `count` new pictures, and what share of the true neighbours is found."""
    random = np.random.default_rng(2)
    about = thumbnail.vectors(thumbnail.greys(shown["thumbnail"]))
    queries = scattered(random, about[random.integers(0, len(about), count)], SCATTER)
    planted = random.choice(len(every), count // 10, replace=False)
    queries[: len(planted)] = scattered(random, every[planted], COPY)
    texts = shown["thumbnail"].sample(count, replace=True, random_state=3).reset_index(drop=True)
    clusters = np.array([f"new{number}" for number in range(count)], object)
    seconds: dict[str, list[float]] = {"search": [], "compare": [], "brute": [], "search_cpu": []}
    for _ in range(runs):
        began, cpu = time.perf_counter(), time.process_time()
        with admitted_units._opened(place) as database:
            thumbnail.vectors(thumbnail.greys(texts))  # what a real question costs; the vectors asked are simulated
            index = index_segments.opened(database, place)
            pairs = candidates(
                lambda asked, wanted, index=index: index_segments.search(index, asked, wanted),
                lambda numbers, database=database: admitted_units._clusters(database, numbers),
                queries,
                clusters,
            )
            rows = admitted_units._units(database, sorted(set(pairs[:, 1].tolist())))
        seconds["search"].append(time.perf_counter() - began)
        seconds["search_cpu"].append(time.process_time() - cpu)
        seconds["compare"].append(_compare(texts, rows, pairs))
        began = time.perf_counter()
        nearest = brute(queries, every)
        seconds["brute"].append(time.perf_counter() - began)
    found = set(map(tuple, pairs.tolist()))
    true = [(query, int(number)) for query, row in enumerate(nearest) for number in row]
    true = [(query, number) for query, number in true if queries[query] @ every[number] >= LIKELY + 0.01]
    figures: dict[str, Any] = {f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()}
    figures["recall_of_copies"] = round(float(np.mean([(at, int(n)) in found for at, n in enumerate(planted)])), 4)
    figures["recall_of_nearest"] = round(float(np.mean([pair in found for pair in true])), 4)
    return figures | {"pairs_compared": len(pairs), "files": len(index.indexes)}


def _compare(texts: pd.Series[str], rows: pd.DataFrame, pairs: Any) -> float:
    """Seconds to lay every pair of thumbnails over each other."""
    began = time.perf_counter()
    left = thumbnail.greys(texts)
    place = dict(zip(rows["unit_id"], range(len(rows)), strict=True))
    other = np.array([place[f"u{number}"] for number in pairs[:, 1]])
    right = thumbnail.greys(rows["thumbnail"])[other]
    start = thumbnail.start(thumbnail.frames(left)[pairs[:, 0]], thumbnail.frames(right))
    image_alignment.likeness(left[pairs[:, 0]], right, start)
    return time.perf_counter() - began


def brute(queries: Array, every: Array) -> Any:
    """The nearest `WANTED` of each query, each compared with each."""
    nearest = []
    for start in range(0, len(queries), 32):
        cosines = queries[start : start + 32] @ every.T
        nearest.append(np.argpartition(-cosines, WANTED, axis=1)[:, :WANTED])
    return np.concatenate(nearest)


def main() -> None:
    """Build, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=1_000_000)
    parser.add_argument("--new", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, shown = Path(folder) / "known", pool()
        began = time.perf_counter()
        every = fill(place, shown, options.known)
        figures = {"known": options.known, "new": options.new, "build_s": round(time.perf_counter() - began, 1)}
        figures |= measure(place, every, shown, options.new, options.runs)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:20} {value:>12}\n")


if __name__ == "__main__":
    main()
