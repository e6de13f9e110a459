"""bench/data/near_duplicate_search.py on a small projection: the index finds the planted copies."""

from __future__ import annotations

from pathlib import Path

from bench.data import near_duplicate_search


def test_the_index_finds_copies_and_nearest_neighbours(home: Path) -> None:
    thumbnails = near_duplicate_search.phantom_thumbnails()
    vectors = near_duplicate_search.fill(home / "known", thumbnails, 2000)
    assert vectors.shape == (2000, 51)
    figures = near_duplicate_search.measure(home / "known", vectors, thumbnails, 50, runs=1)
    assert figures["recall_of_copies"] == 1.0 and figures["recall_of_nearest"] > 0.95
