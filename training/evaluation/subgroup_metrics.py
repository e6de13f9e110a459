"""Metrics by subgroup: epoch, site, scanner, sex, age band, lesion size."""

from __future__ import annotations

from typing import Any

import pandas as pd

from training.evaluation import metrics
from training.settings import EvaluateSettings
from training.statistics import bands

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
        age_band=bands.band_labels(facts["age"], bands.AGES).to_numpy(),
        lesion_band=bands.band_labels(facts["lesion_mm"], bands.LESIONS, "mm").to_numpy(),
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
