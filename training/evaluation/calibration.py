"""Temperature, operating point and conformal quantiles from the validation units of the exported graph."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Task
from serving.inference.pooling import prevalence
from serving.inference.predict import probabilities
from training.evaluation import answered
from training.settings import CalibrateSettings

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
TEMPERATURE_RANGE = (0.5, 10.0)  # perfectly separated validation units would give a temperature of 0
LEVEL_STEP = 0.01  # between two conformal levels that are tried
DEFAULT_THRESHOLD = 0.5  # the operating point without positive validation units


@dataclass(frozen=True)
class Calibration:
    """The parameters that turn logits into an answer. `threshold` is of the summed probability of the positive classes.

    `sensitivity`, `specificity` and `prevalence` (of positive units) are measured on the validation units.
    `level_choice` has each conformal level that was tried (`choose_level`). `precision` is the floating-point format of
    the graph.
    """

    temperature: float
    threshold: float
    wanted_sensitivity: float
    sensitivity: float | None
    specificity: float | None
    prevalence: float
    clusters: int
    units: int
    conformal: dict[str, Any]
    level_choice: list[dict[str, Any]]
    precision: str
    precision_check: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The content of `calibration.json`."""
        return asdict(self)


def calibrate(
    logits: Array,
    labels: Labels,
    clusters: NDArray[Any],
    task: Task,
    settings: CalibrateSettings,
    precision: str,
    precision_check: dict[str, Any],
    abstain_below: float = 0.0,
) -> Calibration:
    """Calibrate on the validation units' logits (n, classes), labels (n) and clusters (n).

    Conformal level and operating point are chosen together (`choose_level`), for a release that withholds answers with
    a confidence under `abstain_below`.
    """
    fitted_temperature = temperature(logits, labels)
    calibrated_probabilities = probabilities(logits, fitted_temperature)
    scores = calibrated_probabilities[:, task.positive_index].sum(axis=1).astype(np.float64)
    positives = np.isin(labels, task.positive_index)
    choice, threshold, level_choice = choose_level(
        calibrated_probabilities, labels, clusters, task, settings, abstain_below
    )
    flagged = scores >= threshold
    return Calibration(
        temperature=fitted_temperature,
        threshold=threshold,
        wanted_sensitivity=task.sensitivity,
        sensitivity=float(flagged[positives].mean()) if positives.any() else None,
        specificity=float((~flagged[~positives]).mean()) if (~positives).any() else None,
        prevalence=prevalence(positives),
        clusters=len(np.unique(clusters)),
        units=len(labels),
        conformal=choice,
        level_choice=level_choice,
        precision=precision,
        precision_check=precision_check,
    )


def temperature(logits: Array, labels: Labels) -> float:
    """The temperature with the smallest cross-entropy (Guo et al., ICML 2017), within `TEMPERATURES`."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    gaps = (logits - logits[np.arange(len(labels)), labels][:, np.newaxis]).astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(logsumexp(gaps / math.exp(log_temperature), axis=1).mean())

    low, high = (math.log(edge) for edge in TEMPERATURE_RANGE)
    return round(math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x)), 4)


def operating_point(scores: NDArray[np.float64], positives: NDArray[np.bool_], sensitivity: float) -> float:
    """The threshold with the largest Youden index (sensitivity + specificity, Youden 1950) among those with at least
    that sensitivity.

    It is halfway between the next negative score and the lowest positive score above it. So rounding in another engine
    changes no answer, and all positives that cost no further false alarm are flagged.
    """
    positive_scores = np.sort(scores[positives])[::-1]
    if not len(positive_scores):
        return DEFAULT_THRESHOLD
    negative_scores = np.sort(scores[~positives])
    needed_count = min(len(positive_scores), max(1, math.ceil(sensitivity * len(positive_scores) - 1e-9)))
    counts = np.arange(needed_count, len(positive_scores) + 1)
    negatives_below = np.searchsorted(negative_scores, positive_scores[counts - 1])
    youden = counts * len(negative_scores) + negatives_below * len(positive_scores)  # times both counts: integers
    best = int(np.argmax(youden))
    lowest_positive = positive_scores[counts[best] - 1]
    next_negative = float(negative_scores[negative_scores < lowest_positive].max(initial=0.0))
    return (next_negative + float(positive_scores[positive_scores > next_negative].min())) / 2


def choose_level(
    calibrated_probabilities: Array,
    labels: Labels,
    clusters: NDArray[Any],
    task: Task,
    settings: CalibrateSettings,
    abstain_below: float,
) -> tuple[dict[str, Any], float, list[dict[str, Any]]]:
    """The conformal quantiles and the operating point with the largest coverage on the validation units.

    Levels from the wanted sensitivity to `settings.level` are tried: a set may miss no larger share of a class than the
    task allows to miss. At each, the operating point is the lower one of those of all and of the answered units, so
    that both have the wanted sensitivity. Of equal coverages the higher level is chosen. Also returns the tried levels
    with coverage, and sensitivity and specificity among the answered units.
    """
    scores = calibrated_probabilities[:, task.positive_index].sum(axis=1).astype(np.float64)
    positives = np.isin(labels, task.positive_index)
    overall = operating_point(scores, positives, task.sensitivity)
    candidates = []
    for level in _levels(task.sensitivity, settings.level):
        of_level = CalibrateSettings(min_clusters=settings.min_clusters, level=level)
        quantiles = conformal(calibrated_probabilities, labels, clusters, task.classes, of_level)
        reasons = answered.withheld_reasons(calibrated_probabilities, quantiles, abstain_below)
        is_answered = reasons == answered.ANSWERED
        threshold = overall
        if (positives & is_answered).any():
            threshold = min(overall, operating_point(scores[is_answered], positives[is_answered], task.sensitivity))
        flagged = scores >= threshold
        facts = {
            "level": level,
            "status": quantiles["status"],
            "coverage": float(is_answered.mean()),
            "sensitivity": _share(flagged, positives & is_answered),
            "specificity": _share(~flagged, ~positives & is_answered),
        }
        candidates.append((quantiles, threshold, facts))
    # without quantiles the sets withhold nothing, so a calibrated level goes before any coverage
    best = max(candidates, key=lambda entry: (entry[2]["status"] == "calibrated", entry[2]["coverage"]))
    return best[0], best[1], [facts for _, _, facts in candidates]


def _levels(sensitivity: float, highest: float) -> list[float]:
    """The conformal levels to try, the highest first, down to the wanted sensitivity."""
    count = max(0, math.floor((highest - sensitivity) / LEVEL_STEP + 1e-9))
    return [round(highest - step * LEVEL_STEP, 4) for step in range(count + 1)]


def _share(values: NDArray[np.bool_], subset: NDArray[np.bool_]) -> float | None:
    return float(values[subset].mean()) if subset.any() else None


def conformal(
    calibrated_probabilities: Array,
    labels: Labels,
    clusters: NDArray[Any],
    classes: tuple[str, ...],
    settings: CalibrateSettings,
) -> dict[str, Any]:
    """Split-conformal quantile of 1 - p(true class) for each class (Vovk 2012, label-conditional).

    A class belongs to the set of a new scan if 1 - p is at most its quantile. Clusters are exchangeable, units are
    not, so each cluster gives one score, its largest. A class with fewer clusters than `settings.min_clusters` is
    `not calibratable`.
    """
    quantiles: dict[str, dict[str, Any]] = {}
    scores = 1 - calibrated_probabilities[np.arange(len(labels)), labels].astype(np.float64)
    for index, name in enumerate(classes):
        of_class = labels == index
        worst = sorted(scores[of_class & (clusters == cluster)].max() for cluster in np.unique(clusters[of_class]))
        rank = math.ceil((len(worst) + 1) * settings.level - 1e-9)
        has_quantile = len(worst) >= settings.min_clusters and rank <= len(worst)
        quantiles[name] = {
            "clusters": len(worst),
            "quantile": float(worst[rank - 1]) if has_quantile else None,
            "status": "calibrated" if has_quantile else "not calibratable",
        }
    is_calibrated = all(entry["status"] == "calibrated" for entry in quantiles.values())
    return {
        "status": "calibrated" if is_calibrated else "not calibratable",
        "level": settings.level,
        "min_clusters": settings.min_clusters,
        "classes": quantiles,
    }
