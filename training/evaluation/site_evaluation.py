"""Metrics of a site under its own calibration, cross-fitted by patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Task
from serving.inference.predict import decide, probabilities
from training.evaluation import answered
from training.evaluation.site_calibration import SiteCalibration, recalibrate
from training.settings import CalibrateSettings, EvaluateSettings
from training.statistics import bootstrap
from training.statistics.bootstrap import Draws

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
MAX_FOLDS = 20


def evaluate_site(
    logits: Array,
    labels: Labels,
    clusters: NDArray[Any],
    task: Task,
    calibrate: CalibrateSettings,
    settings: EvaluateSettings,
    release: Mapping[str, Any],
    abstain_below: float,
) -> dict[str, Any]:
    """Metrics of the local sample, each patient answered by a calibration that has not used him.

    Patients are dealt to at most 20 folds. `sensitivity` and `specificity` are of all units at the operating point,
    `coverage` is the share answered; `answered` has sensitivity, specificity and accuracy of the answered units. All
    have intervals that resample patients. `false_alarms` and `misses` count units, `withheld` counts them by reason.
    """
    is_flagged, predicted, reasons = _cross_fit(
        logits, labels, clusters, task, calibrate, release, abstain_below, settings
    )
    positives = np.isin(labels, task.positive_index)
    is_answered = reasons == answered.ANSWERED
    draws = bootstrap.draw(clusters, settings.bootstrap, settings.seed)
    shares = {
        "sensitivity": (is_flagged, positives),
        "specificity": (~is_flagged, ~positives),
        "coverage": (is_answered, np.ones(len(labels), bool)),
    }
    answered_shares = {
        "sensitivity": (is_flagged, positives & is_answered),
        "specificity": (~is_flagged, ~positives & is_answered),
        "accuracy": (predicted == labels, is_answered),
    }
    return {
        "units": len(labels),
        "clusters": len(np.unique(clusters)),
        "positive_clusters": len(np.unique(clusters[positives])),
        "negative_clusters": len(np.unique(clusters[~positives])),
        "folds": min(MAX_FOLDS, len(np.unique(clusters))),
        "confidence": settings.confidence,
        **{name: _interval(draws, *share, settings.confidence) for name, share in shares.items()},
        "answered": {name: _interval(draws, *share, settings.confidence) for name, share in answered_shares.items()},
        "false_alarms": int((is_flagged & ~positives).sum()),
        "misses": int((~is_flagged & positives).sum()),
        "withheld": {reason: int((reasons == reason).sum()) for reason in answered.REASONS},
    }


def _cross_fit(
    logits: Array,
    labels: Labels,
    clusters: NDArray[Any],
    task: Task,
    calibrate: CalibrateSettings,
    release: Mapping[str, Any],
    abstain_below: float,
    settings: EvaluateSettings,
) -> tuple[NDArray[np.bool_], Labels, NDArray[np.str_]]:
    """Flag, predicted class and withholding reason of each unit (n), by the calibration of the other folds."""
    names, index = np.unique(clusters.astype(str), return_inverse=True)
    folds = np.random.default_rng(settings.seed).permutation(len(names)) % min(MAX_FOLDS, len(names))
    is_flagged = np.zeros(len(labels), bool)
    predicted = np.zeros(len(labels), np.int64)
    reasons = np.full(len(labels), answered.ANSWERED, dtype=object)
    for fold in range(int(folds.max()) + 1):
        rows = folds[index] == fold
        site = recalibrate(logits[~rows], labels[~rows], clusters[~rows], task, calibrate, release)
        is_flagged[rows], predicted[rows], reasons[rows] = answer_units(logits[rows], site, task, abstain_below)
    return is_flagged, predicted, reasons.astype(str)


def answer_units(
    logits: Array, site: SiteCalibration, task: Task, abstain_below: float
) -> tuple[NDArray[np.bool_], Labels, NDArray[np.str_]]:
    """Flag, predicted class and withholding reason ("" if answered) of each unit (n) under a site's calibration."""
    calibrated_probabilities = probabilities(logits, site.temperature)
    scores = calibrated_probabilities[:, task.positive_index].sum(axis=1).astype(np.float64)
    predicted = [decide(row, task.positive_index, site.threshold) for row in calibrated_probabilities]
    reasons = answered.withheld_reasons(calibrated_probabilities, site.conformal, abstain_below)
    return scores >= site.threshold, np.array(predicted, np.int64), reasons


def _interval(
    draws: Draws, values: NDArray[np.bool_], subset: NDArray[np.bool_], confidence: float
) -> dict[str, float | None]:
    """Share of a subset with the outer bounds of two intervals: the bootstrap of patients, and Wilson's (1927) on the
    number of patients, since the bootstrap is too narrow for few patients."""
    clusters = len(np.unique(draws.cluster_index[subset]))
    interval = bootstrap.interval(draws.share(values, subset), confidence, clusters)
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value is None:
        return interval
    wilson_low, wilson_high = _wilson(value, clusters, confidence)
    return {
        "value": value,
        "low": wilson_low if low is None else min(low, wilson_low),
        "high": wilson_high if high is None else max(high, wilson_high),
    }


def _wilson(share: float, count: int, confidence: float) -> tuple[float, float]:
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half_width = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return max(0.0, centre - half_width), min(1.0, centre + half_width)
