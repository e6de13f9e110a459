"""Metrics by subgroup: epoch, site, scanner, sex, age band, lesion size."""

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


def metrics_by_subgroup(
    test: pd.DataFrame, units: pd.DataFrame, classes: tuple[str, ...], settings: EvaluateSettings
) -> dict[str, Any]:
    """The metrics of each subgroup of the predicted test units; `units` (the columns of units.csv) has their facts.

    A subgroup with too few clusters is `unknown`. Only positive units have a lesion size, so each subgroup of
    `lesions` has the positive units of that size and all negative units.
    """
    facts = units.set_index("unit_id").reindex(columns=["sex", "age", "lesion_mm"]).reindex(test["unit_id"])
    described = test.assign(
        sex=facts["sex"].to_numpy(),
        age_band=band_labels(facts["age"], AGES, ""),
        lesion_band=band_labels(facts["lesion_mm"], LESIONS, " mm"),
    )
    metrics_by_column = {
        name: metrics.metrics_by_value(described, column, classes, settings) for name, column in COLUMNS.items()
    }
    positive = described["positive"] == 1
    lesions: dict[str, Any] = {}
    for band in sorted(set(described.loc[positive, "lesion_band"]) - {""}):
        subgroup = described[~positive | (described["lesion_band"] == band)]
        lesions |= metrics.metrics_by_value(subgroup.assign(lesion_band=band), "lesion_band", classes, settings)
    return metrics_by_column | {"lesions": lesions}


def band_labels(values: pd.Series[Any], edges: tuple[int, ...], unit: str) -> list[str]:
    """The label of each number's band, such as "40 to under 60" or "30 mm and more"; "" if there is no number."""
    first, last = f"under {edges[0]}{unit}", f"{edges[-1]}{unit} and more"
    labels = [first, *(f"{low} to under {high}{unit}" for low, high in pairwise(edges)), last]
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    return ["" if np.isnan(number) else labels[int(np.searchsorted(edges, number, "right"))] for number in numbers]
