"""Bands of age and lesion size, for all subgroup metrics and comparisons."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

AGES = (18, 40, 60, 75)  # years: lower edges of all bands but the first
LESIONS = (10, 20, 30)  # mm of diameter: lower edges of all bands but the first


def band_labels(values: pd.Series[Any], edges: tuple[int, ...], unit: str = "") -> pd.Series[str]:
    """The label of each number's band, such as "18 to under 40" or "30 mm and more"; "" if there is no number.

    A number on an edge belongs to the band above it. The index is that of `values`.
    """
    after = f" {unit}" if unit else ""
    labels = [f"under {edges[0]}{after}"]
    labels += [f"{low} to under {high}{after}" for low, high in pairwise(edges)]
    labels += [f"{edges[-1]}{after} and more"]
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    bands = np.array(labels, dtype=object)[np.searchsorted(edges, np.nan_to_num(numbers), side="right")]
    return pd.Series(np.where(np.isnan(numbers), "", bands), index=values.index, dtype=object)
