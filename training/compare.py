"""Challenger against a rival on the same test units: paired differences with one-sided bounds by cluster."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from data.record import Side
from lineage.fault import Fault
from training import resample
from training.resample import Array
from training.settings import PromotionSettings

POWER = 0.8  # of the number of clusters that an inconclusive claim asks for


def compare(challenger: pd.DataFrame, rival: pd.DataFrame, settings: PromotionSettings, name: str) -> dict[str, Any]:
    """Figures of three cohorts: `anchor` (test clusters of the first epoch), `newest` (of the last) and `overall`.

    Both tables have the columns of `predictions.csv`. Each cohort holds both models' AUROC and sensitivity at their
    own operating points, and the difference (challenger minus rival) with its one-sided bounds at `settings.alpha`,
    from one clustered bootstrap of the pair. Raises Fault where the two did not judge the same test units.
    """
    both = _paired(challenger, rival, name)
    epochs = tuple(sorted(int(epoch) for epoch in both["epoch"].unique()))
    cohorts = {"anchor": epochs[:1], "newest": epochs[-1:], "overall": epochs}
    figures = {held: _cohort(both[both["epoch"].isin(held)], settings) for held in set(cohorts.values())}
    return {
        "rival": name,
        "alpha": settings.alpha,
        "epochs": list(epochs),
        "cohorts": {cohort: figures[held] for cohort, held in cohorts.items()},
        "flips": _flips(both),
    }


def needed(cohort: dict[str, Any], margin: float, alpha: float) -> int | None:
    """About how many clusters like these would show with 80 % power that the AUROC is above `-margin`.

    For non-inferiority (margin > 0) models are taken as equal; for superiority (margin 0) the gain is the one seen,
    and None where none was seen.
    """
    from scipy.stats import norm

    difference = cohort["auroc"]["difference"]
    distance = margin if margin > 0 else difference["value"]
    error = difference["error"]
    if distance is None or distance <= 0 or error is None:
        return None
    wanted = float(norm.ppf(1 - alpha) + norm.ppf(POWER))
    clusters = int(cohort["clusters"])
    return max(clusters + 1, math.ceil(clusters * (wanted * float(error) / float(distance)) ** 2))


def _paired(challenger: pd.DataFrame, rival: pd.DataFrame, name: str) -> pd.DataFrame:
    mine, theirs = (table[table["side"] == Side.TEST.value] for table in (challenger, rival))
    facts = ["unit_id", "cluster", "epoch", "positive", "score", "flagged"]
    both = mine[facts].merge(
        theirs[["unit_id", "score", "flagged"]], on="unit_id", suffixes=("", "_rival"), validate="1:1"
    )
    if not len(both) or len(both) != len(mine) or len(both) != len(theirs):
        raise Fault(
            f"the challenger judged {len(mine)} test units, {name} {len(theirs)}, and {len(both)} are the same; "
            "let both judge the same units"
        )
    return both


def _cohort(both: pd.DataFrame, settings: PromotionSettings) -> dict[str, Any]:
    draws = resample.draw(both["cluster"], settings.bootstrap, settings.seed)
    positive = both["positive"].to_numpy(bool)
    auroc, auroc_rival = (resample.auroc(draws, both[column], positive) for column in ("score", "score_rival"))
    found, found_rival = (draws.share(both[column], positive) for column in ("flagged", "flagged_rival"))
    return {
        "units": len(both),
        "clusters": int(both["cluster"].nunique()),
        "positive_clusters": int(both.loc[positive, "cluster"].nunique()),
        "negative_clusters": int(both.loc[~positive, "cluster"].nunique()),
        "auroc": _difference(auroc, auroc_rival, settings.alpha),
        "sensitivity": _difference(found, found_rival, settings.alpha),
    }


def _difference(challenger: Array, rival: Array, alpha: float) -> dict[str, Any]:
    """Both figures, and the difference: its bounds at `alpha` and at half of it, each one-sided, and its error.

    Two models that both rank every unit rightly have a difference of 0 in every draw: bounds and error are 0 then.
    """
    gap = challenger - rival
    drawn = gap[1:][np.isfinite(gap[1:])]
    told: dict[str, Any] = dict.fromkeys(("value", "low", "high", "low_half", "error"))
    if math.isfinite(gap[0]):
        told["value"] = float(gap[0])
    if math.isfinite(gap[0]) and len(drawn) > 1 and len(drawn) >= 0.9 * (len(gap) - 1):
        low, high, half = np.quantile(drawn, [alpha, 1 - alpha, alpha / 2])
        told |= {"low": float(low), "high": float(high), "low_half": float(half), "error": float(drawn.std())}
    return {"challenger": _plain(challenger[0]), "rival": _plain(rival[0]), "difference": told}


def _flips(both: pd.DataFrame) -> dict[str, Any]:
    """Units whose answer at the operating point changed: what the rival had right and the challenger has not."""
    right = both["flagged"] == both["positive"]
    had = both["flagged_rival"] == both["positive"]
    return {
        "lost": both.loc[had & ~right, "unit_id"].tolist(),
        "won": int((right & ~had).sum()),
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
