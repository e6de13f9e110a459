"""Permutation tests for a shift between two samples; they permute whole patients, never slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

SEED = 7
FREQUENCIES = 512  # random Fourier frequencies that approximate the kernel
CHUNK = 250  # permutations in memory at a time
TINY = 1e-12


@dataclass(frozen=True)
class Sample:
    """The rows of two samples with at most `per_cluster` rows for each patient.

    `owner` is the patient's position for every row; `recent` (patients) is true for the patients of the window.
    """

    rows: pd.DataFrame
    owner: NDArray[np.intp]
    recent: NDArray[np.bool_]
    per_cluster: int

    def means(self, values: Array) -> Array:
        """Mean of `values` (rows × features) for each patient; all patients have equal weight."""
        total = np.zeros((len(self.recent), values.shape[1]))
        np.add.at(total, self.owner, values)
        return np.asarray(total / np.bincount(self.owner, minlength=len(self.recent))[:, None])


def sample(reference: pd.DataFrame, current: pd.DataFrame, seed: int = SEED) -> Sample:
    """Sample at most the same number of rows from each patient of both sides.

    Means over ten slices vary less than single slices. Sides with different numbers of slices would therefore differ
    in spread without drift, and the permutation test would be invalid. The limit is the median number of rows per
    patient, of the side where it is smaller.
    """
    sides = [reference.assign(_side=0), current.assign(_side=1)]
    usual = [side.groupby("cluster").size().median() for side in sides]
    per_cluster = max(1, int(min(usual)))
    rows = pd.concat(sides, ignore_index=True)
    rows = rows.sample(frac=1.0, random_state=seed).groupby(["_side", "cluster"], sort=True).head(per_cluster)
    rows = rows.sort_values(["_side", "cluster"], kind="stable").reset_index(drop=True)
    owner = rows.groupby(["_side", "cluster"], sort=True).ngroup().to_numpy().astype(np.intp)
    recent = rows.groupby(["_side", "cluster"], sort=True)["_side"].first().to_numpy() == 1
    return Sample(rows.drop(columns="_side"), owner, recent, per_cluster)


def permutations(recent: NDArray[np.bool_], count: int, seed: int = SEED) -> list[Array]:
    """Chunks of 0/1 rows: first the true allocation of patients to the window, then `count` random ones."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(recent, dtype=np.float64)
    random_labels = generator.permuted(np.tile(labels, (count, 1)), axis=1)
    allocations = np.vstack([labels, random_labels])
    return [allocations[start : start + CHUNK] for start in range(0, len(allocations), CHUNK)]


def p_values(statistics: Array) -> Array:
    """Share of allocations at least as extreme as the true one in row 0, including itself (Phipson and Smyth 2010)."""
    return np.asarray((statistics >= statistics[0] - 1e-9 * np.abs(statistics[0])).mean(axis=0))


def features(values: pd.DataFrame) -> tuple[Array, list[tuple[str, str]]]:
    """Features of columns: `level` (rank), `spread` (distance of the rank from the middle), `missing`.

    Ranks limit the influence of outliers. Returns rows × features and (column, kind) for each feature; constant
    features are left out.
    """
    columns: list[Array] = []
    names: list[tuple[str, str]] = []
    for name in values.columns:
        numbers = pd.to_numeric(values[name], errors="coerce").replace([np.inf, -np.inf], np.nan)
        rank = numbers.rank(pct=True).fillna(0.5).to_numpy(dtype=np.float64)
        kinds = {"level": rank, "spread": np.abs(rank - 0.5), "missing": numbers.isna().to_numpy(dtype=np.float64)}
        for kind, feature in kinds.items():
            if np.ptp(feature) > 0:
                columns.append(feature)
                names.append((str(name), kind))
    return (np.column_stack(columns) if columns else np.zeros((len(values), 0))), names


def welch(means: Array, allocations: Sequence[Array]) -> Array:
    """|t| of every feature under every allocation, allocations × features.

    Studentised, so that the test stays valid if the two sides differ in spread (Janssen 1997).
    """
    means = means - means.mean(axis=0)
    total, squares = means.sum(axis=0), (means**2).sum(axis=0)
    statistics = []
    for chunk in allocations:
        window_count = chunk.sum(axis=1, keepdims=True)
        reference_count = means.shape[0] - window_count
        window_sum, window_squares = chunk @ means, chunk @ means**2
        reference_sum, reference_squares = total - window_sum, squares - window_squares
        spread = _squared_error(window_sum, window_squares, window_count) + _squared_error(
            reference_sum, reference_squares, reference_count
        )
        statistics.append(np.abs(window_sum / window_count - reference_sum / reference_count) / np.sqrt(spread + TINY))
    return np.vstack(statistics)


def _squared_error(total: Array, squares: Array, count: Array) -> Array:
    """Squared standard error of a mean from sums; not negative by rounding."""
    variance = (squares - total**2 / count) / np.maximum(count - 1, 1)
    return np.asarray(np.maximum(variance, 0.0) / count)


def mmd(embeddings: Array, patient_sample: Sample, allocations: Sequence[Array], seed: int = SEED) -> Array:
    """Unbiased squared maximum mean discrepancy for every allocation (Gretton et al. 2012, eq. 3).

    The RBF kernel has the median distance as bandwidth and is approximated by random Fourier features (Rahimi and Recht
    2007): the cost grows linearly with the patients, and a permutation test is valid for any features.
    """
    generator = np.random.default_rng(seed)
    scale = embeddings.std(axis=0)
    scaled = (embeddings - embeddings.mean(axis=0)) / np.where(scale > TINY, scale, 1.0)
    subset = scaled[generator.permutation(len(scaled))[:500]]
    squared_norms = (subset**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squared_norms[:, None] + squared_norms[None, :] - 2 * subset @ subset.T, 0.0))
    bandwidth = float(np.median(distances[np.triu_indices(len(subset), 1)])) or 1.0
    projections = scaled @ generator.normal(scale=1 / bandwidth, size=(scaled.shape[1], FREQUENCIES))
    means = patient_sample.means(np.hstack([np.cos(projections), np.sin(projections)]) / np.sqrt(FREQUENCIES))
    own_products, total = (means**2).sum(axis=1), means.sum(axis=0)
    statistics = []
    for chunk in allocations:
        window_count = chunk.sum(axis=1)
        reference_count = len(means) - window_count
        window_sum = chunk @ means
        reference_sum, window_own = total - window_sum, chunk @ own_products
        window_term = ((window_sum**2).sum(axis=1) - window_own) / (window_count * (window_count - 1))
        reference_term = ((reference_sum**2).sum(axis=1) - (own_products.sum() - window_own)) / (
            reference_count * (reference_count - 1)
        )
        statistics.append(
            window_term
            + reference_term
            - 2 * (window_sum * reference_sum).sum(axis=1) / (window_count * reference_count)
        )
    return np.concatenate(statistics)
