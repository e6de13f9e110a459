"""Which units an epoch shows, in which order: it follows from the seed and the epoch's number alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset.shards import Units
from lineage.errors import Fault

SAMPLINGS = ("natural", "balanced")
Places = NDArray[np.int64]


def order(units: Units, sampling: str, seed: int, epoch: int) -> Places:
    """Positions (n) of the units of an epoch (from 0), n of them.

    natural: every unit once. balanced: every class as often as another, and within a class every cluster as often as
    another, to within one; a cluster's units take turns. Raises Fault for another name.
    """
    if sampling not in SAMPLINGS:
        raise Fault(f"fit.sampling {sampling!r} is unknown: use one of {', '.join(SAMPLINGS)}")
    random = np.random.default_rng([seed, epoch])
    count = len(units.labels)
    if sampling == "natural":
        return random.permutation(count)
    classes = [np.flatnonzero(units.labels == label) for label in np.unique(units.labels)]
    shares = _shares(count, len(classes), random)
    clusters = units.table["cluster"]
    drawn = [_of_class(members, clusters, share, random) for members, share in zip(classes, shares, strict=True)]
    return random.permutation(np.concatenate(drawn))


def full(places: Places, size: int) -> Places:
    """The same positions and then the first of them again, until they fill whole batches of `size`.

    Batches of one size are compiled once, divide among devices, and leave batch normalisation none of a unit or two.
    """
    return np.resize(places, -(-len(places) // size) * size)


def _of_class(members: Places, clusters: pd.Series[str], share: int, random: np.random.Generator) -> Places:
    """`share` positions of one class, its clusters alike."""
    groups = [random.permutation(group) for group in members_by_cluster(members, clusters)]
    drawn = [np.resize(group, count) for group, count in zip(groups, _shares(share, len(groups), random), strict=True)]
    return np.concatenate(drawn)


def members_by_cluster(members: Places, clusters: pd.Series[str]) -> list[Places]:
    """The positions, those of a cluster together."""
    names = clusters.to_numpy()[members]
    return [members[names == name] for name in pd.unique(names)]


def _shares(count: int, parts: int, random: np.random.Generator) -> Places:
    """`count` dealt to so many parts, alike to within one; chance says which get one more."""
    extra = random.permutation(parts) < count % parts
    return np.asarray(count // parts + extra, np.int64)
