"""How far a scan lies from what a model was judged on, in the space of its own pooled features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lineage.errors import Fault

Array = NDArray[np.float32]
FLOOR = 1e-3  # of the largest spread: a channel that never moved on held-out patients still counts, but finitely


@dataclass(frozen=True)
class Reference:
    """Centre and spread of each feature channel over held-out slices; comparable only within one model version."""

    centre: Array
    scale: Array


def fit(features: Array) -> Reference:
    """The reference of held-out feature maps (n, height, width, channels), n of two or more."""
    pooled = _pool(features)
    if len(pooled) < 2:
        raise ValueError(f"a reference needs the features of two slices or more, not of {len(pooled)}")
    spread = pooled.std(axis=0)
    return Reference(pooled.mean(axis=0), np.maximum(spread, max(float(spread.max()) * FLOOR, 1e-6)))


def distance(reference: Reference, features: Array) -> Array:
    """One figure for each slice: the root mean square of its channels' standard scores (about 1 for a usual slice).

    A Mahalanobis distance with a diagonal covariance (Lee et al., NeurIPS 2018): held-out sets here are too small
    for a full one.
    """
    scores = (_pool(features) - reference.centre) / reference.scale
    return np.asarray(np.sqrt(np.mean(scores**2, axis=1)), np.float32)


def save(path: Path, features: Array) -> None:
    """Fit held-out feature maps and write `reference.npz`: centre, scale, and the slices' own distances."""
    reference = fit(features)
    np.savez(path, centre=reference.centre, scale=reference.scale, distances=distance(reference, features))


def copy_anonymous(source: Path, target: Path) -> None:
    """Copy what serving reads of `reference.npz` and nothing else: no name, and an order that says nothing."""
    load(source)
    with np.load(source, allow_pickle=False) as arrays:
        kept = {"centre": arrays["centre"], "scale": arrays["scale"], "distances": np.sort(arrays["distances"])}
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as stream:
        np.savez(stream, **kept)
    part.replace(target)


def distance_limit(path: Path, quantile: float) -> float:
    """The distance above which an answer is withheld: a quantile of the held-out slices' own, from `reference.npz`."""
    load(path)
    with np.load(path, allow_pickle=False) as arrays:
        return float(np.quantile(arrays["distances"], quantile))


def load(path: Path) -> Reference:
    """Read `reference.npz`. Raises Fault where it is absent or of another kind."""
    if not path.is_file():
        raise Fault(f"{path}: the release lacks the reference of held-out features; build the release again")
    with np.load(path, allow_pickle=False) as arrays:
        if not {"centre", "scale", "distances"} <= set(arrays.files):
            raise Fault(f"{path}: it holds {arrays.files}, not centre, scale and distances; evaluate the task again")
        return Reference(arrays["centre"].astype(np.float32), arrays["scale"].astype(np.float32))


def _pool(features: Array) -> Array:
    return np.asarray(features.mean(axis=(1, 2)), np.float32)
