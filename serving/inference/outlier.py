"""Outlier distance: how far a scan is from the held-out scans, in the space of the model's pooled features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lineage import atomic_write
from lineage.errors import Fault

Array = NDArray[np.float32]
FLOOR = 1e-3  # of the largest spread; a channel that is constant on held-out patients gets a finite distance


@dataclass(frozen=True)
class Reference:
    """Mean and standard deviation of each feature channel over held-out slices, valid for one model version only."""

    centre: Array
    scale: Array


def fit(features: Array) -> Reference:
    """The reference of held-out feature maps (n, height, width, channels). ValueError for fewer than two slices."""
    pooled = _pool(features)
    if len(pooled) < 2:
        raise ValueError(f"a reference needs the features of at least two slices, not of {len(pooled)}")
    spread = pooled.std(axis=0)
    return Reference(pooled.mean(axis=0), np.maximum(spread, max(float(spread.max()) * FLOOR, 1e-6)))


def distance(reference: Reference, features: Array) -> Array:
    """One distance per slice: the root mean square of its channels' standard scores (about 1 for a usual slice).

    This is a Mahalanobis distance (Lee et al., NeurIPS 2018) with a diagonal covariance, because the held-out sets are
    too small for a full one.
    """
    scores = (_pool(features) - reference.centre) / reference.scale
    return np.asarray(np.sqrt(np.mean(scores**2, axis=1)), np.float32)


def save(path: Path, features: Array) -> None:
    """Fit held-out feature maps and write `reference.npz`: centre, scale, and the distances of these slices."""
    reference = fit(features)
    np.savez(path, centre=reference.centre, scale=reference.scale, distances=distance(reference, features))


def copy_anonymous(source: Path, target: Path) -> None:
    """Copy only the arrays that serving reads from `reference.npz`: no names, and distances in sorted order."""
    load(source)
    with np.load(source, allow_pickle=False) as arrays:
        anonymous = {"centre": arrays["centre"], "scale": arrays["scale"], "distances": np.sort(arrays["distances"])}
    with atomic_write.replace_file(target) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **anonymous)


def distance_limit(path: Path, quantile: float) -> float:
    """The distance above which an answer is withheld: a quantile of the held-out distances in `reference.npz`."""
    load(path)
    with np.load(path, allow_pickle=False) as arrays:
        return float(np.quantile(arrays["distances"], quantile))


def load(path: Path) -> Reference:
    """Read `reference.npz`. Raises Fault if it is absent or lacks an array."""
    if not path.is_file():
        raise Fault(f"{path}: the reference of held-out features is missing; build the release again")
    with np.load(path, allow_pickle=False) as arrays:
        if not {"centre", "scale", "distances"} <= set(arrays.files):
            raise Fault(f"{path}: it has {arrays.files}, not centre, scale and distances; evaluate the task again")
        return Reference(arrays["centre"].astype(np.float32), arrays["scale"].astype(np.float32))


def _pool(features: Array) -> Array:
    return np.asarray(features.mean(axis=(1, 2)), np.float32)
