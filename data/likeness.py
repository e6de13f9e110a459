"""Which scans show the same picture: exact copies, near-duplicates, and the groups that they form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.index import embeddings

SHAPE = slice(1, 20)  # the low frequencies of the descriptor `dct-1` without the mean: the form, not the brightness
SAME_SHAPE = 0.05  # between directions; recompressed at quality 60 or brightened by a tenth: at most 0.044, two
# patients of two public sets: at least 0.069 (lung CT, 857 pictures) and 0.087 (brain MR, 14 volumes)
BLOCK = 2**22  # pairs of hashes compared at once


def pictures(manifest: pd.DataFrame) -> pd.Series[bool]:
    """The rows that show anything: a blank slice is like every other blank slice."""
    return manifest["std"].astype(float) > 0


def near_pairs(new: pd.DataFrame, known: pd.DataFrame, bits: int, shape: float = SAME_SHAPE) -> NDArray[np.int64]:
    """Pairs (position in `new`, position in `known`) of near-duplicates, n × 2.

    The difference hashes differ in at most `bits` of 64, and the directions of the descriptor's low frequencies by at
    most `shape`: standard anatomy gives the same hash to two patients, but not the same shape.
    """
    if new.empty or known.empty:
        return np.zeros((0, 2), np.int64)
    found = np.concatenate([*_hash_pairs(_hashes(new["dhash"]), _hashes(known["dhash"]), bits)])
    left, right = _directions(new["embedding"]), _directions(known["embedding"])
    distance = np.linalg.norm(left[found[:, 0]] - right[found[:, 1]], axis=1)
    return found[distance <= shape]


def groups(manifest: pd.DataFrame, bits: int, shape: float) -> NDArray[np.int64]:
    """A group number for each row: near-duplicates, and near-duplicates of those, belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = near_pairs(manifest, manifest, bits, shape)
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(manifest),) * 2)
    _, number = connected_components(links, directed=False)
    return np.asarray(number, np.int64)


def _hashes(column: pd.Series[str]) -> NDArray[np.uint64]:
    return np.array([int(text, 16) for text in column], np.uint64)


def _hash_pairs(new: NDArray[np.uint64], known: NDArray[np.uint64], bits: int) -> Iterator[NDArray[np.int64]]:
    """Every pair within `bits`, found block by block, so that memory does not grow with the pairs looked at."""
    step = max(1, BLOCK // len(known))
    for start in range(0, len(new), step):
        distance = np.bitwise_count(new[start : start + step, None] ^ known[None])
        near = np.argwhere(distance <= bits)
        near[:, 0] += start
        yield near


def _directions(column: pd.Series[str]) -> NDArray[np.float32]:
    shape = embeddings(column)[:, SHAPE]
    return shape / np.maximum(np.linalg.norm(shape, axis=1, keepdims=True), np.float32(1e-6))
