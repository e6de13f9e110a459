"""The baseline of a network: logistic regression on intensity features of the same units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Side, Task
from data.dataset.shards import Units
from data.scan.slice_features import DESCRIPTION
from serving.inference.predict import decide
from training.evaluation import calibration, metrics
from training.settings import EvaluateSettings
from training.statistics import bootstrap, delong

PREDICTIONS = "baseline.csv"
GEOMETRY = ("rows", "columns", "row_spacing", "column_spacing", "thickness")  # of the image, not of the anatomy
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95, 0.99)  # of the prepared pixels
REGULARISATION = 1.0  # scikit-learn's C, on standardised features
MAX_ITERATIONS = 2000


def intensity_features(units: Units) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Features (n, k) of units and their names.

    First the intensities of data/scan/slice_features.py that the table has, in the units of the scan. Then mean,
    standard deviation and quantiles of the prepared pixels, and the mean difference between neighbouring pixels.
    """
    described = [name for name in DESCRIPTION if name in units.table and name not in GEOMETRY]
    flat_pixels = units.pixels.reshape(len(units.pixels), -1)
    steps = [np.abs(np.diff(units.pixels, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)]
    prepared = [flat_pixels.mean(axis=1), flat_pixels.std(axis=1), *np.quantile(flat_pixels, QUANTILES, axis=1), *steps]
    names = ("mean", "std", *(f"p{round(100 * q):02d}" for q in QUANTILES), "down", "across")
    columns = np.column_stack([units.table[described].to_numpy(np.float64), *prepared])
    return columns, (*described, *(f"prepared_{name}" for name in names))


def judge(units: Units, task: Task, seed: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The baseline's predictions of the held-out units, with the columns of `predictions.csv`, and its feature names.

    It is fitted on the training clusters (classes with equal weight) and takes its operating point from the validation
    clusters, like the network. Test units are only predicted.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, names = intensity_features(units)
    training = (units.table["side"] == Side.TRAINING.value).to_numpy()
    model = make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=MAX_ITERATIONS, random_state=seed),
    )
    model.fit(values[training], units.labels[training])
    held_out = units.table[~training]
    probabilities = np.zeros((len(held_out), len(task.classes)), np.float32)
    probabilities[:, model.classes_] = model.predict_proba(values[~training])
    validation = (held_out["side"] == Side.VALIDATION.value).to_numpy()
    scores = probabilities[:, task.positive_index].sum(axis=1).astype(np.float64)
    positive = held_out["label"].isin(task.positive).to_numpy()
    threshold = calibration.operating_point(scores[validation], positive[validation], task.sensitivity)
    return pd.DataFrame(
        {
            **{name: held_out[name].to_numpy() for name in ("unit_id", "cluster", "side", "epoch", "label")},
            "positive": positive.astype(int),
            "score": scores,
            "flagged": (scores >= threshold).astype(int),
            "predicted": [task.classes[decide(row, task.positive_index, threshold)] for row in probabilities],
            **{f"p_{name}": probabilities[:, index].astype(np.float64) for index, name in enumerate(task.classes)},
        }
    ), names


def compare(
    judged: pd.DataFrame,
    baseline_predictions: pd.DataFrame,
    feature_names: tuple[str, ...],
    task: Task,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """The baseline's metrics on the test units, and the difference of the network to it on the same units.

    `difference` is of the AUROC, `difference_balanced_accuracy` of the balanced accuracy, both network minus baseline
    with a two-sided percentile interval from one paired clustered bootstrap. With few patients the bootstrap interval
    is too narrow, so that of the AUROC is widened to the interval of the paired DeLong method.
    """
    test = judged[judged["side"] == Side.TEST.value]
    baseline_test = test[["unit_id"]].merge(baseline_predictions, on="unit_id", validate="1:1")
    draws = bootstrap.draw(test["cluster"], settings.bootstrap, settings.seed)
    positive = test["positive"].to_numpy(bool)
    aurocs = [bootstrap.auroc(draws, table["score"], positive) for table in (test, baseline_test)]
    balanced_accuracies = [metrics.balanced_accuracy(table, task.classes, draws) for table in (test, baseline_test)]
    baseline_metrics = metrics.compute_metrics(baseline_test, task.classes, settings)
    return {
        "model": "logistic regression",
        "features": list(feature_names),
        "confidence": settings.confidence,
        **{name: baseline_metrics[name] for name in ("auroc", "sensitivity", "specificity", "balanced_accuracy")},
        "difference": _widen_by_delong(
            _interval(aurocs[0] - aurocs[1], settings.confidence), test, baseline_test, settings.confidence
        ),
        "difference_balanced_accuracy": _interval(balanced_accuracies[0] - balanced_accuracies[1], settings.confidence),
    }


def _widen_by_delong(
    interval: dict[str, float | None], network: pd.DataFrame, baseline: pd.DataFrame, confidence: float
) -> dict[str, float | None]:
    """The interval with the outer bounds of bootstrap and DeLong; unchanged if DeLong has none."""
    paired = delong.compare_areas(network["score"], baseline["score"], network["positive"], network["cluster"])
    low, high = interval["low"], interval["high"]
    if paired is None or low is None or high is None:
        return interval
    tail = (1 - confidence) / 2
    return interval | {"low": min(low, paired.bound(tail, -1)), "high": max(high, paired.bound(tail, 1))}


def _interval(difference: NDArray[np.float64], confidence: float) -> dict[str, float | None]:
    """Estimate and interval of a difference over the draws (the first draw is the data themselves).

    The bounds are None if more than a tenth of the draws have no value.
    """
    finite, tail = difference[1:][np.isfinite(difference[1:])], (1 - confidence) / 2
    if not np.isfinite(difference[0]):
        return dict.fromkeys(("value", "low", "high"))
    if len(finite) < max(2.0, 0.9 * (len(difference) - 1)):
        return {"value": float(difference[0]), "low": None, "high": None}
    low, high = np.quantile(finite, [tail, 1 - tail])
    return {"value": float(difference[0]), "low": float(low), "high": float(high)}
