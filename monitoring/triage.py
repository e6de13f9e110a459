"""Which cases of a window a person should look at first."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NEIGHBOURS = 5
FAR = 0.95  # share of reference patients that lie nearer, from which a case is called far
CLOSE = 0.2  # gap between the two most probable classes, under which a case is called a close call


def rank(rows: pd.DataFrame, reference: pd.DataFrame, limit: int | None = None) -> pd.DataFrame:
    """The window's predictions, the most worth a look first, with `far` and `margin` in 0 to 1 and `why` in words.

    Withheld answers come first, then by the mean of how far a case lies from the reference (`far`: the share of
    reference patients that lie nearer to theirs) and how little the two most probable classes differ (1 - `margin`).
    """
    withheld = rows["answer"].isna() | (rows["answer"] == "")
    ranked = rows[["id", "at", "cluster", "answer", "score"]].assign(
        abstained=withheld, far=_far(rows, reference), margin=rows["probabilities"].map(_margin).astype(float)
    )
    ranked["urgency"] = (ranked["far"].fillna(0.0) + 1 - ranked["margin"].fillna(0.0)) / 2
    ranked["why"] = [_why(case) for case in ranked.to_dict("records")]
    ranked = ranked.sort_values(["abstained", "urgency"], ascending=False, kind="stable").reset_index(drop=True)
    return ranked if limit is None else ranked.head(limit)


def _why(case: Mapping[Hashable, Any]) -> str:
    told = ["the answer was withheld"] if case["abstained"] else []
    far, margin = case["far"], case["margin"]
    if far >= FAR:
        told.append(f"farther from the reference than {far:.0%} of the reference patients")
    if margin < CLOSE:
        told.append(f"a close call: {margin:.0%} between the two most probable classes")
    return "; ".join(told) or "nothing unusual"


def _margin(probabilities: list[float]) -> float:
    ordered = sorted(probabilities, reverse=True)
    return float(ordered[0] - ordered[1]) if len(ordered) > 1 else float("nan")


def _far(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.Series[float]:
    """Share of reference units that lie nearer to other reference patients than the case does to any; NaN unknown."""
    known = np.stack(reference["embedding"].to_list()).astype(np.float64)
    scale = known.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    known = known / scale
    others = reference["cluster"].to_numpy()
    usual = np.sort(_nearest(known, known, others[:, None] == others[None, :]))
    has = rows["embedding"].map(lambda vector: np.size(vector) == known.shape[1])
    far = pd.Series(np.nan, index=rows.index, dtype=float)
    if has.any():
        points = np.stack(rows["embedding"][has].to_list()).astype(np.float64) / scale
        gaps = _nearest(points, known, np.zeros((len(points), len(known)), dtype=bool))
        far[has] = np.searchsorted(usual, gaps) / len(usual)
    return far


def _nearest(points: NDArray[np.float64], known: NDArray[np.float64], barred: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean distance to the nearest known points, leaving out the barred ones."""
    square = (points**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None, :] - 2 * points @ known.T
    gaps = np.where(barred, np.inf, np.sqrt(np.maximum(square, 0.0)))
    count = min(NEIGHBOURS, known.shape[0])
    nearest = np.sort(gaps, axis=1)[:, :count]
    return np.asarray(np.ma.masked_invalid(nearest).mean(axis=1).filled(np.inf))
