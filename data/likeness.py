"""Which scans show the same picture: near-duplicates, and the groups that they form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data import alignment, neighbours, thumbnail
from data.index import embeddings

Array = NDArray[np.float32]
Positions = NDArray[np.int64]
Clusters = NDArray[np.object_]
LIKELY = 0.8  # cosine of two vectors, below which no pair is compared: cropped copies had at least 0.84
WANTED, WIDEST = 8, 1024  # neighbours of other clusters to compare with, and how far to look past one's own cluster
SHAPE = slice(1, 20)  # the low frequencies of the descriptor `dct-1` without the mean: the form, not the brightness
LIKE_SHAPE, SAME_SHAPE = 0.05, 0.02  # distance of directions: where the hashes agree as well; whatever they say
LINKS = 32  # neighbours that a picture is linked to when groups are made


def pictures(manifest: pd.DataFrame) -> pd.Series[bool]:
    """The rows that show anything: a blank slice is like every other blank slice."""
    return manifest["std"].astype(float) > 0


def near_pairs(new: pd.DataFrame, known: pd.DataFrame, alike: float) -> Positions:
    """Pairs (position in `new`, position in `known`) of near-duplicates in different clusters, n × 2.

    The most alike come first. Both tables need the columns `thumbnail` and `cluster`. The likeness (data/alignment.py)
    is at least `alike`: on 857 lung slices copies cropped by up to 5 % on each side had 0.98 in 19 cases of 20,
    recompressed and brightened ones 0.998; pictures of two groups at most 0.964. Only the nearest 8 of other clusters
    are compared, found by an index.
    """
    if new.empty or known.empty:
        return np.zeros((0, 2), np.int64)
    left, right = thumbnail.greys(new["thumbnail"]), thumbnail.greys(known["thumbnail"])
    index, clusters = neighbours.built(thumbnail.vectors(right)), known["cluster"].to_numpy(object)
    pairs = candidates(
        lambda queries, count: neighbours.search(index, queries, count),
        lambda numbers: clusters[numbers],
        thumbnail.vectors(left),
        new["cluster"].to_numpy(object),
    )
    lay, over = thumbnail.frames(left)[pairs[:, 0]], thumbnail.frames(right)[pairs[:, 1]]
    found = alignment.likeness(left[pairs[:, 0]], right[pairs[:, 1]], thumbnail.start(lay, over))
    pairs, found = pairs[found >= alike], found[found >= alike]
    return pairs[np.argsort(-found, kind="stable")]


def candidates(
    find: Callable[[Array, int], tuple[Array, Positions]],
    clusters_of: Callable[[Positions], Clusters],
    vectors: Array,
    clusters: Clusters,
) -> Positions:
    """Pairs (position of a vector, number of a known one) that are worth comparing, n × 2: of other clusters only.

    `find` gives cosines and numbers of the nearest. Where a vector's own cluster takes all places (a patient with
    hundreds of slices) the search is widened for it, four times as far each time.
    """
    asked, count, found = np.arange(len(vectors)), 2 * WANTED, [np.zeros((0, 2), np.int64)]
    while asked.size and count <= WIDEST:
        cosines, numbers = find(vectors[asked], count)
        likely = (numbers >= 0) & (cosines >= LIKELY)
        foreign = likely.copy()
        foreign[likely] = (
            clusters_of(numbers[likely]) != np.broadcast_to(clusters[asked][:, None], likely.shape)[likely]
        )
        foreign &= np.cumsum(foreign, 1) <= WANTED
        enough = (foreign.sum(1) >= WANTED) | ~likely[:, -1] | (count * 4 > WIDEST)
        rows, columns = np.nonzero(foreign & enough[:, None])
        found.append(np.stack([asked[rows], numbers[rows, columns]], 1))
        asked, count = asked[~enough], count * 4
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def groups(manifest: pd.DataFrame, bits: int, shape: float) -> Positions:
    """A group number for each row: near-duplicates, and near-duplicates of those, belong together.

    Looser than `near_pairs`, since neighbouring slices shall be found: the directions of the descriptor's low
    frequencies differ by at most `shape` and the difference hashes in at most `bits` of 64; or the directions hardly
    differ at all. Each picture is linked to its nearest 32 at most.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if manifest.empty:
        return np.zeros(0, np.int64)
    hashes, directions = _hashes(manifest["dhash"]), _directions(manifest["embedding"])
    cosines, numbers = neighbours.search(neighbours.built(directions), directions, LINKS)
    rows, places = np.nonzero((numbers >= 0) & (cosines >= 1 - max(shape, SAME_SHAPE) ** 2 / 2))
    columns = numbers[rows, places]
    agree = np.bitwise_count(hashes[rows] ^ hashes[columns]) <= bits
    linked = agree | (np.linalg.norm(directions[rows] - directions[columns], axis=1) <= SAME_SHAPE)
    links = coo_array((np.ones(linked.sum(), bool), (rows[linked], columns[linked])), shape=(len(manifest),) * 2)
    _, number = connected_components(links, directed=False)
    return np.asarray(number, np.int64)


def _hashes(column: pd.Series[str]) -> NDArray[np.uint64]:
    return np.array([int(text, 16) for text in column], np.uint64)


def _directions(column: pd.Series[str]) -> Array:
    """Unit vectors of the shapes, n × 19."""
    shape = embeddings(column)[:, SHAPE]
    directions: Array = shape / np.maximum(np.linalg.norm(shape, axis=1, keepdims=True), np.float32(1e-6))
    return directions
