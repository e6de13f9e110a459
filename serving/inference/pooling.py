"""The slices of a case to one answer, which must not turn positive by their mere number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Pooling
from lineage.errors import Fault

Array = NDArray[np.float32]
Share = float | NDArray[Any]
RULES = ("mean", "topk")
LOOK = 10.0  # mm of the body: slices that are nearer to each other see the same finding, and err alike


def pool(slices: Array, positive: Sequence[int], pooling: Pooling, prevalence: float, looks: float) -> Array:
    """A case's probabilities (classes) from its slices' (n, classes): their mean, or that of the k most positive.

    The k are picked out of n, so that a healthy body of 300 slices would reach any threshold by chance. Their
    probabilities are therefore first corrected for how rare a positive slice is among so many `looks`, see `among`.
    Up to k looks nothing is corrected.
    """
    if pooling.rule == "mean":
        return np.asarray(slices.mean(axis=0, dtype=np.float64), np.float32)
    if pooling.rule != "topk":
        raise Fault(f"pooling rule {pooling.rule!r} is unknown: use one of {', '.join(RULES)}")
    top: NDArray[Any] = slices[deciding(slices[:, list(positive)].sum(axis=1), pooling)]
    if looks > pooling.k:
        masses = top[:, list(positive)].sum(axis=1, dtype=np.float64)
        top = _with_mass(top, positive, masses, adjust_to_prevalence(masses, prevalence, pooling.k / looks))
    return np.asarray(top.mean(axis=0, dtype=np.float64), np.float32)


def deciding(scores: NDArray[Any], pooling: Pooling) -> NDArray[np.intp]:
    """Positions of the slices that the pooled answer is made of, by their probability (n) of the positive classes."""
    order = np.argsort(-scores, kind="stable")
    return order if pooling.rule == "mean" else order[: pooling.k]


def independent_slice_count(slices: int, distance: float) -> float:
    """How many times slices `distance` mm apart look at something new; each does where nobody knows the distance."""
    return float(slices) if distance <= 0 else min(float(slices), max(1.0, slices * distance / LOOK))


def adjust_to_prevalence(scores: NDArray[Any], prevalence: float, share: Share) -> NDArray[np.float64]:
    """Positive probabilities (any shape) of slices that a model calibrated at `prevalence` gave, where a positive case
    shows its finding in a `share` of its looks alone, so that the prevalence is `prevalence` × `share`.

    Bayes' rule for another prior: the odds change by the ratio of the prior odds (Saerens et al., Neural Computation
    2002, equation 2.4).
    """
    rare = prevalence * share
    ratio = rare / (1 - rare) * (1 - prevalence) / prevalence
    return np.asarray(scores * ratio / (scores * ratio + 1 - scores))


def needed(threshold: float, pooling: Pooling, prevalence: float, looks: float) -> float:
    """The probability that a slice needs on its own, among so many looks, to stand at `threshold` after `pool`."""
    if pooling.rule != "topk" or looks <= pooling.k:
        return threshold
    rare = prevalence * pooling.k / looks
    ratio = prevalence / (1 - prevalence) * (1 - rare) / rare
    return threshold * ratio / (threshold * ratio + 1 - threshold)


def prevalence(positives: NDArray[np.bool_]) -> float:
    """The share of positive units on the side that calibrated the model, never 0 or 1 (Laplace's rule)."""
    return float((positives.sum() + 1) / (len(positives) + 2))


def _with_mass(
    slices: Array, positive: Sequence[int], masses: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The slices with that positive mass each; among the positive classes, and among the others, shares stay."""
    inside = np.isin(np.arange(slices.shape[1]), list(positive))
    changed = np.where(inside, (wanted / np.maximum(masses, 1e-12))[:, None], 0.0)
    changed += np.where(inside, 0.0, ((1 - wanted) / np.maximum(1 - masses, 1e-12))[:, None])
    return np.asarray(slices * changed)
