"""The order in which a person should review the cases of a window."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NEIGHBOURS = 5
FAR_SHARE = 0.95  # share of closer reference patients from which a case is called far
CLOSE_MARGIN = 0.2  # difference of the two highest probabilities under which a case is a close call


def rank(rows: pd.DataFrame, reference: pd.DataFrame, limit: int | None = None) -> pd.DataFrame:
    """The window's predictions in order of review, with `far` and `margin` from 0 to 1 and the reason `why`.

    Withheld answers come first. The others are ordered by the mean of `far` (the share of reference units that are
    closer to other reference patients) and 1 - `margin` (`margin`: difference of the two highest probabilities).
    """
    withheld = rows["answer"].isna() | (rows["answer"] == "")
    ranked = rows[["id", "at", "cluster", "answer", "score"]].assign(
        abstained=withheld, far=_far_share(rows, reference), margin=rows["probabilities"].map(_margin).astype(float)
    )
    ranked["urgency"] = (ranked["far"].fillna(0.0) + 1 - ranked["margin"].fillna(0.0)) / 2
    ranked["why"] = [_reasons(case) for case in ranked.to_dict("records")]
    ranked = ranked.sort_values(["abstained", "urgency"], ascending=False, kind="stable").reset_index(drop=True)
    return ranked if limit is None else ranked.head(limit)


def _reasons(case: Mapping[Hashable, Any]) -> str:
    reasons = ["the answer was withheld"] if case["abstained"] else []
    far_share, margin = case["far"], case["margin"]
    if far_share >= FAR_SHARE:
        reasons.append(f"farther from the reference than {far_share:.0%} of the reference patients")
    if margin < CLOSE_MARGIN:
        reasons.append(f"a close call: {margin:.0%} between the two most probable classes")
    return "; ".join(reasons) or "nothing unusual"


def _margin(probabilities: list[float]) -> float:
    ordered = sorted(probabilities, reverse=True)
    return float(ordered[0] - ordered[1]) if len(ordered) > 1 else float("nan")


def _far_share(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.Series[float]:
    """Share of reference units closer to other reference patients than the case is to any; NaN if unknown."""
    reference_points = np.stack(reference["embedding"].to_list()).astype(np.float64)
    scale = reference_points.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    reference_points = reference_points / scale
    reference_patients = reference["cluster"].to_numpy()
    reference_distances = np.sort(
        _mean_neighbour_distance(
            reference_points, reference_points, reference_patients[:, None] == reference_patients[None, :]
        )
    )
    has_embedding = rows["embedding"].map(lambda vector: np.size(vector) == reference_points.shape[1])
    far_share = pd.Series(np.nan, index=rows.index, dtype=float)
    if has_embedding.any():
        points = np.stack(rows["embedding"][has_embedding].to_list()).astype(np.float64) / scale
        distances = _mean_neighbour_distance(
            points, reference_points, np.zeros((len(points), len(reference_points)), dtype=bool)
        )
        far_share[has_embedding] = np.searchsorted(reference_distances, distances) / len(reference_distances)
    return far_share


def _mean_neighbour_distance(
    points: NDArray[np.float64], reference_points: NDArray[np.float64], is_excluded: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean distance to the nearest reference points (`NEIGHBOURS`), without the excluded ones."""
    squared_distances = (
        (points**2).sum(axis=1)[:, None] + (reference_points**2).sum(axis=1)[None, :] - 2 * points @ reference_points.T
    )
    distances = np.where(is_excluded, np.inf, np.sqrt(np.maximum(squared_distances, 0.0)))
    count = min(NEIGHBOURS, reference_points.shape[0])
    nearest = np.sort(distances, axis=1)[:, :count]
    return np.asarray(np.ma.masked_invalid(nearest).mean(axis=1).filled(np.inf))
