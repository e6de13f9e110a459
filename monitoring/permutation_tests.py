"""Has the population moved, or is it chance? Permutation tests that move whole patients, never slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

SEED = 7
FREQUENCIES = 512  # random Fourier frequencies that stand for the kernel
CHUNK = 250  # permutations held in memory at once
TINY = 1e-12


@dataclass(frozen=True)
class Sample:
    """Two sides as patients: `rows` of both (an even number from each patient), whose patient, and which side.

    `owner` gives the patient's position for every row; `recent` is true for the patients of the window.
    """

    rows: pd.DataFrame
    owner: NDArray[np.intp]
    recent: NDArray[np.bool_]
    per_cluster: int

    def means(self, values: Array) -> Array:
        """Mean of row `values` (rows × features) for each patient; a patient weighs one, however many slices."""
        total = np.zeros((len(self.recent), values.shape[1]))
        np.add.at(total, self.owner, values)
        return np.asarray(total / np.bincount(self.owner, minlength=len(self.recent))[:, None])


def sample(reference: pd.DataFrame, current: pd.DataFrame, seed: int = SEED) -> Sample:
    """Both sides with the same number of rows from each patient, as far as they have them.

    Patients of one side with ten slices each against patients of the other with one would differ in spread without
    any drift, and a permutation would no longer be fair; so each patient gives at most as many rows as the usual
    patient of the thriftier side has.
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
    """Chunks of 0/1 rows: the true allocation of patients to the window first, then `count` random ones."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(recent, dtype=np.float64)
    drawn = generator.permuted(np.tile(labels, (count, 1)), axis=1)
    every = np.vstack([labels, drawn])
    return [every[start : start + CHUNK] for start in range(0, len(every), CHUNK)]


def p_values(statistics: Array) -> Array:
    """Share of allocations at least as extreme as the true one in row 0, itself included (Phipson and Smyth 2010)."""
    return np.asarray((statistics >= statistics[0] - 1e-9 * np.abs(statistics[0])).mean(axis=0))


def features(values: pd.DataFrame) -> tuple[Array, list[tuple[str, str]]]:
    """What the columns are compared by: `level` (rank), `spread` (distance of the rank from the middle), `missing`.

    Ranks, so that a single absurd value does not decide. Returns rows × features and (column, kind) for each;
    what never varies is left out.
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


def welch(means: Array, chunks: Sequence[Array]) -> Array:
    """|t| of every feature under every allocation, allocations × features.

    Studentised, so that it stays fair where the two sides differ in spread (Janssen 1997).
    """
    means = means - means.mean(axis=0)
    total, squares = means.sum(axis=0), (means**2).sum(axis=0)
    out = []
    for chunk in chunks:
        near = chunk.sum(axis=1, keepdims=True)
        far = means.shape[0] - near
        here, here_squares = chunk @ means, chunk @ means**2
        there, there_squares = total - here, squares - here_squares
        spread = _error(here, here_squares, near) + _error(there, there_squares, far)
        out.append(np.abs(here / near - there / far) / np.sqrt(spread + TINY))
    return np.vstack(out)


def _error(total: Array, squares: Array, count: Array) -> Array:
    """Squared standard error of a mean from sums; never negative through rounding."""
    variance = (squares - total**2 / count) / np.maximum(count - 1, 1)
    return np.asarray(np.maximum(variance, 0.0) / count)


def mmd(embeddings: Array, drawn: Sample, chunks: Sequence[Array], seed: int = SEED) -> Array:
    """Unbiased squared maximum mean discrepancy for every allocation (Gretton et al. 2012, eq. 3).

    RBF kernel, bandwidth the median distance, by random Fourier features (Rahimi and Recht 2007): the cost grows with
    the patients, not with their square, and a permutation test is fair for any features.
    """
    generator = np.random.default_rng(seed)
    scale = embeddings.std(axis=0)
    points = (embeddings - embeddings.mean(axis=0)) / np.where(scale > TINY, scale, 1.0)
    few = points[generator.permutation(len(points))[:500]]
    square = (few**2).sum(axis=1)
    gaps = np.sqrt(np.maximum(square[:, None] + square[None, :] - 2 * few @ few.T, 0.0))
    bandwidth = float(np.median(gaps[np.triu_indices(len(few), 1)])) or 1.0
    angles = points @ generator.normal(scale=1 / bandwidth, size=(points.shape[1], FREQUENCIES))
    means = drawn.means(np.hstack([np.cos(angles), np.sin(angles)]) / np.sqrt(FREQUENCIES))
    own, total = (means**2).sum(axis=1), means.sum(axis=0)
    out = []
    for chunk in chunks:
        near = chunk.sum(axis=1)
        far = len(means) - near
        here = chunk @ means
        there, here_own = total - here, chunk @ own
        within = ((here**2).sum(axis=1) - here_own) / (near * (near - 1))
        without = ((there**2).sum(axis=1) - (own.sum() - here_own)) / (far * (far - 1))
        out.append(within + without - 2 * (here * there).sum(axis=1) / (near * far))
    return np.concatenate(out)
