"""The baseline that a network must beat: logistic regression on simple intensity features of the same units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset.shards import Units
from data.record import Side, Task
from data.scan.slice_features import DESCRIPTION
from serving.inference.predict import decide
from training.evaluation import calibration, metrics
from training.settings import EvaluateSettings
from training.statistics import bootstrap, delong

PREDICTIONS = "baseline.csv"
SHAPE = ("rows", "columns", "row_spacing", "column_spacing", "thickness")  # of the picture, not of what it shows
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95, 0.99)  # of the prepared pixels
STRENGTH = 1.0  # scikit-learn's C, on standardised features
ROUNDS = 2000


def features(units: Units) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Features (n, k) of units and their names: the intensities of data/scan/slice_features.py that the table holds,
    in the
    scan's own units, then mean, spread and quantiles of the prepared pixels and their steps from pixel to pixel."""
    told = [name for name in DESCRIPTION if name in units.table and name not in SHAPE]
    flat = units.pixels.reshape(len(units.pixels), -1)
    steps = [np.abs(np.diff(units.pixels, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)]
    seen = [flat.mean(axis=1), flat.std(axis=1), *np.quantile(flat, QUANTILES, axis=1), *steps]
    names = ("mean", "std", *(f"p{round(100 * q):02d}" for q in QUANTILES), "down", "across")
    columns = np.column_stack([units.table[told].to_numpy(np.float64), *seen])
    return columns, (*told, *(f"prepared_{name}" for name in names))


def judge(units: Units, task: Task, seed: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """What the baseline says of the held-out units, in the columns of `predictions.csv`; and its features' names.

    It learns from the training clusters (classes weighted alike) and takes its operating point from the validation
    clusters, as the network does; the test side is judged alone.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, names = features(units)
    training = (units.table["side"] == Side.TRAINING.value).to_numpy()
    model = make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=ROUNDS, random_state=seed),
    )
    model.fit(values[training], units.labels[training])
    held = units.table[~training]
    sure = np.zeros((len(held), len(task.classes)), np.float32)
    sure[:, model.classes_] = model.predict_proba(values[~training])
    validation = (held["side"] == Side.VALIDATION.value).to_numpy()
    scores = sure[:, task.positive_index].sum(axis=1).astype(np.float64)
    positive = held["label"].isin(task.positive).to_numpy()
    threshold = calibration.operating_point(scores[validation], positive[validation], task.sensitivity)
    return pd.DataFrame(
        {
            **{name: held[name].to_numpy() for name in ("unit_id", "cluster", "side", "epoch", "label")},
            "positive": positive.astype(int),
            "score": scores,
            "flagged": (scores >= threshold).astype(int),
            "predicted": [task.classes[decide(row, task.positive_index, threshold)] for row in sure],
            **{f"p_{name}": sure[:, place].astype(np.float64) for place, name in enumerate(task.classes)},
        }
    ), names


def compare(
    judged: pd.DataFrame, simple: pd.DataFrame, names: tuple[str, ...], task: Task, settings: EvaluateSettings
) -> dict[str, Any]:
    """The baseline's figures of the test units, and how far the network is ahead of it on the very same ones.

    `difference` is of the AUROC, `difference_balanced_accuracy` of the balanced accuracy, each network minus baseline
    with its two-sided percentile interval, from one clustered bootstrap of the pair; that of the AUROC is as wide as
    the interval of the paired DeLong method at least, since few patients make the bootstrap too sure.
    """
    test = judged[judged["side"] == Side.TEST.value]
    theirs = test[["unit_id"]].merge(simple, on="unit_id", validate="1:1")
    draws = bootstrap.draw(test["cluster"], settings.bootstrap, settings.seed)
    positive = test["positive"].to_numpy(bool)
    areas = [bootstrap.auroc(draws, table["score"], positive) for table in (test, theirs)]
    recalls = [metrics.balanced_accuracy(table, task.classes, draws) for table in (test, theirs)]
    told = metrics.figures(theirs, task.classes, settings)
    return {
        "model": "logistic regression",
        "features": list(names),
        "confidence": settings.confidence,
        **{name: told[name] for name in ("auroc", "sensitivity", "specificity", "balanced_accuracy")},
        "difference": _outer(_interval(areas[0] - areas[1], settings.confidence), test, theirs, settings.confidence),
        "difference_balanced_accuracy": _interval(recalls[0] - recalls[1], settings.confidence),
    }


def _outer(
    told: dict[str, float | None], mine: pd.DataFrame, theirs: pd.DataFrame, confidence: float
) -> dict[str, float | None]:
    """The interval with the outer bounds of the bootstrap and of DeLong; as it is where DeLong has none."""
    paired = delong.paired(mine["score"], theirs["score"], mine["positive"], mine["cluster"])
    low, high = told["low"], told["high"]
    if paired is None or low is None or high is None:
        return told
    tail = (1 - confidence) / 2
    return told | {"low": min(low, paired.bound(tail, -1)), "high": max(high, paired.bound(tail, 1))}


def _interval(gap: NDArray[np.float64], confidence: float) -> dict[str, float | None]:
    """Estimate and interval of a difference over the draws (the first is the data as they are); None where most draws
    hold one kind of unit alone."""
    drawn, tail = gap[1:][np.isfinite(gap[1:])], (1 - confidence) / 2
    if not np.isfinite(gap[0]):
        return dict.fromkeys(("value", "low", "high"))
    if len(drawn) < max(2.0, 0.9 * (len(gap) - 1)):
        return {"value": float(gap[0]), "low": None, "high": None}
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return {"value": float(gap[0]), "low": float(low), "high": float(high)}
