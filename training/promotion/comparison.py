"""Challenger against a rival on the same test units: paired differences with one-sided bounds by cluster."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.record import Side
from lineage.errors import Fault
from training.evaluation import metrics
from training.promotion import changed_answers, subgroup_comparison
from training.settings import PromotionSettings
from training.statistics import bootstrap, delong
from training.statistics.bootstrap import Array, Draws

POWER = 0.8  # of the number of clusters that an inconclusive claim asks for


def compare(
    challenger: pd.DataFrame,
    rival: pd.DataFrame,
    settings: PromotionSettings,
    name: str,
    facts: pd.DataFrame | None = None,
    decided: Collection[str] = (),
) -> dict[str, Any]:
    """Figures of three cohorts: `anchor` (test clusters of the first epoch), `newest` and `overall`; of the slices of
    the population; and of what the rival had right.

    Both tables have the columns of `predictions.csv`; `facts` may tell more of the units (sex, age, lesion_mm by
    unit_id). `newest` is of later epochs than the first: of the batches that are not among those that have `decided`
    before, or, where these are too few, of the last epochs that are enough to decide. Each cohort holds both models'
    AUROC, sensitivity at their own operating points, Brier score and calibration error, and the difference
    (challenger minus rival) with its one-sided bounds at `settings.alpha`.
    Raises Fault where the two did not judge the same test units.
    """
    both = _paired(challenger, rival, name)
    if facts is not None:
        more = [fact for fact in subgroup_comparison.FACTS if fact in facts and fact not in both]
        both = both.merge(facts[["unit_id", *more]], on="unit_id", how="left", validate="1:1")
    epochs = tuple(sorted(int(epoch) for epoch in both["epoch"].unique()))
    newest = _newest(both, epochs, decided, settings)
    cohorts = {"anchor": (both["epoch"] == epochs[0]).to_numpy(), "newest": newest, "overall": np.ones(len(both), bool)}
    found = {held.tobytes(): held for held in cohorts.values()}
    told = {key: _cohort(both[held], settings) for key, held in found.items()}
    return {
        "rival": name,
        "alpha": settings.alpha,
        "epochs": list(epochs),
        "cohorts": {cohort: told[held.tobytes()] for cohort, held in cohorts.items()},
        "slices": subgroup_comparison.population(both, settings),
        "earlier": subgroup_comparison.earlier(both, settings) if len(epochs) > 1 else {},
        "flips": changed_answers.flips(both),
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
    if distance is None or distance <= 0 or error is None or alpha <= 0:
        return None
    wanted = float(norm.ppf(1 - alpha) + norm.ppf(POWER))
    clusters = int(cohort["clusters"])
    return max(clusters + 1, math.ceil(clusters * (wanted * float(error) / float(distance)) ** 2))


def lacking(counts: dict[str, Any], settings: PromotionSettings) -> str:
    """What a cohort lacks to decide anything, in words; empty if it has enough clusters."""
    if counts["clusters"] < settings.min_clusters:
        return f"{counts['clusters']} clusters, and {settings.min_clusters} are needed"
    for kind in ("positive", "negative"):
        count = counts[f"{kind}_clusters"]
        if count < settings.min_positive_clusters:
            return f"{count} clusters with a {kind} unit, and {settings.min_positive_clusters} are needed"
    return ""


def _paired(challenger: pd.DataFrame, rival: pd.DataFrame, name: str) -> pd.DataFrame:
    mine, theirs = (table[table["side"] == Side.TEST.value] for table in (challenger, rival))
    both = mine.merge(theirs[["unit_id", "score", "flagged"]], on="unit_id", suffixes=("", "_rival"), validate="1:1")
    if not len(both) or len(both) != len(mine) or len(both) != len(theirs):
        raise Fault(
            f"the challenger judged {len(mine)} test units, {name} {len(theirs)}, and {len(both)} are the same; "
            "let both judge the same units"
        )
    return both


def _newest(
    both: pd.DataFrame, epochs: tuple[int, ...], decided: Collection[str], settings: PromotionSettings
) -> NDArray[np.bool_]:
    """Which units are of the newest cohort; never those of the first epoch, which is the anchor's, if there is more."""
    later = epochs[1:] or epochs
    chosen = [both["epoch"].isin(later) & ~both["batch"].isin(list(decided))]
    chosen += [both["epoch"].isin(later[start:]) for start in range(len(later) - 1, -1, -1)]
    enough = (mask for mask in chosen if not lacking(_counts(both[mask]), settings))
    return next(enough, chosen[-1]).to_numpy(bool)


def _counts(part: pd.DataFrame) -> dict[str, int]:
    positive = part["positive"] == 1
    return {
        "units": len(part),
        "clusters": int(part["cluster"].nunique()),
        "positive_clusters": int(part.loc[positive, "cluster"].nunique()),
        "negative_clusters": int(part.loc[~positive, "cluster"].nunique()),
    }


def _cohort(both: pd.DataFrame, settings: PromotionSettings) -> dict[str, Any]:
    draws = bootstrap.draw(both["cluster"], settings.bootstrap, settings.seed)
    positive = both["positive"].to_numpy(bool)
    scores = [both[column].to_numpy(np.float64) for column in ("score", "score_rival")]
    found = [draws.share(both[column], positive) for column in ("flagged", "flagged_rival")]
    squares = [draws.share((one - positive) ** 2, np.ones(len(both))) for one in scores]
    distances = [metrics.calibration_error(draws, one, positive) for one in scores]
    return {
        **_counts(both),
        "batches": sorted(both["batch"].unique()),
        "auroc": _auroc(draws, both, settings.alpha),
        "sensitivity": {**_difference(found, settings.alpha), "mcnemar": changed_answers.mcnemar(both)},
        "brier": _difference(squares, settings.alpha),
        "ece": _difference(distances, settings.alpha),
    }


def _auroc(draws: Draws, both: pd.DataFrame, alpha: float) -> dict[str, Any]:
    """The difference by the clustered bootstrap and by DeLong's method: a claim rests on the less sure of the two.

    Bounds are the outer ones, error and p-values the larger ones. Where DeLong has none (under two clusters of a
    kind) there are none.
    """
    positive = both["positive"].to_numpy(bool)
    drawn = [bootstrap.auroc(draws, both[column], positive) for column in ("score", "score_rival")]
    told = _difference(drawn, alpha)
    boot = {name: value for name, value in told["difference"].items() if name != "value"}
    paired = delong.paired(both["score"], both["score_rival"], positive, both["cluster"])
    exact: dict[str, float | None] = dict.fromkeys(boot)
    if paired is not None:
        exact = {
            "low": paired.bound(alpha, -1),
            "high": paired.bound(alpha, 1),
            "error": paired.error,
            "p_better": paired.p(1),
            "p_worse": paired.p(-1),
        }
    outer = {name: _outer(name, exact[name], boot[name]) for name in boot}
    told["difference"] |= outer
    return {**told, "delong": exact, "bootstrap": boot}


def _outer(name: str, one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return None
    return min(one, other) if name == "low" else max(one, other)


def _difference(pair: list[Array], alpha: float) -> dict[str, Any]:
    """Both figures, and the difference by the bootstrap: its one-sided bounds at `alpha`, error and p-values.

    Two models that both rank every unit rightly have a difference of 0 in every draw: bounds and error are 0 then.
    """
    challenger, rival = pair
    gap = challenger - rival
    told = {"value": _plain(gap[0]), **bootstrap.bounds(gap, alpha)}
    return {"challenger": _plain(challenger[0]), "rival": _plain(rival[0]), "difference": told}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
