"""Temperature, operating point and conformal quantiles of one site, from a small local sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Side, Task
from serving.inference.predict import probabilities
from training.evaluation import calibration, site_alignment
from training.evaluation.site_alignment import Alignment, Scores
from training.settings import CalibrateSettings

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
SCORES = "scores"  # key of the release's facts: the scores of its validation patients
PROMISE_SMOOTHING = 0.3  # bandwidth in standard deviations, so that chance does not choose the promised point
PROMISE_POINTS = 200
LEAST_MISSED = 0.005  # share of positive units that even a perfect release may miss
LOG_TEMPERATURE_SD = 0.5  # prior spread of the logarithm of a site's temperature around the release's


@dataclass(frozen=True)
class SiteCalibration:
    """The parameters that turn logits into an answer at one site; the first three are those of `calibration.json`.

    `promised` has sensitivity and specificity of the release's validation patients (`promise`), `expected` those at
    this site after the local patients. `scale` and `shift` describe the site's scores relative to the release's.
    """

    temperature: float
    threshold: float
    conformal: dict[str, Any]
    clusters: int
    units: int
    promised: dict[str, float | None]
    expected: dict[str, float | None]
    scale: float
    shift: float

    def to_dict(self) -> dict[str, Any]:
        """The calibration as plain JSON."""
        return asdict(self)


def reference_scores(
    calibrated_probabilities: Array, labels: Labels, clusters: NDArray[Any], task: Task
) -> dict[str, Any]:
    """The validation scores of a release, as prior of its sites: at most 100 numbers for each distribution.

    `positive` has the log-odds of the positive classes, of positive (inside) and other units (outside). `classes` has
    the log-odds of each class, of its own units, of the others, and of the worst unit of each of its patients.
    """
    positive_scores = calibrated_probabilities[:, task.positive_index].sum(axis=1)
    positives = np.isin(labels, task.positive_index)
    return {
        "positive": _distributions(site_alignment.logits(positive_scores), positives, clusters),
        "classes": {
            name: _distributions(site_alignment.logits(calibrated_probabilities[:, index]), labels == index, clusters)
            for index, name in enumerate(task.classes)
        },
    }


def reference_of_predictions(predictions: pd.DataFrame, task: Task) -> dict[str, Any]:
    """The same from `predictions.csv` of a model whose `calibration.json` has no scores."""
    validation = predictions[predictions["side"] == Side.VALIDATION.value]
    labels = np.array([task.classes.index(name) for name in validation["label"]], np.int64)
    class_probabilities = validation[[f"p_{name}" for name in task.classes]].to_numpy(np.float32)
    return reference_scores(class_probabilities, labels, validation["cluster"].to_numpy(str), task)


def recalibrate(
    logits: Array,
    labels: Labels,
    clusters: NDArray[Any],
    task: Task,
    settings: CalibrateSettings,
    release: Mapping[str, Any],
) -> SiteCalibration:
    """Recalibrate a release for a site on the logits (n, classes), labels (n) and clusters (n) of its local sample.

    `release` has `temperature`, `threshold` and `conformal` of `calibration.json`, and `scores` (`reference_scores`),
    toward which a small sample is shrunk. Without `scores` the local sample is taken as binormal, which needs more
    patients. At the operating point the expected sensitivity is the promised one (`promise`), averaged over what the
    sample leaves open.
    """
    release_temperature = float(release["temperature"])
    site_temperature = _temperature(logits, labels, clusters, release_temperature)
    calibrated_probabilities = probabilities(logits, site_temperature)
    log_scale = math.log(release_temperature / site_temperature)
    scores: Mapping[str, Any] = release.get(SCORES) or {}
    positives = np.isin(labels, task.positive_index)
    positive_scores = site_alignment.logits(calibrated_probabilities[:, task.positive_index].sum(axis=1))
    sample = _Sample(positive_scores, positives, clusters.astype(str))
    posterior = _align(sample, scores.get("positive"), log_scale)
    threshold, scale, shift = float(release["threshold"]), 1.0, 0.0
    expected: dict[str, float | None] = {"sensitivity": None, "specificity": None}
    if posterior is not None:
        alignment, (inside_scores, outside_scores) = posterior
        inside = alignment.distribution(alignment.inside, inside_scores, sample.inside)
        outside = alignment.distribution(alignment.outside, outside_scores, sample.outside)
        edge = inside.score_below(1 - _operating_shares(inside_scores, outside_scores, task.sensitivity)[0])
        threshold, scale, shift = _probability(edge), alignment.scale, alignment.shift
        expected = {"sensitivity": 1 - inside.share_below(edge), "specificity": outside.share_below(edge)}
    return SiteCalibration(
        temperature=site_temperature,
        threshold=threshold,
        conformal=_conformal(calibrated_probabilities, labels, clusters, task, settings, release, log_scale),
        clusters=len(np.unique(clusters)),
        units=len(labels),
        promised=promise(release, task.sensitivity),
        expected=expected,
        scale=scale,
        shift=shift,
    )


def promise(release: Mapping[str, Any], sensitivity: float) -> dict[str, float | None]:
    """Sensitivity and specificity that an operating point promises, from the release's validation patients.

    The sensitivity is the wanted one, or a larger one where the Youden index of the smoothed scores is larger. The
    specificity is that of the validation patients there. None for both without `scores`.
    """
    distributions = (release.get(SCORES) or {}).get("positive") or {}
    if not distributions.get("inside") or not distributions.get("outside"):
        return {"sensitivity": None, "specificity": None}
    inside, outside = (np.asarray(distributions[kind], np.float64) for kind in ("inside", "outside"))
    promised_sensitivity, specificity = _operating_shares(inside, outside, sensitivity)
    return {"sensitivity": promised_sensitivity, "specificity": specificity}


def _operating_shares(
    inside: NDArray[np.float64], outside: NDArray[np.float64], sensitivity: float
) -> tuple[float, float]:
    """Sensitivity and specificity at the largest Youden index, of sorted scores, with at least this sensitivity."""
    from scipy.special import ndtr

    bandwidth = PROMISE_SMOOTHING * max(float(inside.std()), 0.1)
    highest = float(np.quantile(inside, 1 - sensitivity, method="weibull"))
    edges = np.linspace(min(highest, float(inside.min()), float(np.median(outside))), highest, PROMISE_POINTS)
    missed, true_negatives = (
        ndtr((edges[:, np.newaxis] - values) / bandwidth).mean(axis=1) for values in (inside, outside)
    )
    edge = float(edges[int(np.argmax(true_negatives - missed))])
    positions = np.arange(1, len(inside) + 1) / (len(inside) + 1)
    return 1 - max(float(np.interp(edge, inside, positions)), LEAST_MISSED), float((outside < edge).mean())


@dataclass(frozen=True)
class _Sample:
    """Local log-odds (n) with the kind and cluster of each unit."""

    values: NDArray[np.float64]
    is_inside: NDArray[np.bool_]
    clusters: NDArray[np.str_]

    @property
    def inside(self) -> Scores:
        return site_alignment.weigh(self.values[self.is_inside], self.clusters[self.is_inside])

    @property
    def outside(self) -> Scores:
        return site_alignment.weigh(self.values[~self.is_inside], self.clusters[~self.is_inside])

    @property
    def worst(self) -> Scores:
        """The lowest score of each cluster inside."""
        worst = _worst(self.values[self.is_inside], self.clusters[self.is_inside])
        return Scores(worst, np.ones(len(worst)))


def _temperature(logits: Array, labels: Labels, clusters: NDArray[Any], release_temperature: float) -> float:
    """The temperature with the smallest cross-entropy, shrunk to the release's (a normal prior of its logarithm)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    gaps = (logits - logits[np.arange(len(labels)), labels][:, np.newaxis]).astype(np.float64)
    weights = site_alignment.weigh(np.zeros(len(labels)), clusters.astype(str)).weights
    centre = math.log(release_temperature)

    def loss(log_temperature: float) -> float:
        penalty = ((log_temperature - centre) / LOG_TEMPERATURE_SD) ** 2 / 2
        return float(weights @ logsumexp(gaps / math.exp(log_temperature), axis=1)) + penalty

    low, high = (math.log(edge) for edge in calibration.TEMPERATURE_RANGE)
    return round(math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x)), 4)


def _align(
    sample: _Sample, distributions: Mapping[str, Any] | None, log_scale: float
) -> tuple[Alignment, tuple[NDArray[np.float64], NDArray[np.float64]]] | None:
    """The alignment and the release's scores of positive and other units. Without these, normal distributions with the
    local moments replace them; None if there are no local units of a kind then."""
    if distributions and distributions["inside"] and distributions["outside"]:
        inside, outside = (np.asarray(distributions[kind], np.float64) for kind in ("inside", "outside"))
        return site_alignment.align(inside, outside, sample.inside, sample.outside, log_scale), (inside, outside)
    if not sample.is_inside.any() or sample.is_inside.all():
        return None
    inside, outside = (site_alignment.normal_scores(local) for local in (sample.inside, sample.outside))
    return site_alignment.align(inside, outside, sample.inside, sample.outside), (inside, outside)


def _conformal(
    calibrated_probabilities: Array,
    labels: Labels,
    clusters: NDArray[Any],
    task: Task,
    settings: CalibrateSettings,
    release: Mapping[str, Any],
    log_scale: float,
) -> dict[str, Any]:
    """Conformal quantiles of the site, at the level of the release.

    A class that the release could calibrate gets the release's quantile after alignment of its scores, mixed with the
    local patients. Any other class needs `settings.min_clusters` local patients.
    """
    level = float(release["conformal"]["level"]) if release.get("conformal") else settings.level
    local_settings = CalibrateSettings(min_clusters=settings.min_clusters, level=level)
    local = calibration.conformal(calibrated_probabilities, labels, clusters, task.classes, local_settings)
    distributions = (release.get(SCORES) or {}).get("classes") or {}
    for index, name in enumerate(task.classes):
        of_class = distributions.get(name)
        if not of_class or len(of_class["worst"]) < settings.min_clusters:
            continue
        values = site_alignment.logits(calibrated_probabilities[:, index])
        sample = _Sample(values, labels == index, clusters.astype(str))
        posterior = _align(sample, of_class, log_scale)
        if posterior is None:
            continue
        worst = np.asarray(of_class["worst"], np.float64)
        alignment = posterior[0]
        edge = alignment.distribution(alignment.inside, worst, sample.worst).score_below(1 - level)
        local["classes"][name] |= {"quantile": 1 - _probability(edge), "status": "calibrated"}
    is_calibrated = all(entry["status"] == "calibrated" for entry in local["classes"].values())
    return local | {"status": "calibrated" if is_calibrated else "not calibratable"}


def _distributions(values: NDArray[np.float64], is_inside: NDArray[np.bool_], clusters: NDArray[Any]) -> dict[str, Any]:
    return {
        "inside": site_alignment.summarise(values[is_inside]),
        "outside": site_alignment.summarise(values[~is_inside]),
        "worst": site_alignment.summarise(_worst(values[is_inside], clusters[is_inside])),
    }


def _worst(values: NDArray[np.float64], clusters: NDArray[Any]) -> NDArray[np.float64]:
    return np.array([values[clusters == cluster].min() for cluster in np.unique(clusters)], np.float64)


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))
