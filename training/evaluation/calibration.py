"""Temperature, operating point and conformal quantiles, all from the validation side of the exported graph."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Task
from serving.inference.pooling import prevalence
from serving.inference.predict import probabilities
from training.settings import CalibrateSettings

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
TEMPERATURES = (0.5, 10.0)  # a validation side that is separated without error would ask for a temperature of 0
DEFAULT_POINT = 0.5  # the operating point where validation holds no positive unit


@dataclass(frozen=True)
class Calibration:
    """What turns logits into an answer. `threshold` is of the summed probability of the positive classes.

    `sensitivity`, `specificity` and `prevalence` (of positive units) are those of the validation side;
    `precision` is what the graph runs in.
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
    precision: str
    precision_check: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, the form of `calibration.json`."""
        return asdict(self)


def calibrate(
    logits: Array,
    labels: Labels,
    clusters: NDArray[Any],
    task: Task,
    settings: CalibrateSettings,
    precision: str,
    precision_check: dict[str, Any],
) -> Calibration:
    """Calibrate on the validation units' logits (n, classes), labels (n) and clusters (n)."""
    heat = temperature(logits, labels)
    sure = probabilities(logits, heat)
    scores = sure[:, task.positive_index].sum(axis=1).astype(np.float64)
    positives = np.isin(labels, task.positive_index)
    threshold = operating_point(scores, positives, task.sensitivity)
    called = scores >= threshold
    return Calibration(
        temperature=heat,
        threshold=threshold,
        wanted_sensitivity=task.sensitivity,
        sensitivity=float(called[positives].mean()) if positives.any() else None,
        specificity=float((~called[~positives]).mean()) if (~positives).any() else None,
        prevalence=prevalence(positives),
        clusters=len(np.unique(clusters)),
        units=len(labels),
        conformal=conformal(sure, labels, clusters, task.classes, settings),
        precision=precision,
        precision_check=precision_check,
    )


def temperature(logits: Array, labels: Labels) -> float:
    """The temperature with the smallest cross-entropy (Guo et al., ICML 2017), within `TEMPERATURES`."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    gaps = (logits - logits[np.arange(len(labels)), labels][:, np.newaxis]).astype(np.float64)

    def loss(logarithm: float) -> float:
        return float(logsumexp(gaps / math.exp(logarithm), axis=1).mean())

    low, high = (math.log(edge) for edge in TEMPERATURES)
    return round(math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x)), 4)


def operating_point(scores: NDArray[np.float64], positives: NDArray[np.bool_], sensitivity: float) -> float:
    """Of the thresholds that find at least that share of the positives, the one with the largest Youden index
    (sensitivity + specificity, Youden 1950): no tumour is given up for a false alarm that costs less.

    It lies in the middle between the lowest positive that it finds and the next negative below it, so that rounding in
    another engine flips nobody, and positives that cost no further false alarm are found too.
    """
    found = np.sort(scores[positives])[::-1]
    if not len(found):
        return DEFAULT_POINT
    negatives = np.sort(scores[~positives])
    needed = min(len(found), max(1, math.ceil(sensitivity * len(found) - 1e-9)))
    counts = np.arange(needed, len(found) + 1)
    quiet = np.searchsorted(negatives, found[counts - 1])  # negatives below each of these positives
    best = int(np.argmax(counts * len(negatives) + quiet * len(found)))  # times both sizes: whole numbers
    lowest = found[counts[best] - 1]
    below = float(negatives[negatives < lowest].max(initial=0.0))
    return (below + float(found[found > below].min())) / 2


def conformal(
    sure: Array, labels: Labels, clusters: NDArray[Any], classes: tuple[str, ...], settings: CalibrateSettings
) -> dict[str, Any]:
    """Split-conformal quantile of 1 - p(true class) for each class (Vovk 2012, label-conditional).

    A class belongs in the set of a new scan if 1 - p is at most its quantile. Exchangeable are clusters, so each
    gives one score, its worst. A class with fewer clusters than `settings.min_clusters` is `not calibratable`.
    """
    quantiles: dict[str, dict[str, Any]] = {}
    misses = 1 - sure[np.arange(len(labels)), labels].astype(np.float64)
    for index, name in enumerate(classes):
        mine = labels == index
        worst = sorted(misses[mine & (clusters == cluster)].max() for cluster in np.unique(clusters[mine]))
        rank = math.ceil((len(worst) + 1) * settings.level - 1e-9)
        enough = len(worst) >= settings.min_clusters and rank <= len(worst)
        quantiles[name] = {
            "clusters": len(worst),
            "quantile": float(worst[rank - 1]) if enough else None,
            "status": "calibrated" if enough else "not calibratable",
        }
    whole = all(entry["status"] == "calibrated" for entry in quantiles.values())
    return {
        "status": "calibrated" if whole else "not calibratable",
        "level": settings.level,
        "min_clusters": settings.min_clusters,
        "classes": quantiles,
    }
