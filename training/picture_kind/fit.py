"""Fit the test of the kind of picture on the training slices of a task, and set its limit on the held-out ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data.core_types import Side
from data.dataset.shards import Units
from lineage import paths
from serving.descriptor import encoder_graph
from serving.descriptor.picture_kind import PictureKind, fourier_features
from serving.inference.descriptor import Descriptor
from training.picture_kind.generated_pictures import altered_copies, other_pictures

Array = NDArray[np.float32]
MAX_SLICES = 1500  # of the training side, sampled, so that a large task needs no more memory
OTHER_COUNT = 1200
FEATURES = 1024
KERNEL_WIDTH = 2.0  # factor on the inverse squared width 1 / d of the Gaussian kernel
RIDGE = 0.3  # regularisation of the coefficients
USUAL = 0.99  # share of the held-out slices that must be over the limit
FLOOR = 1e-3  # of the largest spread
TEXTURE = "texture of a frozen network"  # name of a baseline: what can be said without seeing any shape


def encoder() -> Descriptor:
    """The encoder, converted from its weights once for each version."""
    path = paths.state_path("descriptor", f"{encoder_graph.VERSION}.onnx")
    if not path.is_file():
        encoder_graph.write_graph(path)
    return Descriptor.load(path)


def fit(units: Units, seed: int) -> PictureKind | None:
    """The test of a task from its units; None without training or held-out units.

    The limit is the 1 % quantile of the likeness of the held-out slices. The recipe was chosen by leaving one kind of
    picture out at a time (docs/benchmarks.md).
    """
    is_training = (units.table["side"] == Side.TRAINING.value).to_numpy()
    if not is_training.any() or is_training.all():
        return None
    descriptor, random = encoder(), np.random.default_rng(seed)
    training = units.pixels[_sample(np.flatnonzero(is_training), random)]
    usual = descriptor.vectors(np.concatenate([training, altered_copies(training, seed)]))
    other = descriptor.vectors(other_pictures(OTHER_COUNT, encoder_graph.SIZE, seed))
    kind = fit_vectors(usual, other, seed)
    held_out = kind.likeness(descriptor.vectors(units.pixels[_sample(np.flatnonzero(~is_training), random)]))
    return replace(kind, limit=float(np.quantile(held_out, 1 - USUAL)))


def texture(pixels: Array) -> Array:
    """The mean of each channel of the encoder's first two stages (n, 40): texture at fine scales, and no shape."""
    first, second = (stage[-1] for stage in encoder_graph.STAGES[:2])
    vectors = encoder().vectors(pixels)
    return np.concatenate([vectors[:, :first], vectors[:, 2 * first : 2 * first + second]], axis=1)


def fit_vectors(usual: Array, other: Array, seed: int) -> PictureKind:
    """Kernel ridge regression on random Fourier features: 1 for the usual vectors (n, d), 0 for the other ones.

    Both sides have the same weight. The limit is 0.
    """
    vectors = np.concatenate([usual, other])
    spread = vectors.std(axis=0)
    scale = np.maximum(spread, spread.max() * FLOOR)
    projection = np.random.default_rng(seed).normal(size=(vectors.shape[1], FEATURES)) * np.sqrt(
        2 * KERNEL_WIDTH / vectors.shape[1]
    )
    kind = PictureKind(
        vectors.mean(axis=0), scale, projection.astype(np.float32), np.zeros(2 * FEATURES, np.float32), 0.0
    )
    features = fourier_features(vectors, kind.centre, kind.scale, kind.projection)
    is_usual = np.arange(len(vectors)) < len(usual)
    weights = (np.where(is_usual, 0.5 / len(usual), 0.5 / len(other)) * len(vectors)).astype(np.float32)
    gram = ((features * weights[:, None]).T @ features).astype(np.float64)
    gram[np.diag_indices(len(gram))] += RIDGE
    coefficients = np.linalg.solve(gram, features.T @ (weights * is_usual))
    return replace(kind, coefficients=coefficients.astype(np.float32))


def _sample(positions: NDArray[np.intp], random: np.random.Generator) -> NDArray[np.intp]:
    """At most `MAX_SLICES` of the positions, in order."""
    if len(positions) <= MAX_SLICES:
        return positions
    return np.sort(random.choice(positions, MAX_SLICES, replace=False))
