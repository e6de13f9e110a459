"""The clustered bootstrap: patients are drawn, never slices, and every figure is computed for all draws at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
CHUNK = 256  # draws, or positive units, at a time: bounds the memory
DENSE = 100  # pairs of clusters that cost as much as one unit put in order (measured)
TAIL = 10  # draws beyond a value under which a p-value is read off the fitted normal tail


@dataclass(frozen=True)
class Draws:
    """How often each cluster is in each draw (draws + 1, clusters), and the cluster of each unit (units).

    The first row is the data as they are, so that the first of any figure is the estimate itself.
    """

    weights: Array
    place: NDArray[np.intp]

    def sums(self, values: ArrayLike) -> Array:
        """Sums of the units' values, (units) or (units, k), in every draw: (draws + 1) or (draws + 1, k)."""
        columns = np.asarray(values, np.float64)
        totals = np.zeros((self.weights.shape[1], *columns.shape[1:]))
        np.add.at(totals, self.place, columns)
        return np.asarray(self.weights @ totals)

    def share(self, values: ArrayLike, among: ArrayLike) -> Array:
        """The mean of the units' values among those units, in every draw; NaN where a draw has none of them."""
        mask = np.asarray(among, np.float64)
        return ratio(self.sums(np.asarray(values, np.float64) * mask), self.sums(mask))


def draw(clusters: ArrayLike, count: int, seed: int) -> Draws:
    """Draw as many clusters as there are, with replacement, `count` times (Efron and Tibshirani 1993, chapter 6).

    Clusters count in the order in which they come, not by name: pseudonyms differ between two workspaces.
    """
    place, names = pd.factorize(np.asarray(clusters).astype(str))
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), count)
    return Draws(np.vstack([np.ones(len(names)), drawn]), place)


def auroc(draws: Draws, scores: ArrayLike, positive: ArrayLike) -> Array:
    """Area under the ROC curve in every draw: the share of (positive, negative) pairs in order, ties half.

    Mann-Whitney; Obuchowski 1997 for clusters. Few large clusters: pairs are counted once between clusters, and a
    draw weights them. Many small ones: every draw's units are run through in the order of their scores.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if draws.weights.shape[1] ** 2 > DENSE * len(values):
        wins = _ranked(draws, values, truth)
    else:
        wins = ((draws.weights @ _pairs(draws, values, truth)) * draws.weights).sum(axis=1)
    return ratio(wins, draws.sums(truth) * draws.sums(~truth))


def _ranked(draws: Draws, scores: Array, positive: NDArray[np.bool_]) -> Array:
    """Ordered pairs in every draw (draws + 1), from the sums of weights below each score."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))  # tied scores are one step
    found = []
    for rows in np.array_split(draws.weights, math.ceil(len(draws.weights) / CHUNK)):
        units = rows[:, draws.place[order]]
        above, below = (np.add.reduceat(units * kind[order], starts, axis=1) for kind in (positive, ~positive))
        found.append((above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1))
    return np.concatenate(found)


def _pairs(draws: Draws, scores: Array, positive: NDArray[np.bool_]) -> Array:
    """Ordered pairs (clusters, clusters): positives of the row's cluster above negatives of the column's."""
    clusters = draws.weights.shape[1]
    pairs = np.zeros((clusters, clusters))
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(draws.place[negatives], kind="stable")]
    if not len(negatives):
        return pairs
    columns, starts = np.unique(draws.place[negatives], return_index=True)
    for chunk in np.array_split(np.flatnonzero(positive), max(1, math.ceil(int(positive.sum()) / CHUNK))):
        above = scores[chunk, np.newaxis] - scores[negatives]
        counts = np.add.reduceat((above > 0) + 0.5 * (above == 0), starts, axis=1)
        np.add.at(pairs, (draws.place[chunk][:, np.newaxis], columns), counts)
    return pairs


def average_precision(draws: Draws, scores: ArrayLike, positive: ArrayLike) -> Array:
    """Area under the precision-recall curve in every draw, as the sum of precision over steps of recall."""
    values, truth = np.asarray(scores, np.float64), np.asarray(positive, bool)
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)  # tied scores are one step
    found = []
    for rows in np.array_split(draws.weights, math.ceil(len(draws.weights) / CHUNK)):
        units = rows[:, draws.place[order]]
        hits = np.cumsum(units * truth[order], axis=1)[:, ends]
        called = np.cumsum(units, axis=1)[:, ends]
        steps = np.diff(hits, axis=1, prepend=0.0)
        found.append(ratio((steps * ratio(hits, called, empty=0.0)).sum(axis=1), hits[:, -1]))
    return np.concatenate(found)


def ratio(above: Array, below: Array, empty: float = math.nan) -> Array:
    """`above / below`, `empty` where there is nothing below."""
    divided = np.full(np.broadcast(above, below).shape, empty)
    np.divide(above, below, out=divided, where=below > 0)
    return divided


def interval(values: Array, confidence: float, clusters: int) -> dict[str, float | None]:
    """Estimate and two-sided percentile interval of a figure over the draws; None where it can't be told.

    Where every draw gives the same 0 or 1 the bootstrap knows nothing. Then the exact binomial bound of `clusters`
    without a single event stands in its place (Clopper and Pearson 1934).
    """
    estimate, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not math.isfinite(estimate) or clusters < 1:
        return {"value": None, "low": None, "high": None}
    tail = (1 - confidence) / 2
    if clusters < 2 or len(drawn) < 0.9 * (len(values) - 1):
        return {"value": estimate, "low": None, "high": None}
    low, high = (float(edge) for edge in np.quantile(drawn, [tail, 1 - tail]))
    if low == high == estimate == 1.0:
        low = tail ** (1 / clusters)
    if low == high == estimate == 0.0:
        high = 1 - tail ** (1 / clusters)
    return {"value": estimate, "low": low, "high": high}


def bounds(gap: Array, alpha: float) -> dict[str, float | None]:
    """One-sided percentile bounds of a difference at `alpha`, its error, and the p-values that it is better or worse.

    `gap` (draws + 1) is the difference in every draw. None where a tenth of the draws has no figure.
    """
    told: dict[str, float | None] = dict.fromkeys(("low", "high", "error", "p_better", "p_worse"))
    drawn = gap[1:][np.isfinite(gap[1:])]
    if not math.isfinite(gap[0]) or len(drawn) < 2 or len(drawn) < 0.9 * (len(gap) - 1):
        return told
    low, high = (float(edge) for edge in np.quantile(drawn, [alpha, 1 - alpha]))
    return {"low": low, "high": high, "error": float(drawn.std()), "p_better": tail(drawn), "p_worse": tail(-drawn)}


def tail(drawn: Array) -> float:
    """One-sided p-value that a figure is above 0: the share of draws at or under 0.

    Where fewer than 10 are, the draws can't tell how small the p-value is, and a normal tail is fitted to them.
    """
    from scipy.stats import norm

    count = int((drawn <= 0).sum())
    if count >= TAIL:
        return (1 + count) / (1 + len(drawn))
    spread = float(drawn.std())
    fitted = float(norm.sf(float(drawn.mean()) / spread)) if spread > 0 else 0.0
    return min(fitted, (1 + TAIL) / (1 + len(drawn)))
