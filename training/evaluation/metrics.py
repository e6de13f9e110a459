"""Metrics of predicted units, each with an interval by cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.evaluation import answered
from training.settings import EvaluateSettings
from training.statistics import bootstrap
from training.statistics.bootstrap import Array, Draws

ECE_BINS = 10
WITHHELD = "withheld"  # column with the reason of a withheld answer
MIN_SUBGROUP_CLUSTERS = 5  # a subgroup with fewer clusters of either kind is "unknown"
SLOPE_DRAWS = 200  # draws for the calibration slope, which is fitted in each of them
MAX_NEWTON_STEPS = 25
Figure = dict[str, float | None]


def compute_metrics(
    judged: pd.DataFrame, classes: tuple[str, ...], settings: EvaluateSettings, ordered: bool = False
) -> dict[str, Any]:
    """Metrics of predicted units (the columns of `predictions.csv`): counts, confusion, and metrics with intervals.

    `auroc`, `auprc` and `brier` are of the score of the positive classes. `sensitivity`, `specificity`, `precision` and
    `f1` are at the operating point, `ppv` and `npv` there at `settings.prevalence`. `calibration_slope` is of the logit
    of the score (1 is calibrated, below 1 overconfident). `ece` (10 bins of the top probability) and the others are
    over all classes; ordered classes also have `quadratic_kappa`. With a column `withheld` (the reason, "" if answered)
    there are `coverage`, the share of answered units, and accuracy, sensitivity and specificity among these.
    """
    draws = bootstrap.draw(judged["cluster"], settings.bootstrap, settings.seed)
    positive, flagged = judged["positive"].to_numpy(bool), judged["flagged"].to_numpy(bool)
    scores = judged["score"].to_numpy(np.float64)
    confusion = _confusion(judged, classes, draws)
    is_correct = judged["label"].to_numpy() == judged["predicted"].to_numpy()
    clusters = {True: _count_clusters(judged, positive), False: _count_clusters(judged, ~positive)}
    fewest_clusters, cluster_count = min(clusters.values()), int(judged["cluster"].nunique())
    sensitivity, specificity = draws.share(flagged, positive), draws.share(~flagged, ~positive)
    prevalence = settings.prevalence
    true_positives, false_positives = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negatives, false_negatives = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    values: dict[str, tuple[Array, int]] = {
        "auroc": (bootstrap.auroc(draws, scores, positive), fewest_clusters),
        "auprc": (bootstrap.average_precision(draws, scores, positive), clusters[True]),
        "sensitivity": (sensitivity, clusters[True]),
        "specificity": (specificity, clusters[False]),
        "precision": (draws.share(positive, flagged), _count_clusters(judged, flagged)),
        "f1": (
            bootstrap.ratio(2 * draws.sums(flagged & positive), draws.sums(flagged) + draws.sums(positive)),
            fewest_clusters,
        ),
        "ppv": (bootstrap.ratio(true_positives, true_positives + false_positives), fewest_clusters),
        "npv": (bootstrap.ratio(true_negatives, true_negatives + false_negatives), fewest_clusters),
        "calibration_slope": (_calibration_slope(scores, positive, draws), fewest_clusters),
        "accuracy": (draws.share(is_correct, np.ones(len(is_correct))), cluster_count),
        "balanced_accuracy": (_balanced_accuracy(confusion), fewest_clusters),
        "macro_f1": (_macro_f1(confusion), fewest_clusters),
        "brier": (draws.share((scores - positive) ** 2, np.ones(len(is_correct))), cluster_count),
        "ece": (_ece(judged, classes, draws), cluster_count),
    }
    if WITHHELD in judged:
        is_answered = (judged[WITHHELD] == answered.ANSWERED).to_numpy(bool)
        answered_counts = {
            kind: _count_clusters(judged, is_answered & mask) for kind, mask in ((True, positive), (False, ~positive))
        }
        values |= {
            "coverage": (draws.share(is_answered, np.ones(len(is_answered))), cluster_count),
            "answered_accuracy": (draws.share(is_correct, is_answered), _count_clusters(judged, is_answered)),
            "answered_sensitivity": (draws.share(flagged, is_answered & positive), answered_counts[True]),
            "answered_specificity": (draws.share(~flagged, is_answered & ~positive), answered_counts[False]),
        }
    if ordered:
        values["quadratic_kappa"] = (_quadratic_kappa(confusion), cluster_count)
    intervals = {
        name: bootstrap.interval(draw_values, settings.confidence, count)
        for name, (draw_values, count) in values.items()
    }
    return {
        **counts(judged),
        **withheld_counts(judged),
        "confidence": settings.confidence,
        "prevalence": prevalence,
        "confusion": confusion[0].astype(int).tolist(),
        **intervals,
    }


def counts(judged: pd.DataFrame) -> dict[str, int]:
    """Numbers of units and clusters, of positive units, and of clusters with a positive or a negative unit."""
    positive = judged["positive"].to_numpy(bool)
    return {
        "units": len(judged),
        "clusters": int(judged["cluster"].nunique()),
        "positive_units": int(positive.sum()),
        "positive_clusters": _count_clusters(judged, positive),
        "negative_clusters": _count_clusters(judged, ~positive),
    }


def withheld_counts(judged: pd.DataFrame) -> dict[str, Any]:
    """The number of units withheld for each reason; empty without a column `withheld`."""
    if WITHHELD not in judged:
        return {}
    return {WITHHELD: {reason: int((judged[WITHHELD] == reason).sum()) for reason in answered.REASONS}}


def metrics_by_value(
    judged: pd.DataFrame, column: str, classes: tuple[str, ...], settings: EvaluateSettings
) -> dict[str, Any]:
    """The metrics of each value of a column; `status` is unknown if it has too few clusters of either kind."""
    metrics_of_value: dict[str, Any] = {}
    for value, subgroup in judged.groupby(judged[column].fillna("").astype(str).replace("", "not told"), sort=True):
        subgroup_counts = counts(subgroup)
        is_large_enough = (
            min(subgroup_counts["positive_clusters"], subgroup_counts["negative_clusters"]) >= MIN_SUBGROUP_CLUSTERS
        )
        metrics_of_value[str(value)] = (
            {"status": "known", **compute_metrics(subgroup, classes, settings)}
            if is_large_enough
            else {
                "status": "unknown",
                **subgroup_counts,
                **withheld_counts(subgroup),
                "wanted_clusters": MIN_SUBGROUP_CLUSTERS,
            }
        )
    return metrics_of_value


def balanced_accuracy(judged: pd.DataFrame, classes: tuple[str, ...], draws: Draws) -> Array:
    """Mean recall over the classes, in every draw of the predicted units (draws + 1)."""
    return _balanced_accuracy(_confusion(judged, classes, draws))


def conformal(judged: pd.DataFrame, calibrated: dict[str, Any], settings: EvaluateSettings) -> dict[str, Any]:
    """Metrics of the conformal sets of `calibration.json` on predicted units.

    `coverage` is the share of sets with the true class, `cluster_coverage` the share of clusters in which all sets have
    it (the guarantee of the level), `set_size` the mean number of classes, `single` the share of sets of one class.
    Without calibrated quantiles only the status is returned.
    """
    quantiles = {name: entry["quantile"] for name, entry in calibrated["classes"].items()}
    if calibrated["status"] != "calibrated" or any(edge is None for edge in quantiles.values()):
        return {"status": calibrated["status"]}
    in_set = np.column_stack([1 - judged[f"p_{name}"].to_numpy() <= edge for name, edge in quantiles.items()])
    true_class = np.array([list(quantiles).index(label) for label in judged["label"]])
    covers_truth = in_set[np.arange(len(judged)), true_class]
    draws = bootstrap.draw(judged["cluster"], settings.bootstrap, settings.seed)
    every_unit, cluster_count = np.ones(len(judged)), int(judged["cluster"].nunique())
    covers_cluster = pd.Series(covers_truth).groupby(draws.cluster_index).transform("all").to_numpy(bool)
    unit_weight = 1 / pd.Series(every_unit).groupby(draws.cluster_index).transform("sum").to_numpy()
    values = {
        "coverage": draws.share(covers_truth, every_unit),
        "cluster_coverage": bootstrap.ratio(draws.sums(covers_cluster * unit_weight), draws.sums(unit_weight)),
        "set_size": draws.share(in_set.sum(axis=1), every_unit),
        "single": draws.share(in_set.sum(axis=1) == 1, every_unit),
    }
    intervals = {
        name: bootstrap.interval(draw_values, settings.confidence, cluster_count)
        for name, draw_values in values.items()
    }
    return {"status": calibrated["status"], "level": calibrated["level"], **intervals}


def _calibration_slope(scores: Array, positive: NDArray[np.bool_], draws: Draws) -> Array:
    """Slope of a logistic regression of the truth on the logit of the score, in the first draws (Cox 1958; Van Calster
    et al., J Clin Epidemiol 2016). NaN if a draw is separated, because then no slope is optimal."""
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    logit = np.log(clipped / (1 - clipped))
    rows = draws.weights[: SLOPE_DRAWS + 1, draws.cluster_index]
    intercept, slope = np.zeros(len(rows)), np.ones(len(rows))
    step = np.full(len(rows), np.inf)
    for _ in range(MAX_NEWTON_STEPS):
        fitted_probability = 1 / (1 + np.exp(-np.clip(intercept[:, None] + slope[:, None] * logit, -30, 30)))
        error, weight = rows * (positive - fitted_probability), rows * fitted_probability * (1 - fitted_probability)
        gradient = error.sum(axis=1), error @ logit
        hessian_00, hessian_01, hessian_11 = weight.sum(axis=1), weight @ logit, weight @ logit**2
        determinant = hessian_00 * hessian_11 - hessian_01**2
        determinant = np.where(determinant > 1e-9, determinant, np.nan)
        step = (hessian_00 * gradient[1] - hessian_01 * gradient[0]) / determinant
        intercept, slope = intercept + (hessian_11 * gradient[0] - hessian_01 * gradient[1]) / determinant, slope + step
    return np.where(np.abs(step) < 1e-6, slope, np.nan)


def _quadratic_kappa(confusion: Array) -> Array:
    """Cohen's kappa with quadratic weights (Cohen 1968): 1 minus weighted disagreement divided by that of chance."""
    class_index = np.arange(confusion.shape[1])
    weights = (class_index[:, np.newaxis] - class_index) ** 2
    true_counts, predicted_counts, totals = confusion.sum(axis=2), confusion.sum(axis=1), confusion.sum(axis=(1, 2))
    chance = np.einsum("di,dj,ij->d", true_counts, predicted_counts, weights)
    return 1 - bootstrap.ratio((confusion * weights).sum(axis=(1, 2)) * totals, chance)


def _count_clusters(judged: pd.DataFrame, mask: NDArray[np.bool_]) -> int:
    return int(judged.loc[mask, "cluster"].nunique())


def _confusion(judged: pd.DataFrame, classes: tuple[str, ...], draws: Draws) -> Array:
    """Confusion matrices (draws + 1, true, predicted)."""
    size = len(classes)
    class_index = {name: index for index, name in enumerate(classes)}
    cell = judged["label"].map(class_index).to_numpy(int) * size + judged["predicted"].map(class_index).to_numpy(int)
    return draws.sums(np.eye(size * size)[cell]).reshape(-1, size, size)


def _balanced_accuracy(confusion: Array) -> Array:
    """Mean recall over the classes that occur in a draw."""
    recall = bootstrap.ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2))
    return np.asarray(np.nanmean(recall, axis=1))


def _macro_f1(confusion: Array) -> Array:
    """Mean F1 over the classes that occur in a draw or are predicted in it."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return np.asarray(np.nanmean(bootstrap.ratio(2 * hits, confusion.sum(axis=1) + confusion.sum(axis=2)), axis=1))


def _ece(judged: pd.DataFrame, classes: tuple[str, ...], draws: Draws) -> Array:
    """Expected calibration error of the most probable class (Guo et al., ICML 2017), equal bins."""
    class_probabilities = judged[[f"p_{name}" for name in classes]].to_numpy(np.float64)
    is_correct = np.asarray(classes)[class_probabilities.argmax(axis=1)] == judged["label"].to_numpy()
    confidence = class_probabilities.max(axis=1)
    return calibration_error(draws, confidence, is_correct)


def calibration_error(draws: Draws, confidence: Array, is_correct: NDArray[np.bool_]) -> Array:
    """Mean distance between confidence (units) and share of correct units, over 10 equal bins, in every draw."""
    bins = np.eye(ECE_BINS)[np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)]
    gaps = np.abs(draws.sums(bins * (confidence - is_correct)[:, np.newaxis])).sum(axis=1)
    return bootstrap.ratio(gaps, draws.sums(np.ones(len(confidence))))
