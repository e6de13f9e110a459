"""The figures of a set of judged units, each with an interval by cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training import resample
from training.resample import Array, Draws
from training.settings import EvaluateSettings

ECE_BINS = 10
SLICE_CLUSTERS = 5  # a slice of the population with fewer is "unknown"
Figure = dict[str, float | None]


def figures(judged: pd.DataFrame, classes: tuple[str, ...], settings: EvaluateSettings) -> dict[str, Any]:
    """Figures of judged units (the columns of `predictions.csv`): counts, confusion, and each with its interval.

    `auroc`, `auprc` and `brier` are of the positive score against the rest, `sensitivity` and `specificity` at the
    operating point, `ece` (10 bins of the top probability) and the others over all classes.
    """
    draws = resample.draw(judged["cluster"], settings.bootstrap, settings.seed)
    positive, flagged = judged["positive"].to_numpy(bool), judged["flagged"].to_numpy(bool)
    scores = judged["score"].to_numpy(np.float64)
    confusion = _confusion(judged, classes, draws)
    right = judged["label"].to_numpy() == judged["predicted"].to_numpy()
    clusters = {True: _clusters(judged, positive), False: _clusters(judged, ~positive)}
    both, whole = min(clusters.values()), int(judged["cluster"].nunique())
    values: dict[str, tuple[Array, int]] = {
        "auroc": (resample.auroc(draws, scores, positive), both),
        "auprc": (resample.average_precision(draws, scores, positive), clusters[True]),
        "sensitivity": (draws.share(flagged, positive), clusters[True]),
        "specificity": (draws.share(~flagged, ~positive), clusters[False]),
        "accuracy": (draws.share(right, np.ones(len(right))), whole),
        "balanced_accuracy": (_balanced(confusion), both),
        "macro_f1": (_macro_f1(confusion), both),
        "brier": (draws.share((scores - positive) ** 2, np.ones(len(right))), whole),
        "ece": (_ece(judged, classes, draws), whole),
    }
    told = {name: resample.interval(drawn, settings.confidence, count) for name, (drawn, count) in values.items()}
    return {
        **counts(judged),
        "confidence": settings.confidence,
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
        found[str(value)] = {"status": "known", **figures(part, classes, settings)} if enough else {
            "status": "unknown", **tally, "wanted_clusters": SLICE_CLUSTERS}  # fmt: skip
    return found


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
    recall = resample.ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2))
    return np.asarray(np.nanmean(recall, axis=1))


def _macro_f1(confusion: Array) -> Array:
    """Mean F1 over the classes that a draw holds or names."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return np.asarray(np.nanmean(resample.ratio(2 * hits, confusion.sum(axis=1) + confusion.sum(axis=2)), axis=1))


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
    return resample.ratio(gaps, draws.sums(np.ones(len(sure))))
