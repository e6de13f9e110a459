"""Near-duplicate pairs of pictures, and groups of near-duplicates."""

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
MIN_COSINE = 0.8  # minimum cosine of two vectors for a comparison; cropped copies had at least 0.84
NEIGHBOUR_COUNT, WIDEST = 8, 1024  # neighbours of other clusters to compare; maximum neighbours searched to find them
LINKS, POSSIBLE = 32, 0.6  # for groups: neighbours to compare with a picture; their minimum cosine
LINKED, NEXT = 0.953, 0.92  # minimum likeness of two pictures of one group; of adjacent slices of a volume
HALF_SIZE = 0.8  # for groups: minimum likeness at half size for a comparison at full size


def pictures(manifest: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are not blank: all blank slices are alike."""
    return manifest["std"].astype(float) > 0


def near_pairs(new: pd.DataFrame, other: pd.DataFrame, min_likeness: float) -> Positions:
    """Pairs (position in `new`, position in `other`) of near-duplicates in different clusters, n × 2, most alike first.

    Both tables need the columns `thumbnail` and `cluster`. The likeness (data/duplicates/image_alignment.py) is at
    least `min_likeness`. On 857 lung slices, copies cropped by up to 5 % on each side had 0.98 in 19 of 20 cases,
    recompressed and brightened copies 0.998, and pictures of two groups at most 0.964. Only the nearest 8 of other
    clusters are compared, found by an index.
    """
    if new.empty or other.empty:
        return np.zeros((0, 2), np.int64)
    left, right = thumbnail.decode_thumbnails(new["thumbnail"]), thumbnail.decode_thumbnails(other["thumbnail"])
    index, clusters = (
        vector_index.build_in_memory(thumbnail.thumbnail_vectors(right)),
        other["cluster"].to_numpy(object),
    )
    pairs = candidates(
        lambda queries, count: vector_index.search(index, queries, count),
        lambda numbers: clusters[numbers],
        thumbnail.thumbnail_vectors(left),
        new["cluster"].to_numpy(object),
    )
    left_frames, right_frames = thumbnail.body_frames(left)[pairs[:, 0]], thumbnail.body_frames(right)[pairs[:, 1]]
    likeness = image_alignment.likeness(
        left[pairs[:, 0]], right[pairs[:, 1]], thumbnail.initial_alignment(left_frames, right_frames)
    )
    pairs, likeness = pairs[likeness >= min_likeness], likeness[likeness >= min_likeness]
    return pairs[np.argsort(-likeness, kind="stable")]


def candidates(
    find: Callable[[Array, int], tuple[Array, Positions]],
    clusters_of: Callable[[Positions], Clusters],
    vectors: Array,
    clusters: Clusters,
) -> Positions:
    """Pairs (position of a vector, number of a known vector) of different clusters to compare, n × 2.

    `find` returns cosines and numbers of the nearest. If the own cluster of a vector fills the result (a patient with
    hundreds of slices), the search is repeated for four times as many, until enough neighbours of others are found.
    """
    pending, count, pairs_found = np.arange(len(vectors)), 2 * NEIGHBOUR_COUNT, [np.zeros((0, 2), np.int64)]
    while pending.size and count <= WIDEST:
        cosines, numbers = find(vectors[pending], count)
        is_likely = (numbers >= 0) & (cosines >= MIN_COSINE)
        is_foreign = is_likely.copy()
        is_foreign[is_likely] = (
            clusters_of(numbers[is_likely]) != np.broadcast_to(clusters[pending][:, None], is_likely.shape)[is_likely]
        )
        is_foreign &= np.cumsum(is_foreign, 1) <= NEIGHBOUR_COUNT
        is_complete = (is_foreign.sum(1) >= NEIGHBOUR_COUNT) | ~is_likely[:, -1] | (count * 4 > WIDEST)
        rows, columns = np.nonzero(is_foreign & is_complete[:, None])
        pairs_found.append(np.stack([pending[rows], numbers[rows, columns]], 1))
        pending, count = pending[~is_complete], count * 4
    pairs = np.concatenate(pairs_found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def groups(thumbnails: pd.Series[str]) -> Positions:
    """A group number per picture: the connected components of the links between near-duplicates and adjacent slices.

    Two pictures are linked if their likeness after alignment is at least `LINKED`; or if it is at least `NEXT` and each
    is among the two most alike to the other, as adjacent slices of a volume are. Each picture is compared with at most
    32 others, found by an index. docs/data-quality.md has the accuracy on real data sets.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if thumbnails.empty:
        return np.zeros(0, np.int64)
    pairs, likeness = _likely_pairs(thumbnails)
    is_linked = (likeness >= LINKED) | (_ranks(pairs, likeness) < 2).all(1)
    rows, columns = pairs[is_linked].T
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(thumbnails),) * 2)
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _likely_pairs(thumbnails: pd.Series[str]) -> tuple[Positions, Array]:
    """The pairs of pictures with a likeness of at least `NEXT`, n × 2, the first before the second.

    And the likeness.
    """
    greys = thumbnail.decode_thumbnails(thumbnails)
    vectors, frames = thumbnail.thumbnail_vectors(greys), thumbnail.body_frames(greys)
    cosines, numbers = vector_index.search(vector_index.build_in_memory(vectors), vectors, LINKS + 1)
    rows, columns = np.nonzero((numbers >= 0) & (cosines >= POSSIBLE) & (numbers != np.arange(len(greys))[:, None]))
    pairs = np.unique(np.sort(np.stack([rows, numbers[rows, columns]], 1), 1), axis=0)
    left, right = pairs.T
    start = thumbnail.initial_alignment(frames[left], frames[right])
    likeness = image_alignment.likeness(greys[left], greys[right], start, HALF_SIZE)
    is_near = likeness >= NEXT
    return pairs[is_near], likeness[is_near]


def _ranks(pairs: Positions, likeness: Array) -> Positions:
    """The rank of the second picture of each pair among those alike to the first (0: most alike), and the reverse.

    N × 2.
    """
    owners, likeness_of_owners = pairs.T.ravel(), np.tile(likeness, 2)
    order = np.lexsort((-likeness_of_owners, owners))
    ranks = np.empty(len(owners), np.int64)
    ranks[order] = np.arange(len(owners)) - np.searchsorted(owners[order], owners[order])
    return ranks.reshape(2, -1).T
