"""The score distribution of a site, from few local patients and the release's validation scores as prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SHIFT_SD = 3.0  # prior spread of a site's shift, in standard deviations of the release's scores
SEPARATION_SD = 0.35  # of a shift of the positive units alone, in the same unit: how far the ranking may change
LOG_SCALE_SD = 0.5  # of the logarithm of a site's scale
LOG_SCALES = np.linspace(-2.0, 2.0, 61)
SMOOTHING = 0.15  # bandwidth of the release's scores in their standard deviation
PRIOR_PATIENTS = 50  # local patients of a class that weigh as much as the aligned distribution of the release
CORRELATION = 0.5  # assumed between the slices of a patient: m slices weigh m / (1 + (m - 1) * CORRELATION)
QUANTILES = 100  # at most so many scores represent a distribution
NEGLIGIBLE = 1e-4  # relative density under which a scale is left out
BISECTIONS = 40
LOGIT_LIMIT = 1e-7  # probabilities are clipped to this distance from 0 and 1


@dataclass(frozen=True)
class Scores:
    """Scores on the logit scale (n) and their weights (n), in patients."""

    values: Array
    weights: Array

    @property
    def patients(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum())


@dataclass(frozen=True)
class Distribution:
    """The expected distribution of a site's scores of one kind of unit.

    The distribution of the release after alignment, mixed with the local scores: the posterior mean of a Dirichlet
    process (Ferguson 1973) with `PRIOR_PATIENTS`. So many local patients need no shape of the release. `weights`,
    `scales`, `locations` and `variances` (of the location) are the posterior of the alignment over a grid of scales.
    """

    weights: Array
    scales: Array
    locations: Array
    variances: Array
    reference: Array
    local: Scores
    deviation: float

    def share_below(self, edge: float) -> float:
        """The expected share of units below a score."""
        from scipy.special import ndtr

        bandwidths = SMOOTHING * self.deviation * self.scales
        centres = self.locations[:, np.newaxis] + self.scales[:, np.newaxis] * self.reference
        spread = np.sqrt(self.variances + bandwidths**2)[:, np.newaxis]
        aligned = float(self.weights @ ndtr((edge - centres) / spread).mean(axis=1))
        patients = self.local.patients
        if not patients:
            return aligned
        observed = ndtr((edge - self.local.values) / float(self.weights @ bandwidths))
        return (PRIOR_PATIENTS * aligned + float(self.local.weights @ observed)) / (PRIOR_PATIENTS + patients)

    def score_below(self, share: float) -> float:
        """The score below which this share of the units is expected."""
        low, high = self.range()
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.share_below(middle) < share else (low, middle)
        return (low + high) / 2

    def range(self) -> tuple[float, float]:
        """Scores below and above all units."""
        ends = [self.locations + self.scales * edge for edge in (self.reference.min(), self.reference.max())]
        low, high = float(min(edge.min() for edge in ends)), float(max(edge.max() for edge in ends))
        return low - (high - low) - 1, high + (high - low) + 1


@dataclass(frozen=True)
class Alignment:
    """Posterior of a site's affine effect on scores: weights of a grid of scales, each with normal locations.

    `inside` and `outside` (grid, 2) have mean and variance of the location of positive and of other units.
    """

    weights: Array
    scales: Array
    inside: Array
    outside: Array
    deviation: float

    @property
    def scale(self) -> float:
        """Posterior mean of the scale."""
        return float(self.weights @ self.scales)

    @property
    def shift(self) -> float:
        """Posterior mean of the shift of the negative units."""
        return float(self.weights @ self.outside[:, 0])

    def distribution(self, moments: Array, reference: Array, local: Scores) -> Distribution:
        """The site's distribution of scores whose release scores are `reference`, with `inside` or `outside`."""
        locations, variances = moments[:, 0], moments[:, 1]
        return Distribution(self.weights, self.scales, locations, variances, reference, local, self.deviation)


def logits(probabilities: NDArray[np.floating]) -> Array:
    """Log-odds of probabilities, clipped away from 0 and 1."""
    clipped = np.clip(np.asarray(probabilities, np.float64), LOGIT_LIMIT, 1 - LOGIT_LIMIT)
    return np.asarray(np.log(clipped / (1 - clipped)))


def weigh(values: Array, clusters: NDArray[np.str_]) -> Scores:
    """Scores with weights: the units of one patient count for less than as many patients."""
    _, index, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    return Scores(values, 1 / (1 + (counts[index] - 1) * CORRELATION))


def summarise(values: Array, digits: int = 4) -> list[float]:
    """At most `QUANTILES` sorted scores with equal weight that represent these values."""
    if len(values) > QUANTILES:
        values = np.quantile(values, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return [round(float(value), digits) for value in np.sort(values)]


def normal_scores(local: Scores, count: int = QUANTILES) -> Array:
    """Quantiles of the normal distribution with mean and deviation of these scores, where a release has no scores."""
    from scipy.special import ndtri

    mean = float(np.average(local.values, weights=local.weights))
    deviation = float(np.sqrt(np.average((local.values - mean) ** 2, weights=local.weights)))
    return np.asarray(mean + max(deviation, 0.1) * ndtri((np.arange(count) + 0.5) / count))


def align(
    inside_reference: Array, outside_reference: Array, inside: Scores, outside: Scores, log_scale: float = 0.0
) -> Alignment:
    """Posterior of shift and scale of a site, from local scores of positive (inside) and negative (outside) units.

    Model: a local score is `shift + separation * is_positive + scale * reference score`. The release's scores of each
    kind enter by mean and deviation. Shift and separation are normal given the scale, so their posterior is exact;
    the scale is summed over a grid. `log_scale` is the prior mean of the scale's logarithm.
    """
    kinds = ((inside_reference, inside, np.array([1.0, 1.0])), (outside_reference, outside, np.array([1.0, 0.0])))
    deviations = [max(float(reference.std()), 0.1) for reference, _, _ in kinds]
    deviation = float(np.mean(deviations))
    grid = LOG_SCALES + log_scale
    scales = np.exp(grid)
    prior = np.zeros((len(grid), 2, 2))
    prior[:, 0, 0] = (SHIFT_SD * deviation) ** -2
    prior[:, 1, 1] = (SEPARATION_SD * deviation * scales) ** -2
    precision, right_side = prior.copy(), np.zeros((len(grid), 2))
    log_density = -0.5 * (LOG_SCALES / LOG_SCALE_SD) ** 2 + 0.5 * np.log(prior[:, 1, 1])
    for (reference, local, row), kind_deviation in zip(kinds, deviations, strict=True):
        if not len(local.values):
            continue
        mean = float(np.average(local.values, weights=local.weights))
        squares = float(local.weights @ (local.values - mean) ** 2)
        noise = (scales * kind_deviation) ** 2
        gap = mean - scales * float(reference.mean())
        precision += (local.patients / noise)[:, np.newaxis, np.newaxis] * np.outer(row, row)
        right_side += (local.patients * gap / noise)[:, np.newaxis] * row
        log_density -= local.patients * np.log(scales) + (squares + local.patients * gap**2) / (2 * noise)
    covariance = np.linalg.inv(precision)
    location = np.einsum("gij,gj->gi", covariance, right_side)
    log_density += 0.5 * np.einsum("gi,gi->g", right_side, location) - 0.5 * np.linalg.slogdet(precision)[1]
    weights = np.exp(log_density - log_density.max())
    likely = weights > NEGLIGIBLE
    weights, scales, location, covariance = (values[likely] for values in (weights, scales, location, covariance))
    rows = [row for _, _, row in kinds]
    moments = [np.column_stack([location @ row, np.einsum("i,gij,j->g", row, covariance, row)]) for row in rows]
    return Alignment(weights / weights.sum(), scales, moments[0], moments[1], deviation)
