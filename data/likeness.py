"""Which scans show the same picture: exact copies, near-duplicates, and the groups that they form."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.index import embeddings

SHAPE = slice(1, 20)  # the low frequencies of the descriptor `dct-1` without the mean: the form, not the brightness
LIKE_SHAPE = 0.05  # distance of directions, where the hashes agree as well
SAME_SHAPE = 0.02  # whatever the hashes say: on flat ground they follow the noise. Recompressed at quality 60 or a
# tenth brighter: at most 0.044, mostly below 0.01; two patients of two public sets: at least 0.068 (lung CT, 857
# pictures) and 0.082 (brain MR, 14 volumes)
BLOCK = 2**22  # pairs compared at once


def pictures(manifest: pd.DataFrame) -> pd.Series[bool]:
    """The rows that show anything: a blank slice is like every other blank slice."""
    return manifest["std"].astype(float) > 0


def near_pairs(new: pd.DataFrame, known: pd.DataFrame, bits: int, shape: float = LIKE_SHAPE) -> NDArray[np.int64]:
    """Pairs (position in `new`, position in `known`) of near-duplicates, n × 2.

    The directions of the descriptor's low frequencies differ by at most `shape` and the difference hashes in at most
    `bits` of 64; or the directions hardly differ at all. Neither is enough alone: standard anatomy gives the same hash
    to two patients, and noise gives two hashes to one picture.
    """
    if new.empty or known.empty:
        return np.zeros((0, 2), np.int64)
    hashes, directions = _hashes(known["dhash"]), _directions(known["embedding"])
    left, right = _hashes(new["dhash"]), _directions(new["embedding"])
    step, found = max(1, BLOCK // len(known)), []
    for start in range(0, len(new), step):
        likeness = right[start : start + step] @ directions.T  # of unit vectors: 1 - distance² / 2
        pairs = np.argwhere(likeness >= 1 - max(shape, SAME_SHAPE) ** 2 / 2)
        pairs[:, 0] += start
        agree = np.bitwise_count(left[pairs[:, 0]] ^ hashes[pairs[:, 1]]) <= bits
        same = np.linalg.norm(right[pairs[:, 0]] - directions[pairs[:, 1]], axis=1) <= SAME_SHAPE
        found.append(pairs[agree | same])
    return np.concatenate(found)


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


def _directions(column: pd.Series[str]) -> NDArray[np.float32]:
    """Unit vectors of the shapes, n × 19."""
    shape = embeddings(column)[:, SHAPE]
    directions: NDArray[np.float32] = shape / np.maximum(np.linalg.norm(shape, axis=1, keepdims=True), np.float32(1e-6))
    return directions
