"""Comparison of a challenger with a rival on the same test units: paired differences with bounds by cluster."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Side
from lineage.errors import Fault
from training.evaluation import metrics
from training.promotion import changed_answers, subgroup_comparison
from training.settings import PromotionSettings
from training.statistics import bootstrap, delong
from training.statistics.bootstrap import Array, Draws

POWER = 0.8  # for the number of clusters that an inconclusive verdict names


def compare(
    challenger: pd.DataFrame,
    rival: pd.DataFrame,
    settings: PromotionSettings,
    name: str,
    facts: pd.DataFrame | None = None,
    decided: Collection[str] = (),
) -> dict[str, Any]:
    """Compare two models in three cohorts (`anchor`, `newest`, `overall`) and in subgroups, and list changed answers.

    Both tables have the columns of `predictions.csv`; `facts` may add facts of the units (sex, age, lesion_mm by
    unit_id). `anchor` has the test clusters of the first epoch. `newest` has later epochs: the batches that are not in
    `decided`, or if these have too few clusters, the last epochs with enough of them. Each cohort has both models'
    AUROC, sensitivity at their own operating points, Brier score and calibration error, and the differences
    (challenger minus rival) with one-sided bounds at `settings.alpha`.
    Raises Fault if the two tables have different test units.
    """
    paired = _pair_units(challenger, rival, name)
    if facts is not None:
        missing_facts = [fact for fact in subgroup_comparison.FACTS if fact in facts and fact not in paired]
        paired = paired.merge(facts[["unit_id", *missing_facts]], on="unit_id", how="left", validate="1:1")
    epochs = tuple(sorted(int(epoch) for epoch in paired["epoch"].unique()))
    newest = _newest_cohort(paired, epochs, decided, settings)
    cohorts = {
        "anchor": (paired["epoch"] == epochs[0]).to_numpy(),
        "newest": newest,
        "overall": np.ones(len(paired), bool),
    }
    distinct_masks = {mask.tobytes(): mask for mask in cohorts.values()}
    comparison_by_mask = {key: _compare_cohort(paired[mask], settings) for key, mask in distinct_masks.items()}
    return {
        "rival": name,
        "alpha": settings.alpha,
        "epochs": list(epochs),
        "cohorts": {cohort: comparison_by_mask[mask.tobytes()] for cohort, mask in cohorts.items()},
        "slices": subgroup_comparison.population(paired, settings),
        "earlier": subgroup_comparison.earlier(paired, settings) if len(epochs) > 1 else {},
        "flips": changed_answers.list_changed_answers(paired),
    }


def needed_clusters(cohort: dict[str, Any], margin: float, alpha: float) -> int | None:
    """About how many such clusters show with 80 % power that the AUROC difference is above `-margin`.

    For non-inferiority (margin > 0) the models are assumed equal. For superiority (margin 0) the observed gain is
    assumed; without a gain the result is None.
    """
    from scipy.stats import norm

    difference = cohort["auroc"]["difference"]
    effect = margin if margin > 0 else difference["value"]
    error = difference["error"]
    if effect is None or effect <= 0 or error is None or alpha <= 0:
        return None
    quantiles = float(norm.ppf(1 - alpha) + norm.ppf(POWER))
    clusters = int(cohort["clusters"])
    return max(clusters + 1, math.ceil(clusters * (quantiles * float(error) / float(effect)) ** 2))


def describe_shortage(counts: dict[str, Any], settings: PromotionSettings) -> str:
    """The shortage of clusters of a cohort in words; empty if it has enough for a decision."""
    if counts["clusters"] < settings.min_clusters:
        return f"{counts['clusters']} clusters, and {settings.min_clusters} are needed"
    for kind in ("positive", "negative"):
        count = counts[f"{kind}_clusters"]
        if count < settings.min_positive_clusters:
            return f"{count} clusters with a {kind} unit, and {settings.min_positive_clusters} are needed"
    return ""


def _pair_units(challenger: pd.DataFrame, rival: pd.DataFrame, name: str) -> pd.DataFrame:
    challenger_test, rival_test = (table[table["side"] == Side.TEST.value] for table in (challenger, rival))
    rival_columns = rival_test[["unit_id", "score", "flagged"]]
    paired = challenger_test.merge(rival_columns, on="unit_id", suffixes=("", "_rival"), validate="1:1")
    if not len(paired) or len(paired) != len(challenger_test) or len(paired) != len(rival_test):
        raise Fault(
            f"the challenger judged {len(challenger_test)} test units, {name} {len(rival_test)}, and {len(paired)} "
            "are the same; evaluate both on the same units"
        )
    return paired


def _newest_cohort(
    paired: pd.DataFrame, epochs: tuple[int, ...], decided: Collection[str], settings: PromotionSettings
) -> NDArray[np.bool_]:
    """Mask of the units of the newest cohort; without the first epoch (the anchor's) if there are later epochs."""
    later = epochs[1:] or epochs
    candidates = [paired["epoch"].isin(later) & ~paired["batch"].isin(list(decided))]
    candidates += [paired["epoch"].isin(later[start:]) for start in range(len(later) - 1, -1, -1)]
    sufficient = (mask for mask in candidates if not describe_shortage(_count_units(paired[mask]), settings))
    return next(sufficient, candidates[-1]).to_numpy(bool)


def _count_units(units: pd.DataFrame) -> dict[str, int]:
    positive = units["positive"] == 1
    return {
        "units": len(units),
        "clusters": int(units["cluster"].nunique()),
        "positive_clusters": int(units.loc[positive, "cluster"].nunique()),
        "negative_clusters": int(units.loc[~positive, "cluster"].nunique()),
    }


def _compare_cohort(paired: pd.DataFrame, settings: PromotionSettings) -> dict[str, Any]:
    draws = bootstrap.draw(paired["cluster"], settings.bootstrap, settings.seed)
    positive = paired["positive"].to_numpy(bool)
    scores = [paired[column].to_numpy(np.float64) for column in ("score", "score_rival")]
    sensitivities = [draws.share(paired[column], positive) for column in ("flagged", "flagged_rival")]
    brier_scores = [draws.share((column_scores - positive) ** 2, np.ones(len(paired))) for column_scores in scores]
    calibration_errors = [metrics.calibration_error(draws, column_scores, positive) for column_scores in scores]
    return {
        **_count_units(paired),
        "batches": sorted(paired["batch"].unique()),
        "auroc": _compare_auroc(draws, paired, settings.alpha),
        "sensitivity": {**_difference(sensitivities, settings.alpha), "mcnemar": changed_answers.mcnemar(paired)},
        "brier": _difference(brier_scores, settings.alpha),
        "ece": _difference(calibration_errors, settings.alpha),
    }


def _compare_auroc(draws: Draws, paired: pd.DataFrame, alpha: float) -> dict[str, Any]:
    """The AUROC difference by the clustered bootstrap and by DeLong's method, combined conservatively.

    Bounds are the outer ones of both, error and p-values the larger ones. If DeLong has none (fewer than two clusters
    of a kind) they are None.
    """
    positive = paired["positive"].to_numpy(bool)
    aurocs = [bootstrap.auroc(draws, paired[column], positive) for column in ("score", "score_rival")]
    comparison = _difference(aurocs, alpha)
    bootstrap_bounds = {name: value for name, value in comparison["difference"].items() if name != "value"}
    delong_result = delong.compare_areas(paired["score"], paired["score_rival"], positive, paired["cluster"])
    delong_bounds: dict[str, float | None] = dict.fromkeys(bootstrap_bounds)
    if delong_result is not None:
        delong_bounds = {
            "low": delong_result.bound(alpha, -1),
            "high": delong_result.bound(alpha, 1),
            "error": delong_result.error,
            "p_better": delong_result.p(1),
            "p_worse": delong_result.p(-1),
        }
    wider_bounds = {name: _wider(name, delong_bounds[name], bootstrap_bounds[name]) for name in bootstrap_bounds}
    comparison["difference"] |= wider_bounds
    return {**comparison, "delong": delong_bounds, "bootstrap": bootstrap_bounds}


def _wider(name: str, first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return min(first, second) if name == "low" else max(first, second)


def _difference(pair: list[Array], alpha: float) -> dict[str, Any]:
    """Both metrics, and their difference by the bootstrap: one-sided bounds at `alpha`, error and p-values.

    If both models rank every unit correctly, the difference is 0 in every draw: bounds and error are then 0.
    """
    challenger, rival = pair
    draw_differences = challenger - rival
    difference = {"value": _finite_or_none(draw_differences[0]), **bootstrap.bounds(draw_differences, alpha)}
    return {"challenger": _finite_or_none(challenger[0]), "rival": _finite_or_none(rival[0]), "difference": difference}


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
