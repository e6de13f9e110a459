"""Sampling: the units of an epoch and their order, which depend only on the seed and the epoch's number."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset.shards import Units
from lineage.errors import Fault
from training.settings import Sampling

SAMPLINGS: tuple[str, ...] = get_args(Sampling)
Positions = NDArray[np.int64]


def epoch_order(units: Units, sampling: str, seed: int, epoch: int) -> Positions:
    """Positions (n) of the units of an epoch (from 0); n is the number of units.

    natural: every unit once. balanced: every class equally often, and within a class every cluster equally often, to
    within one; the units of a cluster alternate. Raises Fault for any other name.
    """
    if sampling not in SAMPLINGS:
        raise Fault(f"fit.sampling {sampling!r} is unknown: use one of {', '.join(SAMPLINGS)}")
    random = np.random.default_rng([seed, epoch])
    count = len(units.labels)
    if sampling == "natural":
        return random.permutation(count)
    classes = [np.flatnonzero(units.labels == label) for label in np.unique(units.labels)]
    shares = _even_shares(count, len(classes), random)
    clusters = units.table["cluster"]
    positions = [
        _sample_class(members, clusters, share, random) for members, share in zip(classes, shares, strict=True)
    ]
    return random.permutation(np.concatenate(positions))


def fill_batches(positions: Positions, size: int) -> Positions:
    """Repeat positions from the start until they fill whole batches of `size`.

    Batches of one size are compiled once and can be divided among devices. A last batch of one or two units would
    spoil batch normalisation.
    """
    return np.resize(positions, -(-len(positions) // size) * size)


def _sample_class(members: Positions, clusters: pd.Series[str], share: int, random: np.random.Generator) -> Positions:
    """`share` positions of one class, equally many of each of its clusters."""
    groups = [random.permutation(group) for group in members_by_cluster(members, clusters)]
    positions = [
        np.resize(group, count) for group, count in zip(groups, _even_shares(share, len(groups), random), strict=True)
    ]
    return np.concatenate(positions)


def members_by_cluster(members: Positions, clusters: pd.Series[str]) -> list[Positions]:
    """The positions, grouped by cluster."""
    cluster_names = clusters.to_numpy()[members]
    return [members[cluster_names == name] for name in pd.unique(cluster_names)]


def _even_shares(count: int, share_count: int, random: np.random.Generator) -> Positions:
    """`count` divided into shares that are equal to within one; which of them get one more is random."""
    gets_one_more = random.permutation(share_count) < count % share_count
    return np.asarray(count // share_count + gets_one_more, np.int64)
