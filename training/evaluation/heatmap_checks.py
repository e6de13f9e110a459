"""Checks of the heat maps: sensitivity to the model's linear layer, and the pointing game on lesions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.inference import heatmap
from training.network.feature_grid import cells_by_position
from training.settings import EvaluateSettings
from training.statistics import bootstrap

MAX_UNITS = 200  # at most, of the flagged test units
TOLERANCE = 1  # positions of the feature map between the hottest one and the lesion
Array = NDArray[np.float32]


def compare_with_random_layer(features: Array, kernel: Array, classes: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Correlate the maps of units (n, h, w, d) for their `classes` (n) with those of a random linear layer.

    The layer's weights (d, classes) are permuted among its channels, as in the sanity check of Adebayo et al. (NeurIPS
    2018) for the last layer. `likeness` is the median correlation over the maps' positions. Near 1 the maps show edges
    of the image, independent of the model. None if no map has any evidence.
    """
    random = np.random.default_rng(seed)
    random_kernel = random.permuted(kernel, axis=0)
    correlations = []
    for unit in range(min(len(features), MAX_UNITS)):
        heat, random_heat = (
            heatmap.class_activation_map(features[unit], layer, int(classes[unit])).ravel()
            for layer in (kernel, random_kernel)
        )
        if heat.std() > 0 and random_heat.std() > 0:
            correlations.append(float(np.corrcoef(heat, random_heat)[0, 1]))
    return {"maps": len(correlations), "likeness": float(np.median(correlations)) if correlations else None}


def pointing_game(
    features: Array,
    kernel: Array,
    classes: NDArray[np.int64],
    masks: Array | None,
    clusters: NDArray[np.str_],
    settings: EvaluateSettings,
    labels: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """The share of maps whose hottest position is in the lesion: the pointing game (Zhang et al., IJCV 2018).

    Among flagged units (n, h, w, d) it uses those whose mask (n, g, g, 1; NaN: none) shows a lesion and whose class in
    `classes` equals their `labels` (n): a map for a wrong class has no lesion to point at. A position is in the lesion
    if the lesion covers part of it or of its eight neighbours (`TOLERANCE`). A map without evidence is a miss. `value`
    is the share of hits with its interval by cluster. `chance` is the mean share of positions in the lesion, the value
    of a random pointer. Both are None, with a `reason`, if no unit can be used.
    """
    shows_lesion = np.zeros(len(features), bool) if masks is None else np.nan_to_num(masks).max(axis=(1, 2, 3)) > 0
    units = np.flatnonzero(shows_lesion if labels is None else shows_lesion & (classes == labels))
    counts = {"units": len(units), "clusters": len(np.unique(clusters[units]))}
    if masks is None or not len(units):
        reason = "no unit that was called positive has a lesion mask that shows a lesion; send masks with the scans"
        return {"value": None, "low": None, "high": None, "chance": None, **counts, "reason": reason}
    inside = np.stack([dilate_positions(lesion_positions(masks[unit, :, :, 0], features.shape[1:3])) for unit in units])
    hits = np.zeros(len(units))
    for row, unit in enumerate(units):
        heat = heatmap.class_activation_map(features[unit], kernel, int(classes[unit]))
        hits[row] = heat.max() > 0 and inside[row].ravel()[heat.argmax()]
    draws = bootstrap.draw(clusters[units], settings.bootstrap, settings.seed)
    share = draws.share(hits, np.ones(len(units)))
    return {
        **bootstrap.interval(share, settings.confidence, counts["clusters"]),
        "chance": float(inside.mean()),
        **counts,
    }


def lesion_positions(mask: Array, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The positions of a feature map of that shape that cover a nonzero cell of the mask (g, g)."""
    return np.array(
        [
            [(mask[rows, columns] > 0).any() for columns in cells_by_position(len(mask), shape[1])]
            for rows in cells_by_position(len(mask), shape[0])
        ]
    )


def dilate_positions(positions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The positions (h, w), dilated by `TOLERANCE` in every direction."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(positions, np.ones((2 * TOLERANCE + 1,) * 2)))
