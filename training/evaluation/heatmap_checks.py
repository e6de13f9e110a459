"""Whether heat maps say something: they must change with the model's linear layer, and point at the lesion."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.inference import heatmap
from training.network.feature_grid import cells
from training.settings import EvaluateSettings
from training.statistics import bootstrap

UNITS = 200  # at most, of the flagged test units
NEAR = 1  # positions of the feature map by which the hottest one may miss the lesion
Array = NDArray[np.float32]


def randomised(features: Array, kernel: Array, classes: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """How alike the maps of units (n, h, w, d) for their `classes` (n) are to those of a random linear layer.

    The layer's weights (d, classes) are dealt anew among its channels, as the sanity check of Adebayo et al. (NeurIPS
    2018) does for the last layer. `likeness` is the median correlation over the maps' positions: near 1 means that
    the maps show edges of the picture, whatever the model has learned. None where no map has any evidence.
    """
    random = np.random.default_rng(seed)
    other = random.permuted(kernel, axis=0)
    found = []
    for unit in range(min(len(features), UNITS)):
        shown, dealt = (heatmap.heat(features[unit], layer, int(classes[unit])).ravel() for layer in (kernel, other))
        if shown.std() > 0 and dealt.std() > 0:
            found.append(float(np.corrcoef(shown, dealt)[0, 1]))
    return {"maps": len(found), "likeness": float(np.median(found)) if found else None}


def hits(
    features: Array,
    kernel: Array,
    classes: NDArray[np.int64],
    masks: Array | None,
    clusters: NDArray[np.str_],
    settings: EvaluateSettings,
    labels: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """How often the hottest position of a map lies in the lesion: the pointing game (Zhang et al., IJCV 2018).

    Of units (n, h, w, d) that were called positive, those count whose mask (n, g, g, 1; NaN: none) shows a lesion and
    whose class is that of their `labels` (n): a map for a wrong class has no lesion of its own to point at. A position
    lies in it where the lesion touches it or one of its eight neighbours (`NEAR`); a map without evidence misses.
    `value` is the share of hits with its interval by cluster, `chance` the mean share of all positions that lie in the
    lesion, which is what pointing blindly reaches. None, with the `reason`, where no unit counts.
    """
    shown = np.zeros(len(features), bool) if masks is None else np.nan_to_num(masks).max(axis=(1, 2, 3)) > 0
    units = np.flatnonzero(shown if labels is None else shown & (classes == labels))
    told = {"units": len(units), "clusters": len(np.unique(clusters[units]))}
    if masks is None or not len(units):
        why = "no unit that was called positive has a lesion mask that shows a lesion; send masks with the scans"
        return {"value": None, "low": None, "high": None, "chance": None, **told, "reason": why}
    inside = np.stack([near(touched(masks[unit, :, :, 0], features.shape[1:3])) for unit in units])
    found = np.zeros(len(units))
    for place, unit in enumerate(units):
        heat = heatmap.heat(features[unit], kernel, int(classes[unit]))
        found[place] = heat.max() > 0 and inside[place].ravel()[heat.argmax()]
    draws = bootstrap.draw(clusters[units], settings.bootstrap, settings.seed)
    share = draws.share(found, np.ones(len(units)))
    return {**bootstrap.interval(share, settings.confidence, told["clusters"]), "chance": float(inside.mean()), **told}


def touched(mask: Array, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which positions of a feature map of that shape cover a cell of the mask (g, g) that is not empty."""
    return np.array(
        [
            [(mask[rows, columns] > 0).any() for columns in cells(len(mask), shape[1])]
            for rows in cells(len(mask), shape[0])
        ]
    )


def near(touched: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The positions (h, w) that are touched or lie `NEAR` one that is."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(touched, np.ones((2 * NEAR + 1,) * 2)))
