"""One index of USearch: build, search, delete. bench/data/vector_search.py starts it in an environment of its own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from usearch.index import Index


def main() -> None:
    """Build an index of half-precision vectors, answer the queries, delete the first vectors; print figures as JSON."""
    inputs, outputs, folder = (Path(argument) for argument in sys.argv[1:4])
    neighbour_count, deleted_count = int(sys.argv[4]), int(sys.argv[5])
    with np.load(inputs) as content:
        stored_vectors, queries = content["stored_vectors"], content["queries"]
    figures: dict[str, float] = {}
    start = time.perf_counter()
    index = Index(ndim=stored_vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(stored_vectors)), stored_vectors)
    index.save(str(folder / "first.usearch"))
    figures["index_s"] = round(time.perf_counter() - start, 2)
    figures["bytes"] = (folder / "first.usearch").stat().st_size
    start = time.perf_counter()
    matches = Index.restore(str(folder / "first.usearch"), view=True).search(queries, neighbour_count)
    figures["search_s"] = round(time.perf_counter() - start, 3)
    np.savez(outputs, numbers=matches.keys.astype(np.int64))
    for step, compact in (("saved", False), ("compacted", True)):
        (folder / step).mkdir()
        start = time.perf_counter()
        shrunk = Index.restore(str(folder / "first.usearch"))
        shrunk.remove(np.arange(deleted_count), compact=compact)
        shrunk.save(str(folder / step / "index.usearch"))
        figures[f"delete_{step}_s"] = round(time.perf_counter() - start, 2)
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
