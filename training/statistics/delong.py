"""Paired comparison of two areas under the ROC curve by DeLong's method, patients as clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Two AUROCs of the same units, their covariance (2, 2), and the degrees of freedom of their difference.

    `freedom` is Satterthwaite's, of the positives' and the negatives' share of the variance, as Brunner and Munzel
    (Biometrical Journal 42, 2000) use it for one area: with a dozen patients the normal distribution is too sure.
    """

    areas: tuple[float, float]
    covariance: Array
    freedom: float

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
        """The difference in standard errors, for the normal distribution as DeLong et al. have it."""
        return self.difference / self.error if self.error > 0 else math.copysign(math.inf, self.difference)

    def bound(self, alpha: float, side: int) -> float:
        """One-sided bound of the difference at `alpha`, by Student's t: the low one for side -1, the high one for 1."""
        from scipy.stats import t

        return self.difference + side * float(t.ppf(1 - alpha, self.freedom)) * self.error

    def p(self, side: int) -> float:
        """One-sided p-value that the first is better (side 1) or worse (side -1), by Student's t."""
        from scipy.stats import t

        away = side * self.difference
        if self.error == 0:
            return 0.0 if away > 0 else 1.0
        return float(t.sf(away / self.error, self.freedom))


def paired(first: ArrayLike, second: ArrayLike, positive: ArrayLike, clusters: ArrayLike) -> Paired | None:
    """Compare the scores of two models on the same units, each (units); None with under two clusters of either kind.

    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), by the ranks of Sun and Xu (IEEE Signal Processing
    Letters 21, 2014), summed over the units of a cluster as in Obuchowski (Biometrics 53, 1997): where each cluster
    is one unit, that is DeLong's own estimate.
    """
    truth = np.asarray(positive, bool)
    place = pd.factorize(np.asarray(clusters).astype(str))[0]
    counts = np.vstack([np.bincount(place[mask], minlength=place.max() + 1) for mask in (truth, ~truth)])
    held = (counts > 0).sum(axis=1)
    if held.min() < 2:
        return None
    areas, influence = [], []
    for scores in (first, second):
        area, shares = _components(np.asarray(scores, np.float64), truth)
        sums = np.vstack([np.bincount(place[mask], shares[mask], place.max() + 1) for mask in (truth, ~truth)])
        areas.append(area)
        influence.append((sums - counts * area) / counts.sum(axis=1, keepdims=True))  # (kinds, clusters)
    return Paired((areas[0], areas[1]), *_spread(np.stack(influence), held, counts.shape[1]))


def _components(scores: Array, positive: NDArray[np.bool_]) -> tuple[float, Array]:
    """The area, and of each unit the share of the other kind that it is ranked rightly against; ties count half."""
    from scipy.stats import rankdata

    above, below = scores[positive], scores[~positive]
    ranks = rankdata(scores)
    shares = np.empty(len(scores))
    shares[positive] = (ranks[positive] - rankdata(above)) / len(below)
    shares[~positive] = 1 - (ranks[~positive] - rankdata(below)) / len(above)
    return float(shares[positive].mean()), shares


def _spread(influence: Array, held: NDArray[np.int64], clusters: int) -> tuple[Array, float]:
    """Covariance of the areas and degrees of freedom of their difference, from (models, kinds, clusters)."""
    first, second = influence[:, 0], influence[:, 1]
    kinds = [count / (count - 1) * part @ part.T for count, part in zip(held, (first, second), strict=True)]
    within = clusters / (clusters - 1) * (first @ second.T)  # of clusters that hold both kinds
    contrast = np.array([1.0, -1.0])
    shares = np.array([max(0.0, float(contrast @ kind @ contrast)) for kind in kinds])
    freedom = shares.sum() ** 2 / (shares**2 / (held - 1)).sum() if shares.any() else float(held.min() - 1)
    return np.asarray(kinds[0] + kinds[1] + within + within.T), float(freedom)
