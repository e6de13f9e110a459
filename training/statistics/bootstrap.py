"""The clustered bootstrap: it resamples patients, never slices, and computes each metric for all draws at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
CHUNK = 256  # draws, or positive units, at a time: limits the memory
PAIRS_PER_SORTED_UNIT = 100  # pairs of clusters that cost as much as sorting one unit (measured)
MIN_COUNTED_DRAWS = 10  # with fewer draws at or under 0 the p-value comes from a fitted normal tail


@dataclass(frozen=True)
class Draws:
    """How often each cluster is in each draw (draws + 1, clusters), and the cluster of each unit (units).

    The first row counts each cluster once, so the first value of any metric is the estimate itself.
    """

    weights: Array
    cluster_index: NDArray[np.intp]

    def sums(self, values: ArrayLike) -> Array:
        """Sums of the units' values, (units) or (units, k), in every draw: (draws + 1) or (draws + 1, k)."""
        columns = np.asarray(values, np.float64)
        totals = np.zeros((self.weights.shape[1], *columns.shape[1:]))
        np.add.at(totals, self.cluster_index, columns)
        return np.asarray(self.weights @ totals)

    def share(self, values: ArrayLike, subset: ArrayLike) -> Array:
        """The mean of the values of the units in `subset`, in every draw; NaN where a draw has none of them."""
        mask = np.asarray(subset, np.float64)
        return ratio(self.sums(np.asarray(values, np.float64) * mask), self.sums(mask))


def draw(clusters: ArrayLike, count: int, seed: int) -> Draws:
    """Draw as many clusters as there are, with replacement, `count` times (Efron and Tibshirani 1993, chapter 6).

    Clusters are numbered in order of appearance, not by name: pseudonyms differ between two workspaces.
    """
    cluster_index, names = pd.factorize(np.asarray(clusters).astype(str))
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), count)
    return Draws(np.vstack([np.ones(len(names)), counts]), cluster_index)


def auroc(draws: Draws, scores: ArrayLike, positive: ArrayLike) -> Array:
    """Area under the ROC curve in every draw: the share of correctly ordered (positive, negative) pairs, ties half.

    Mann-Whitney; Obuchowski 1997 for clusters. With few large clusters, pairs are counted once between clusters and
    weighted in each draw. With many small clusters, each draw passes over its units in the order of their scores.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if draws.weights.shape[1] ** 2 > PAIRS_PER_SORTED_UNIT * len(values):
        wins = _ordered_pairs_by_rank(draws, values, truth)
    else:
        wins = ((draws.weights @ _ordered_pairs_by_cluster(draws, values, truth)) * draws.weights).sum(axis=1)
    return ratio(wins, draws.sums(truth) * draws.sums(~truth))


def _ordered_pairs_by_rank(draws: Draws, scores: Array, positive: NDArray[np.bool_]) -> Array:
    """Ordered pairs in every draw (draws + 1), from the sums of weights below each score."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))  # tied scores are one step
    sums = []
    for rows in np.array_split(draws.weights, math.ceil(len(draws.weights) / CHUNK)):
        units = rows[:, draws.cluster_index[order]]
        above, below = (np.add.reduceat(units * kind[order], starts, axis=1) for kind in (positive, ~positive))
        sums.append((above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1))
    return np.concatenate(sums)


def _ordered_pairs_by_cluster(draws: Draws, scores: Array, positive: NDArray[np.bool_]) -> Array:
    """Ordered pairs (clusters, clusters): positives of the row's cluster above negatives of the column's."""
    clusters = draws.weights.shape[1]
    pairs = np.zeros((clusters, clusters))
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(draws.cluster_index[negatives], kind="stable")]
    if not len(negatives):
        return pairs
    columns, starts = np.unique(draws.cluster_index[negatives], return_index=True)
    for chunk in np.array_split(np.flatnonzero(positive), max(1, math.ceil(int(positive.sum()) / CHUNK))):
        above = scores[chunk, np.newaxis] - scores[negatives]
        counts = np.add.reduceat((above > 0) + 0.5 * (above == 0), starts, axis=1)
        np.add.at(pairs, (draws.cluster_index[chunk][:, np.newaxis], columns), counts)
    return pairs


def average_precision(draws: Draws, scores: ArrayLike, positive: ArrayLike) -> Array:
    """Area under the precision-recall curve in every draw, as the sum of precision over steps of recall."""
    values, truth = np.asarray(scores, np.float64), np.asarray(positive, bool)
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)  # tied scores are one step
    areas = []
    for rows in np.array_split(draws.weights, math.ceil(len(draws.weights) / CHUNK)):
        units = rows[:, draws.cluster_index[order]]
        hits = np.cumsum(units * truth[order], axis=1)[:, ends]
        called = np.cumsum(units, axis=1)[:, ends]
        steps = np.diff(hits, axis=1, prepend=0.0)
        areas.append(ratio((steps * ratio(hits, called, empty=0.0)).sum(axis=1), hits[:, -1]))
    return np.concatenate(areas)


def ratio(numerator: Array, denominator: Array, empty: float = math.nan) -> Array:
    """`numerator / denominator`; `empty` where the denominator is not positive."""
    quotient = np.full(np.broadcast(numerator, denominator).shape, empty)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def interval(values: Array, confidence: float, clusters: int) -> dict[str, float | None]:
    """Estimate and two-sided percentile interval of a metric over the draws; None where it cannot be computed.

    If every draw gives the same 0 or 1, the bootstrap has no spread. The exact binomial bound for `clusters` trials
    without an event then replaces it (Clopper and Pearson 1934).
    """
    estimate, finite = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not math.isfinite(estimate) or clusters < 1:
        return {"value": None, "low": None, "high": None}
    tail = (1 - confidence) / 2
    if clusters < 2 or len(finite) < 0.9 * (len(values) - 1):
        return {"value": estimate, "low": None, "high": None}
    low, high = (float(edge) for edge in np.quantile(finite, [tail, 1 - tail]))
    if low == high == estimate == 1.0:
        low = tail ** (1 / clusters)
    if low == high == estimate == 0.0:
        high = 1 - tail ** (1 / clusters)
    return {"value": estimate, "low": low, "high": high}


def bounds(gap: Array, alpha: float) -> dict[str, float | None]:
    """One-sided percentile bounds of a difference at `alpha`, its standard error, and two one-sided p-values.

    `gap` (draws + 1) is the difference in every draw. All are None if more than a tenth of the draws have no value.
    """
    unknown: dict[str, float | None] = dict.fromkeys(("low", "high", "error", "p_better", "p_worse"))
    finite = gap[1:][np.isfinite(gap[1:])]
    if not math.isfinite(gap[0]) or len(finite) < 2 or len(finite) < 0.9 * (len(gap) - 1):
        return unknown
    low, high = (float(edge) for edge in np.quantile(finite, [alpha, 1 - alpha]))
    return {
        "low": low,
        "high": high,
        "error": float(finite.std()),
        "p_better": p_value_above_zero(finite),
        "p_worse": p_value_above_zero(-finite),
    }


def p_value_above_zero(values: Array) -> float:
    """One-sided p-value that a metric is above 0: the share of its values over the draws at or under 0.

    With fewer than `MIN_COUNTED_DRAWS` such draws, their share is too coarse, and a normal tail is fitted instead.
    """
    from scipy.stats import norm

    count = int((values <= 0).sum())
    if count >= MIN_COUNTED_DRAWS:
        return (1 + count) / (1 + len(values))
    spread = float(values.std())
    fitted = float(norm.sf(float(values.mean()) / spread)) if spread > 0 else 0.0
    return min(fitted, (1 + MIN_COUNTED_DRAWS) / (1 + len(values)))
