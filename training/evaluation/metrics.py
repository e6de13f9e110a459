"""The figures of a set of judged units, each with an interval by cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.settings import EvaluateSettings
from training.statistics import bootstrap
from training.statistics.bootstrap import Array, Draws

ECE_BINS = 10
SLICE_CLUSTERS = 5  # a slice of the population with fewer is "unknown"
SLOPE_DRAWS = 200  # of the calibration slope, which is fitted in every draw
NEWTON = 25  # steps at most
Figure = dict[str, float | None]


def figures(
    judged: pd.DataFrame, classes: tuple[str, ...], settings: EvaluateSettings, ordered: bool = False
) -> dict[str, Any]:
    """Figures of judged units (the columns of `predictions.csv`): counts, confusion, and each with its interval.

    `auroc`, `auprc` and `brier` are of the positive score against the rest; `sensitivity`, `specificity`, `precision`
    and `f1` at the operating point, `ppv` and `npv` there at `settings.prevalence`; `calibration_slope` of the logit
    of the score (1 is right, below 1 too sure); `ece` (10 bins of the top probability) and the others over all
    classes, of ordered ones the `quadratic_kappa` too.
    """
    draws = bootstrap.draw(judged["cluster"], settings.bootstrap, settings.seed)
    positive, flagged = judged["positive"].to_numpy(bool), judged["flagged"].to_numpy(bool)
    scores = judged["score"].to_numpy(np.float64)
    confusion = _confusion(judged, classes, draws)
    right = judged["label"].to_numpy() == judged["predicted"].to_numpy()
    clusters = {True: _clusters(judged, positive), False: _clusters(judged, ~positive)}
    both, whole = min(clusters.values()), int(judged["cluster"].nunique())
    sensitivity, specificity = draws.share(flagged, positive), draws.share(~flagged, ~positive)
    rare = settings.prevalence
    hit, alarm = sensitivity * rare, (1 - specificity) * (1 - rare)
    rejected, missed = specificity * (1 - rare), (1 - sensitivity) * rare
    values: dict[str, tuple[Array, int]] = {
        "auroc": (bootstrap.auroc(draws, scores, positive), both),
        "auprc": (bootstrap.average_precision(draws, scores, positive), clusters[True]),
        "sensitivity": (sensitivity, clusters[True]),
        "specificity": (specificity, clusters[False]),
        "precision": (draws.share(positive, flagged), _clusters(judged, flagged)),
        "f1": (bootstrap.ratio(2 * draws.sums(flagged & positive), draws.sums(flagged) + draws.sums(positive)), both),
        "ppv": (bootstrap.ratio(hit, hit + alarm), both),
        "npv": (bootstrap.ratio(rejected, rejected + missed), both),
        "calibration_slope": (_slope(scores, positive, draws), both),
        "accuracy": (draws.share(right, np.ones(len(right))), whole),
        "balanced_accuracy": (_balanced(confusion), both),
        "macro_f1": (_macro_f1(confusion), both),
        "brier": (draws.share((scores - positive) ** 2, np.ones(len(right))), whole),
        "ece": (_ece(judged, classes, draws), whole),
    }
    if ordered:
        values["quadratic_kappa"] = (_quadratic_kappa(confusion), whole)
    told = {name: bootstrap.interval(drawn, settings.confidence, count) for name, (drawn, count) in values.items()}
    return {
        **counts(judged),
        "confidence": settings.confidence,
        "prevalence": rare,
        "confusion": confusion[0].astype(int).tolist(),
        **told,
    }


def counts(judged: pd.DataFrame) -> dict[str, int]:
    """Units, clusters, and clusters with at least one positive and one negative unit."""
    positive = judged["positive"].to_numpy(bool)
    return {
        "units": len(judged),
        "clusters": int(judged["cluster"].nunique()),
        "positive_units": int(positive.sum()),
        "positive_clusters": _clusters(judged, positive),
        "negative_clusters": _clusters(judged, ~positive),
    }


def slices(judged: pd.DataFrame, column: str, classes: tuple[str, ...], settings: EvaluateSettings) -> dict[str, Any]:
    """The figures of each value of a column; `status` is unknown where a slice has too few clusters of either kind."""
    found: dict[str, Any] = {}
    for value, part in judged.groupby(judged[column].fillna("").astype(str).replace("", "not told"), sort=True):
        tally = counts(part)
        enough = min(tally["positive_clusters"], tally["negative_clusters"]) >= SLICE_CLUSTERS
        found[str(value)] = (
            {"status": "known", **figures(part, classes, settings)}
            if enough
            else {"status": "unknown", **tally, "wanted_clusters": SLICE_CLUSTERS}
        )
    return found


def balanced_accuracy(judged: pd.DataFrame, classes: tuple[str, ...], draws: Draws) -> Array:
    """Mean recall over the classes, in every draw of the judged units (draws + 1)."""
    return _balanced(_confusion(judged, classes, draws))


def conformal(judged: pd.DataFrame, calibrated: dict[str, Any], settings: EvaluateSettings) -> dict[str, Any]:
    """What the conformal sets of `calibration.json` hold on judged units: `coverage` (the set holds the true class),
    `cluster_coverage` (it does for all units of a cluster, which is what the level promises), `set_size` (classes)
    and `single` (sets of one class). Where validation could not calibrate, the status alone."""
    quantiles = {name: entry["quantile"] for name, entry in calibrated["classes"].items()}
    if calibrated["status"] != "calibrated" or any(edge is None for edge in quantiles.values()):
        return {"status": calibrated["status"]}
    inside = np.column_stack([1 - judged[f"p_{name}"].to_numpy() <= edge for name, edge in quantiles.items()])
    truth = np.array([list(quantiles).index(label) for label in judged["label"]])
    covered = inside[np.arange(len(judged)), truth]
    draws = bootstrap.draw(judged["cluster"], settings.bootstrap, settings.seed)
    whole, every = np.ones(len(judged)), int(judged["cluster"].nunique())
    clusters = pd.Series(covered).groupby(draws.place).transform("all").to_numpy(bool)
    share = 1 / pd.Series(whole).groupby(draws.place).transform("sum").to_numpy()
    values = {
        "coverage": draws.share(covered, whole),
        "cluster_coverage": bootstrap.ratio(draws.sums(clusters * share), draws.sums(share)),
        "set_size": draws.share(inside.sum(axis=1), whole),
        "single": draws.share(inside.sum(axis=1) == 1, whole),
    }
    told = {name: bootstrap.interval(drawn, settings.confidence, every) for name, drawn in values.items()}
    return {"status": calibrated["status"], "level": calibrated["level"], **told}


def _slope(scores: Array, positive: NDArray[np.bool_], draws: Draws) -> Array:
    """Slope of a logistic regression of the truth on the logit of the score, in the first draws (Cox 1958; Van Calster
    et al., J Clin Epidemiol 2016); NaN where a draw is separated, so that none is best."""
    sure = np.clip(scores, 1e-6, 1 - 1e-6)
    logit = np.log(sure / (1 - sure))
    rows = draws.weights[: SLOPE_DRAWS + 1, draws.place]
    level, slope = np.zeros(len(rows)), np.ones(len(rows))
    step = np.full(len(rows), np.inf)
    for _ in range(NEWTON):
        share = 1 / (1 + np.exp(-np.clip(level[:, None] + slope[:, None] * logit, -30, 30)))
        error, weight = rows * (positive - share), rows * share * (1 - share)
        gradient = error.sum(axis=1), error @ logit
        flat, tilt, bend = weight.sum(axis=1), weight @ logit, weight @ logit**2
        size = flat * bend - tilt**2
        size = np.where(size > 1e-9, size, np.nan)
        step = (flat * gradient[1] - tilt * gradient[0]) / size
        level, slope = level + (bend * gradient[0] - tilt * gradient[1]) / size, slope + step
    return np.where(np.abs(step) < 1e-6, slope, np.nan)


def _quadratic_kappa(confusion: Array) -> Array:
    """Cohen's kappa with quadratic weights (Cohen 1968): 1 less the weighted disagreement over that by chance."""
    place = np.arange(confusion.shape[1])
    far = (place[:, np.newaxis] - place) ** 2
    truth, said, whole = confusion.sum(axis=2), confusion.sum(axis=1), confusion.sum(axis=(1, 2))
    chance = np.einsum("di,dj,ij->d", truth, said, far)
    return 1 - bootstrap.ratio((confusion * far).sum(axis=(1, 2)) * whole, chance)


def _clusters(judged: pd.DataFrame, mask: NDArray[np.bool_]) -> int:
    return int(judged.loc[mask, "cluster"].nunique())


def _confusion(judged: pd.DataFrame, classes: tuple[str, ...], draws: Draws) -> Array:
    """Confusion matrices (draws + 1, true, predicted)."""
    size = len(classes)
    place = {name: index for index, name in enumerate(classes)}
    cell = judged["label"].map(place).to_numpy(int) * size + judged["predicted"].map(place).to_numpy(int)
    return draws.sums(np.eye(size * size)[cell]).reshape(-1, size, size)


def _balanced(confusion: Array) -> Array:
    """Mean recall over the classes that a draw holds."""
    recall = bootstrap.ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2))
    return np.asarray(np.nanmean(recall, axis=1))


def _macro_f1(confusion: Array) -> Array:
    """Mean F1 over the classes that a draw holds or names."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return np.asarray(np.nanmean(bootstrap.ratio(2 * hits, confusion.sum(axis=1) + confusion.sum(axis=2)), axis=1))


def _ece(judged: pd.DataFrame, classes: tuple[str, ...], draws: Draws) -> Array:
    """Expected calibration error of the most probable class (Guo et al., ICML 2017), equal bins."""
    sure = judged[[f"p_{name}" for name in classes]].to_numpy(np.float64)
    top = np.asarray(classes)[sure.argmax(axis=1)] == judged["label"].to_numpy()
    confidence = sure.max(axis=1)
    return calibration_error(draws, confidence, top)


def calibration_error(draws: Draws, sure: Array, right: NDArray[np.bool_]) -> Array:
    """Mean distance of a probability (units) from the share that was right, over 10 equal bins, in every draw."""
    bins = np.eye(ECE_BINS)[np.minimum((sure * ECE_BINS).astype(int), ECE_BINS - 1)]
    gaps = np.abs(draws.sums(bins * (sure - right)[:, np.newaxis])).sum(axis=1)
    return bootstrap.ratio(gaps, draws.sums(np.ones(len(sure))))
