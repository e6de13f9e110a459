"""Baselines of a network: logistic regression on simple features of the same units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Side, Task
from data.dataset.shards import Units
from serving.inference.predict import decide
from training.evaluation import baseline_features, calibration, metrics
from training.evaluation.baseline_features import FeatureSet
from training.settings import EvaluateSettings
from training.statistics import bootstrap, delong

PREDICTIONS = "baseline.csv"
MIN_CLUSTERS = 5  # positive and negative test patients with the features of a baseline; fewer: unknown
REGULARISATION = 1.0  # scikit-learn's C, on standardised features
MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class FurtherBaseline:
    """A baseline's feature names, and its predictions of held-out units, or the reason why there are none."""

    names: tuple[str, ...]
    predictions: pd.DataFrame | None
    reason: str = ""


def judge(units: Units, task: Task, seed: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The intensity baseline's predictions of the held-out units, as `predict_held_out`, and its feature names."""
    features = baseline_features.intensities(units)
    return predict_held_out(units, features, task, seed), features.names


def predict_held_out(units: Units, features: FeatureSet, task: Task, seed: int) -> pd.DataFrame:
    """A baseline's predictions of the held-out units that have its features, with the columns of `predictions.csv`.

    It is fitted on the training clusters (classes with equal weight) and takes its operating point from the validation
    clusters, like the network. Test units are only predicted.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    is_training = (units.table["side"] == Side.TRAINING.value).to_numpy()
    training, predicted = is_training & features.usable, ~is_training & features.usable
    model = make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=MAX_ITERATIONS, random_state=seed),
    )
    model.fit(features.values[training], units.labels[training])
    held_out = units.table[predicted]
    probabilities = np.zeros((len(held_out), len(task.classes)), np.float32)
    probabilities[:, model.classes_] = model.predict_proba(features.values[predicted])
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
    )


def predict_further(
    units: Units, task: Task, seed: int, further: Mapping[str, NDArray[np.floating]] | None = None
) -> dict[str, FurtherBaseline]:
    """Every baseline beside intensity (training/evaluation/baseline_features.py) on the held-out units that have its
    features. One that cannot be fitted has the reason instead of predictions."""
    training = (units.table["side"] == Side.TRAINING.value).to_numpy()
    predicted = {}
    for features in baseline_features.feature_sets(units, task, further or {}):
        reason = features.missing
        kinds = np.unique(np.isin(units.labels[training & features.usable], task.positive_index))
        if not reason and len(kinds) < 2:
            reason = "only positive or only negative training patients have it"
        table = None if reason else predict_held_out(units, features, task, seed)
        predicted[features.name] = FurtherBaseline(features.names, table, reason)
    return predicted


def compare_further(
    judged: pd.DataFrame, baselines: Mapping[str, FurtherBaseline], task: Task, settings: EvaluateSettings
) -> dict[str, dict[str, Any]]:
    """The comparison with each of these baselines, by name.

    An entry is that of `compare` on the test units that have the features, with `status` known, their counts, and the
    AUROC of the network on them. Where features or patients are missing, `status` is unknown, with the reason.
    """
    return {name: _compare_further(judged, entry, task, settings) for name, entry in baselines.items()}


def _compare_further(
    judged: pd.DataFrame, entry: FurtherBaseline, task: Task, settings: EvaluateSettings
) -> dict[str, Any]:
    if entry.predictions is None:
        return {"status": "unknown", "reason": entry.reason}
    of_network = judged[judged["unit_id"].isin(entry.predictions["unit_id"])]
    test = of_network[of_network["side"] == Side.TEST.value]
    test_counts = metrics.counts(test)
    if min(test_counts["positive_clusters"], test_counts["negative_clusters"]) < MIN_CLUSTERS:
        return {"status": "unknown", "reason": f"fewer than {MIN_CLUSTERS} positive or negative test patients have it"}
    draws = bootstrap.draw(test["cluster"], 0, settings.seed)
    network_auroc = float(bootstrap.auroc(draws, test["score"], test["positive"].to_numpy(bool))[0])
    comparison = compare(of_network, entry.predictions, entry.names, task, settings)
    return {"status": "known", **test_counts, "network_auroc": network_auroc, **comparison}


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
