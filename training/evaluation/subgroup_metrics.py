"""The groups of a population that a model is judged in: epoch, site, scanner, sex, age band, size of the lesion."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from training.evaluation import metrics
from training.settings import EvaluateSettings

AGES = (40, 60, 75)  # years: below, from one to the next, and from the last on
LESIONS = (10, 20, 30)  # mm of diameter
COLUMNS = {"epochs": "epoch", "sites": "site", "scanners": "scanner", "sexes": "sex", "ages": "age_band"}


def groups(
    test: pd.DataFrame, units: pd.DataFrame, classes: tuple[str, ...], settings: EvaluateSettings
) -> dict[str, Any]:
    """The figures of each group of judged test units, by what `units` (the columns of units.csv) says of them.

    A group with too few clusters is `unknown`. A lesion's size is known of ill units alone, so `lesions` holds the
    positive units of each size beside all negative ones.
    """
    facts = units.set_index("unit_id").reindex(columns=["sex", "age", "lesion_mm"]).reindex(test["unit_id"])
    told = test.assign(
        sex=facts["sex"].to_numpy(),
        age_band=banded(facts["age"], AGES, ""),
        lesion_band=banded(facts["lesion_mm"], LESIONS, " mm"),
    )
    found = {name: metrics.slices(told, column, classes, settings) for name, column in COLUMNS.items()}
    positive = told["positive"] == 1
    lesions: dict[str, Any] = {}
    for band in sorted(set(told.loc[positive, "lesion_band"]) - {""}):
        part = told[~positive | (told["lesion_band"] == band)]
        lesions |= metrics.slices(part.assign(lesion_band=band), "lesion_band", classes, settings)
    return found | {"lesions": lesions}


def banded(values: pd.Series[Any], edges: tuple[int, ...], unit: str) -> list[str]:
    """The band of each number in words, such as "40 to under 60" or "30 mm and more"; "" where there is no number."""
    first, last = f"under {edges[0]}{unit}", f"{edges[-1]}{unit} and more"
    words = [first, *(f"{low} to under {high}{unit}" for low, high in pairwise(edges)), last]
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    return ["" if np.isnan(number) else words[int(np.searchsorted(edges, number, "right"))] for number in numbers]
