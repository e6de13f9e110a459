"""Which held-out units would be answered: the rules of the serving gate that follow from the probabilities alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
ANSWERED = ""  # reason of an answered unit
LOW_CONFIDENCE = "low confidence"
SEVERAL_CLASSES = "several classes are possible"
NO_CLASS = "no class fits"
REASONS = (LOW_CONFIDENCE, SEVERAL_CLASSES, NO_CLASS)


def withheld_reasons(
    class_probabilities: NDArray[np.floating], conformal: Mapping[str, Any] | None, abstain_below: float
) -> NDArray[np.str_]:
    """Why the serving gate would withhold each unit (n), from its probabilities (n, classes); "" if it is answered.

    `conformal` is the entry of `calibration.json`; None, or one that is not calibrated, withholds nothing. A unit with
    several reasons has the first: low confidence, then the conformal set.
    """
    reasons = np.full(len(class_probabilities), ANSWERED, dtype=object)
    quantiles = usable_quantiles(conformal)
    if quantiles is not None:
        set_size = (1 - class_probabilities.astype(np.float64) <= quantiles).sum(axis=1)
        reasons[set_size > 1] = SEVERAL_CLASSES
        reasons[set_size < 1] = NO_CLASS
    reasons[class_probabilities.max(axis=1, initial=0) < abstain_below] = LOW_CONFIDENCE
    return reasons.astype(str)


def usable_quantiles(conformal: Mapping[str, Any] | None) -> NDArray[np.float64] | None:
    """The conformal quantiles in the order of the classes; None if serving would not use them."""
    if not conformal or conformal["status"] != "calibrated":
        return None
    quantiles = [entry["quantile"] for entry in conformal["classes"].values()]
    return None if any(edge is None for edge in quantiles) else np.array(quantiles, np.float64)
