"""Whether heat maps say something about the model: they must change when its linear layer is another one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import explain

UNITS = 200  # at most, of the flagged test units
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
        shown, dealt = (explain.heat(features[unit], layer, int(classes[unit])).ravel() for layer in (kernel, other))
        if shown.std() > 0 and dealt.std() > 0:
            found.append(float(np.corrcoef(shown, dealt)[0, 1]))
    return {"maps": len(found), "likeness": float(np.median(found)) if found else None}
