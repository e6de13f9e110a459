"""Whether a slice is the kind of picture that a task was trained on: a likeness from the encoder's vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lineage import atomic_write
from lineage.errors import Fault

Array = NDArray[np.float32]
ARRAYS = ("centre", "scale", "projection", "coefficients", "limit")
CLIP = 30.0  # standard deviations; a further vector is as far


@dataclass(frozen=True)
class PictureKind:
    """The test of one task. `likeness` is about 1 for a slice of the task, and about 0 for any other picture.

    It is a kernel regression: random Fourier features (Rahimi and Recht, NeurIPS 2007) of a Gaussian kernel on
    standardised vectors, and one coefficient for each. The likeness of a vector far from all that were fitted is 0,
    also if no picture like it was fitted. The arrays hold no vector of a single slice.

    `centre`, `scale`: (d); `projection`: (d, f); `coefficients`: (2 f); `limit`: smallest likeness of a usual slice.
    """

    centre: Array
    scale: Array
    projection: Array
    coefficients: Array
    limit: float

    def likeness(self, vectors: Array) -> Array:
        """One value per vector (n, d)."""
        features = fourier_features(vectors, self.centre, self.scale, self.projection)
        return np.asarray(features @ self.coefficients, np.float32)


def fourier_features(vectors: Array, centre: Array, scale: Array, projection: Array) -> Array:
    """Random Fourier features (n, 2 f) of vectors (n, d), whose products approximate the Gaussian kernel."""
    phases = np.clip((vectors - centre) / scale, -CLIP, CLIP) @ projection
    features = np.concatenate([np.cos(phases), np.sin(phases)], axis=1) / np.sqrt(projection.shape[1])
    return np.asarray(features, np.float32)


def save(path: Path, kind: PictureKind) -> None:
    """Write `kind.npz`."""
    with atomic_write.replace_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            centre=kind.centre,
            scale=kind.scale,
            projection=kind.projection,
            coefficients=kind.coefficients,
            limit=np.float32(kind.limit),
        )


def load(path: Path) -> PictureKind:
    """Read `kind.npz`. Raises Fault if it is absent or lacks an array."""
    if not path.is_file():
        raise Fault(f"{path}: the test of the kind of picture is missing; build the release again")
    with np.load(path, allow_pickle=False) as arrays:
        if missing := set(ARRAYS) - set(arrays.files):
            raise Fault(f"{path}: it lacks {', '.join(sorted(missing))}; evaluate the task again")
        values = {name: arrays[name].astype(np.float32) for name in ARRAYS}
    return PictureKind(**{**values, "limit": float(values["limit"])})
