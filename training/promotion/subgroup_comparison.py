"""Slices of the population, and what was learnt before: is the challenger worse there than its rival?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.settings import PromotionSettings
from training.statistics import delong

AGES = (18, 40, 60, 75)  # years, lower edges of the bands after the first
LESIONS = (10, 20, 30)  # mm
FACTS = ("site", "scanner", "sex", "age", "lesion_mm")  # of a unit, where its table has them
Mask = NDArray[np.bool_]
Row = dict[str, Any]


def population(both: pd.DataFrame, settings: PromotionSettings) -> dict[str, Row]:
    """The figures of each slice by site, scanner, sex, age band and lesion size, with Holm's p-values.

    `both` has a row for each unit: cluster, positive, score, score_rival, and those of FACTS that are known. A fact
    that is the same of every unit makes no slice. A slice of lesion sizes holds its positives and every negative.
    """
    return _holm({name: _row(both[mask], settings) for name, mask in _slices(both)})


def earlier(both: pd.DataFrame, settings: PromotionSettings) -> dict[str, Row]:
    """The same for every epoch before the last and every site as it was then: what must not be forgotten."""
    old = both[both["epoch"] < both["epoch"].max()]
    rows = {f"epoch {epoch}": _row(part, settings) for epoch, part in old.groupby("epoch")}
    if "site" in old:
        told = old[_text(old["site"]) != ""]
        rows |= {f"site {site} before": _row(part, settings) for site, part in told.groupby(_text(told["site"]))}
    return _holm(rows)


def _slices(both: pd.DataFrame) -> Iterator[tuple[str, Mask]]:
    positive = both["positive"].to_numpy(bool)
    for fact in FACTS:
        if fact not in both:
            continue
        values = _bands(both[fact], fact) if fact in ("age", "lesion_mm") else _text(both[fact])
        found = sorted(set(values) - {""})
        if len(found) < 2 and (values != "").all():
            continue
        for value in found:
            inside = (values == value).to_numpy(bool)
            name = f"{fact} {value}" if fact in ("site", "scanner", "sex") else value
            yield name, inside & positive | ~positive if fact == "lesion_mm" else inside


def _text(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.fillna("").astype(str)


def _bands(column: pd.Series[Any], fact: str) -> pd.Series[Any]:
    """Years or mm as the words of their band; empty where unknown."""
    edges, unit = (AGES, "years") if fact == "age" else (LESIONS, "mm")
    what = "age" if fact == "age" else "lesion"
    names = [f"{what} under {edges[0]} {unit}"]
    names += [f"{what} {low} to {high} {unit}" for low, high in pairwise(edges)]
    names += [f"{what} from {edges[-1]} {unit}"]
    numbers = pd.to_numeric(column, errors="coerce")
    words = np.array(names)[np.searchsorted(edges, numbers.fillna(0), side="right")]
    return pd.Series(np.where(numbers.notna(), words, ""), index=column.index)


def _row(part: pd.DataFrame, settings: PromotionSettings) -> Row:
    positive = part["positive"].to_numpy(bool)
    clusters = [int(part.loc[mask, "cluster"].nunique()) for mask in (positive, ~positive)]
    counts = {"positive_clusters": clusters[0], "negative_clusters": clusters[1]}
    enough = min(clusters) >= settings.slice_clusters
    found = delong.paired(part["score"], part["score_rival"], positive, part["cluster"]) if enough else None
    if found is None:
        return {"status": "unknown", **counts, "wanted_clusters": settings.slice_clusters}
    low, high = (found.bound(settings.alpha, side) for side in (-1, 1))
    return {
        "status": "known",
        **counts,
        "challenger": found.areas[0],
        "rival": found.areas[1],
        "difference": found.difference,
        "low": low,
        "high": high,
        "p_worse": found.p(-1),
    }


def _holm(rows: dict[str, Row]) -> dict[str, Row]:
    """Adjust the p-values for the number of slices (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    known = sorted((row for row in rows.values() if row["status"] == "known"), key=lambda row: float(row["p_worse"]))
    highest = 0.0
    for place, row in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - place) * row["p_worse"]))
        row["p_holm"] = highest
    return rows
