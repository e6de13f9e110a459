"""Paired comparison of two areas under the ROC curve by DeLong's method, patients as clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairedAreas:
    """Two AUROCs of the same units, their covariance (2, 2), and the degrees of freedom of their difference.

    `degrees_of_freedom` is Satterthwaite's, from the share of variance of the positives and of the negatives. Brunner
    and Munzel (Biometrical Journal 42, 2000) use it for one area. For a dozen patients the normal distribution is too
    narrow.
    """

    areas: tuple[float, float]
    covariance: Array
    degrees_of_freedom: float

    @property
    def difference(self) -> float:
        """The first area minus the second."""
        return self.areas[0] - self.areas[1]

    @property
    def error(self) -> float:
        """Standard error of the difference."""
        return math.sqrt(max(0.0, float(self.covariance[0, 0] + self.covariance[1, 1] - 2 * self.covariance[0, 1])))

    @property
    def z(self) -> float:
        """The difference in standard errors, for a normal distribution as in DeLong et al."""
        return self.difference / self.error if self.error > 0 else math.copysign(math.inf, self.difference)

    def bound(self, alpha: float, side: int) -> float:
        """One-sided bound of the difference at `alpha`, by Student's t: the low one for side -1, the high one for 1."""
        from scipy.stats import t

        return self.difference + side * float(t.ppf(1 - alpha, self.degrees_of_freedom)) * self.error

    def p(self, side: int) -> float:
        """One-sided p-value that the first is better (side 1) or worse (side -1), by Student's t."""
        from scipy.stats import t

        distance = side * self.difference
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(t.sf(distance / self.error, self.degrees_of_freedom))


def compare_areas(first: ArrayLike, second: ArrayLike, positive: ArrayLike, clusters: ArrayLike) -> PairedAreas | None:
    """Compare two models' scores (units) on the same units; None with fewer than two clusters of either kind.

    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), by the ranks of Sun and Xu (IEEE Signal Processing
    Letters 21, 2014), summed over the units of a cluster as in Obuchowski (Biometrics 53, 1997). With one unit per
    cluster this equals DeLong's estimate.
    """
    truth = np.asarray(positive, bool)
    cluster_index = pd.factorize(np.asarray(clusters).astype(str))[0]
    counts = np.vstack(
        [np.bincount(cluster_index[mask], minlength=cluster_index.max() + 1) for mask in (truth, ~truth)]
    )
    cluster_counts = (counts > 0).sum(axis=1)
    if cluster_counts.min() < 2:
        return None
    areas, influence = [], []
    for scores in (first, second):
        area, shares = _components(np.asarray(scores, np.float64), truth)
        sums = np.vstack(
            [np.bincount(cluster_index[mask], shares[mask], cluster_index.max() + 1) for mask in (truth, ~truth)]
        )
        areas.append(area)
        influence.append((sums - counts * area) / counts.sum(axis=1, keepdims=True))  # (kinds, clusters)
    return PairedAreas((areas[0], areas[1]), *_spread(np.stack(influence), cluster_counts, counts.shape[1]))


def _components(scores: Array, positive: NDArray[np.bool_]) -> tuple[float, Array]:
    """The area, and for each unit the share of the other kind that it is correctly ranked against; ties count half."""
    from scipy.stats import rankdata

    above, below = scores[positive], scores[~positive]
    ranks = rankdata(scores)
    shares = np.empty(len(scores))
    shares[positive] = (ranks[positive] - rankdata(above)) / len(below)
    shares[~positive] = 1 - (ranks[~positive] - rankdata(below)) / len(above)
    return float(shares[positive].mean()), shares


def _spread(influence: Array, cluster_counts: NDArray[np.int64], clusters: int) -> tuple[Array, float]:
    """Covariance of the areas and degrees of freedom of their difference, from (models, kinds, clusters)."""
    first, second = influence[:, 0], influence[:, 1]
    kinds = [
        count / (count - 1) * kind_influence @ kind_influence.T
        for count, kind_influence in zip(cluster_counts, (first, second), strict=True)
    ]
    within = clusters / (clusters - 1) * (first @ second.T)  # covariance of clusters that hold both kinds
    contrast = np.array([1.0, -1.0])
    shares = np.array([max(0.0, float(contrast @ kind @ contrast)) for kind in kinds])
    degrees_of_freedom = (
        shares.sum() ** 2 / (shares**2 / (cluster_counts - 1)).sum()
        if shares.any()
        else float(cluster_counts.min() - 1)
    )
    return np.asarray(kinds[0] + kinds[1] + within + within.T), float(degrees_of_freedom)
