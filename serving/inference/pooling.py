"""Pool the slices of a case to one answer that does not depend on the mere number of slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from data.core_types import Pooling, PoolingRule
from lineage.errors import Fault

Array = NDArray[np.float32]
Share = float | NDArray[Any]
RULES: tuple[str, ...] = get_args(PoolingRule)
INDEPENDENT_MM = 10.0  # slices that are closer together show the same finding, and their errors correlate


def pool(
    slices: Array, positive: Sequence[int], pooling: Pooling, prevalence: float, independent_slices: float
) -> Array:
    """A case's probabilities (classes) from those of its slices (n, classes).

    The result is the mean of all slices, or of the k most positive ones. Choosing k of n slices would let a healthy
    body of 300 slices reach any threshold by chance. So the probabilities of the k slices are first adjusted to how
    rare a positive slice is among `independent_slices`, see `among`. Up to k independent slices nothing is adjusted.
    Raises Fault for an unknown rule.
    """
    if pooling.rule == "mean":
        return np.asarray(slices.mean(axis=0, dtype=np.float64), np.float32)
    if pooling.rule != "topk":
        raise Fault(f"pooling rule {pooling.rule!r} is unknown: use one of {', '.join(RULES)}")
    top: NDArray[Any] = slices[deciding_slices(slices[:, list(positive)].sum(axis=1), pooling)]
    if independent_slices > pooling.k:
        masses = top[:, list(positive)].sum(axis=1, dtype=np.float64)
        adjusted = adjust_to_prevalence(masses, prevalence, pooling.k / independent_slices)
        top = _with_positive_mass(top, positive, masses, adjusted)
    return np.asarray(top.mean(axis=0, dtype=np.float64), np.float32)


def deciding_slices(scores: NDArray[Any], pooling: Pooling) -> NDArray[np.intp]:
    """Positions of the slices that `pool` averages, from their probabilities (n) of the positive classes."""
    order = np.argsort(-scores, kind="stable")
    return order if pooling.rule == "mean" else order[: pooling.k]


def independent_slice_count(slices: int, distance: float) -> float:
    """The number of independent slices among slices `distance` mm apart: all of them if the distance is unknown (0)."""
    return float(slices) if distance <= 0 else min(float(slices), max(1.0, slices * distance / INDEPENDENT_MM))


def adjust_to_prevalence(scores: NDArray[Any], prevalence: float, share: Share) -> NDArray[np.float64]:
    """Adjust positive probabilities (any shape) of slices from the calibration prior to a rarer one.

    The model was calibrated at `prevalence`. A positive case shows its finding in only a `share` of its independent
    slices, so the prevalence per slice is `prevalence` × `share`. Bayes' rule: the odds change by the ratio of the
    prior odds (Saerens et al., Neural Computation 2002, equation 2.4).
    """
    rare = prevalence * share
    ratio = rare / (1 - rare) * (1 - prevalence) / prevalence
    return np.asarray(scores * ratio / (scores * ratio + 1 - scores))


def slice_threshold(threshold: float, pooling: Pooling, prevalence: float, independent_slices: float) -> float:
    """The probability of a single slice that `pool` maps to `threshold` in a case of `independent_slices`."""
    if pooling.rule != "topk" or independent_slices <= pooling.k:
        return threshold
    rare = prevalence * pooling.k / independent_slices
    ratio = prevalence / (1 - prevalence) * (1 - rare) / rare
    return threshold * ratio / (threshold * ratio + 1 - threshold)


def prevalence(positives: NDArray[np.bool_]) -> float:
    """The share of positive units in the calibration data, never 0 or 1 (Laplace's rule of succession)."""
    return float((positives.sum() + 1) / (len(positives) + 2))


def _with_positive_mass(
    slices: Array, positive: Sequence[int], masses: NDArray[np.float64], new_masses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale each slice to its new positive mass; the ratios within positive and within other classes stay."""
    is_positive = np.isin(np.arange(slices.shape[1]), list(positive))
    factors = np.where(is_positive, (new_masses / np.maximum(masses, 1e-12))[:, None], 0.0)
    factors += np.where(is_positive, 0.0, ((1 - new_masses) / np.maximum(1 - masses, 1e-12))[:, None])
    return np.asarray(slices * factors)
