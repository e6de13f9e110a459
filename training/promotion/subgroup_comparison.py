"""Comparison of challenger and rival in subgroups, and on earlier epochs and sites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.settings import PromotionSettings
from training.statistics import bands, delong

FACTS = ("site", "scanner", "sex", "age", "lesion_mm")  # of a unit, where its table has them
Mask = NDArray[np.bool_]
Row = dict[str, Any]


def population(paired: pd.DataFrame, settings: PromotionSettings) -> dict[str, Row]:
    """The comparison in each subgroup by site, scanner, sex, age band and lesion size, with Holm's p-values.

    `paired` has a row for each unit: cluster, positive, score, score_rival, and the available FACTS. A fact with the
    same value for every unit makes no subgroup. A subgroup by lesion size has its positive units and all negative ones.
    """
    return _holm({name: _compare_subgroup(paired[mask], settings) for name, mask in _subgroup_masks(paired)})


def earlier(paired: pd.DataFrame, settings: PromotionSettings) -> dict[str, Row]:
    """The comparison on every epoch but the last, and on every site in those epochs, to detect forgetting."""
    earlier_units = paired[paired["epoch"] < paired["epoch"].max()]
    rows = {
        f"epoch {epoch}": _compare_subgroup(subgroup, settings) for epoch, subgroup in earlier_units.groupby("epoch")
    }
    if "site" in earlier_units:
        with_site = earlier_units[_as_text(earlier_units["site"]) != ""]
        rows |= {
            f"site {site} before": _compare_subgroup(subgroup, settings)
            for site, subgroup in with_site.groupby(_as_text(with_site["site"]))
        }
    return _holm(rows)


def _subgroup_masks(paired: pd.DataFrame) -> Iterator[tuple[str, Mask]]:
    positive = paired["positive"].to_numpy(bool)
    for fact in FACTS:
        if fact not in paired:
            continue
        values = _band_names(paired[fact], fact) if fact in ("age", "lesion_mm") else _as_text(paired[fact])
        distinct_values = sorted(set(values) - {""})
        if len(distinct_values) < 2 and (values != "").all():
            continue
        for value in distinct_values:
            in_subgroup = (values == value).to_numpy(bool)
            name = f"{fact} {value}" if fact in ("site", "scanner", "sex") else value
            yield name, in_subgroup & positive | ~positive if fact == "lesion_mm" else in_subgroup


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.fillna("").astype(str)


def _band_names(column: pd.Series[Any], fact: str) -> pd.Series[str]:
    """The names of the bands of years or mm, such as "age under 18 years"; empty where unknown."""
    noun, edges, unit = ("age", bands.AGES, "years") if fact == "age" else ("lesion", bands.LESIONS, "mm")
    labels = bands.band_labels(column, edges, unit)
    return labels.where(labels == "", f"{noun} " + labels)


def _compare_subgroup(subgroup: pd.DataFrame, settings: PromotionSettings) -> Row:
    positive = subgroup["positive"].to_numpy(bool)
    clusters = [int(subgroup.loc[mask, "cluster"].nunique()) for mask in (positive, ~positive)]
    counts = {"positive_clusters": clusters[0], "negative_clusters": clusters[1]}
    is_large_enough = min(clusters) >= settings.slice_clusters
    result = (
        delong.compare_areas(subgroup["score"], subgroup["score_rival"], positive, subgroup["cluster"])
        if is_large_enough
        else None
    )
    if result is None:
        return {"status": "unknown", **counts, "wanted_clusters": settings.slice_clusters}
    low, high = (result.bound(settings.alpha, side) for side in (-1, 1))
    return {
        "status": "known",
        **counts,
        "challenger": result.areas[0],
        "rival": result.areas[1],
        "difference": result.difference,
        "low": low,
        "high": high,
        "p_worse": result.p(-1),
    }


def _holm(rows: dict[str, Row]) -> dict[str, Row]:
    """Adjust the p-values for the number of subgroups (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    tested = sorted((row for row in rows.values() if row["status"] == "known"), key=lambda row: float(row["p_worse"]))
    highest = 0.0
    for index, row in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - index) * row["p_worse"]))
        row["p_holm"] = highest
    return rows
