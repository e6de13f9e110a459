"""Which scans show the same picture: near-duplicates, and the groups that they form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.duplicates import image_alignment, vector_index
from data.scan import thumbnail

Array = NDArray[np.float32]
Positions = NDArray[np.int64]
Clusters = NDArray[np.object_]
LIKELY = 0.8  # cosine of two vectors, below which no pair is compared: cropped copies had at least 0.84
WANTED, WIDEST = 8, 1024  # neighbours of other clusters to compare with, and how far to look past one's own cluster
LINKS, POSSIBLE = 32, 0.6  # when groups are made: neighbours that a picture is compared with; their least cosine
LINKED, NEXT = 0.953, 0.92  # likeness of two pictures of one group; and of the next slices of a volume
HALF_SIZE = 0.8  # likeness at half size, under which two pictures are not compared at full size for a group


def pictures(manifest: pd.DataFrame) -> pd.Series[bool]:
    """The rows that show anything: a blank slice is like every other blank slice."""
    return manifest["std"].astype(float) > 0


def near_pairs(new: pd.DataFrame, known: pd.DataFrame, alike: float) -> Positions:
    """Pairs (position in `new`, position in `known`) of near-duplicates in different clusters, n × 2.

    The most alike come first. Both tables need the columns `thumbnail` and `cluster`. The likeness
    (data/duplicates/image_alignment.py)
    is at least `alike`: on 857 lung slices copies cropped by up to 5 % on each side had 0.98 in 19 cases of 20,
    recompressed and brightened ones 0.998; pictures of two groups at most 0.964. Only the nearest 8 of other clusters
    are compared, found by an index.
    """
    if new.empty or known.empty:
        return np.zeros((0, 2), np.int64)
    left, right = thumbnail.greys(new["thumbnail"]), thumbnail.greys(known["thumbnail"])
    index, clusters = vector_index.built(thumbnail.vectors(right)), known["cluster"].to_numpy(object)
    pairs = candidates(
        lambda queries, count: vector_index.search(index, queries, count),
        lambda numbers: clusters[numbers],
        thumbnail.vectors(left),
        new["cluster"].to_numpy(object),
    )
    lay, over = thumbnail.frames(left)[pairs[:, 0]], thumbnail.frames(right)[pairs[:, 1]]
    found = image_alignment.likeness(left[pairs[:, 0]], right[pairs[:, 1]], thumbnail.start(lay, over))
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


def groups(thumbnails: pd.Series[str]) -> Positions:
    """A group number for each picture: near-duplicates, neighbouring slices, and those of those; by a chain of links.

    Two pictures are linked if their detail is alike by `LINKED` after one has been laid over the other, or if each is
    among the two most alike to the other, as the next slices of a volume are, and alike by `NEXT` at least. Each
    picture is compared with 32 at most, found by an index. How well that does on real sets: docs/data-quality.md.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if thumbnails.empty:
        return np.zeros(0, np.int64)
    pairs, alike = _compared(thumbnails)
    linked = (alike >= LINKED) | (_ranks(pairs, alike) < 2).all(1)
    rows, columns = pairs[linked].T
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(thumbnails),) * 2)
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _compared(thumbnails: pd.Series[str]) -> tuple[Positions, Array]:
    """The pairs of pictures that are alike by `NEXT` at least, n × 2, the first before the second; and how alike."""
    shown = thumbnail.greys(thumbnails)
    vectors, frames = thumbnail.vectors(shown), thumbnail.frames(shown)
    cosines, numbers = vector_index.search(vector_index.built(vectors), vectors, LINKS + 1)
    rows, places = np.nonzero((numbers >= 0) & (cosines >= POSSIBLE) & (numbers != np.arange(len(shown))[:, None]))
    pairs = np.unique(np.sort(np.stack([rows, numbers[rows, places]], 1), 1), axis=0)
    left, right = pairs.T
    start = thumbnail.start(frames[left], frames[right])
    alike = image_alignment.likeness(shown[left], shown[right], start, HALF_SIZE)
    near = alike >= NEXT
    return pairs[near], alike[near]


def _ranks(pairs: Positions, alike: Array) -> Positions:
    """Of each pair, which of the first one's likes the second is (0: the most alike), and the reverse; n × 2."""
    whose, double = pairs.T.ravel(), np.tile(alike, 2)
    order = np.lexsort((-double, whose))
    ranks = np.empty(len(whose), np.int64)
    ranks[order] = np.arange(len(whose)) - np.searchsorted(whose[order], whose[order])
    return ranks.reshape(2, -1).T
