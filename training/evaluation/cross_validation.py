"""Cross-validation: every unit is predicted once, by a model fitted and calibrated without its cluster."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.core_types import Side, Task
from data.dataset.shards import Units
from lineage.errors import Fault
from training.evaluation import baseline, evaluate
from training.evaluation import metrics as evaluation_metrics
from training.evaluation.baseline import FurtherBaseline
from training.fitting import fit
from training.settings import CalibrateSettings, EvaluateSettings, FitSettings
from training.statistics import bootstrap

log = logging.getLogger(__name__)

INNER_FOLDS = 5  # one in so many of the remaining clusters is for early stopping and calibration
MIN_CLUSTERS = 3  # one each for test, validation and training


def cross_validate(
    units: Units,
    task: Task,
    fitting: FitSettings,
    calibration: CalibrateSettings,
    settings: EvaluateSettings,
    folds: int,
    target: Path,
    abstain_below: float = 0.0,
) -> dict[str, Any]:
    """Fit, calibrate and predict fold by fold; return the metrics of all out-of-fold predictions and the baseline.

    `folds` is their number; 0 leaves one cluster out at a time. The split in the units' table is ignored. Writes
    `predictions.csv`, `baseline.csv`, `metrics.json` (with `fold_auroc` and its mean), and a folder for each fold.
    Scores of different folds come from differently calibrated models. The AUROC over all folds includes that
    difference; the mean of the folds' AUROCs measures only the ranking within a fold.
    """
    predictions_by_fold, baseline_by_fold, further_by_fold = [], [], []
    feature_names: tuple[str, ...] = ()
    for fold, fold_units in enumerate(assign_folds(units, folds, settings.seed)):
        folder = target / f"fold-{fold}"
        fit.fit(fold_units, task, fitting, folder / "model")
        fold_metrics = evaluate.evaluate(
            fold_units, task, folder / "model", calibration, settings, folder / "evaluation", abstain_below
        )
        further_by_fold.append(baseline.predict_further(fold_units, task, settings.seed))
        feature_names = tuple(fold_metrics["baseline"]["features"])
        predictions_by_fold.append(_read_test_units(folder / "evaluation" / evaluate.PREDICTIONS, fold))
        baseline_by_fold.append(_read_test_units(folder / "evaluation" / baseline.PREDICTIONS, fold))
        log.info("%s: fold %d of %d judged", task.name, fold + 1, folds or units.table["cluster"].nunique())
    predictions, baseline_predictions = (
        pd.concat(tables, ignore_index=True) for tables in (predictions_by_fold, baseline_by_fold)
    )
    predictions.to_csv(target / evaluate.PREDICTIONS, index=False)
    baseline_predictions.to_csv(target / baseline.PREDICTIONS, index=False)
    metrics = {
        "task": task.name,
        "folds": len(predictions_by_fold),
        "counts": evaluation_metrics.counts(predictions),
        "test": evaluation_metrics.compute_metrics(predictions, task.classes, settings, task.ordered),
        "fold_auroc": _auroc_by_fold(predictions_by_fold),
        "baseline": baseline.compare(predictions, baseline_predictions, feature_names, task, settings)
        | {"fold_auroc": _auroc_by_fold(baseline_by_fold)},
        "baselines": baseline.compare_further(predictions, _join_folds(further_by_fold), task, settings),
    }
    text = json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False)
    (target / evaluate.METRICS).write_text(text + "\n", encoding="utf-8")
    return metrics


def assign_folds(units: Units, folds: int, seed: int) -> Iterator[Units]:
    """Yield the units with the split of each fold: test clusters, stratified validation clusters, training clusters.

    One in `INNER_FOLDS` of the clusters that are not test clusters is for validation. Raises Fault for more folds than
    clusters, or for too few clusters.
    """
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

    clusters = units.table["cluster"].to_numpy(str)
    count = len(np.unique(clusters))
    if count < max(MIN_CLUSTERS, folds) or folds == 1:
        raise Fault(
            f"{count} clusters cannot be split into {folds or count} folds with a cluster each; admit more patients, "
            "or ask for fewer folds (2 or more)"
        )
    outer_split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed) if folds else LeaveOneGroupOut()
    for other_rows, test_rows in outer_split.split(units.labels, units.labels, clusters):
        inner_split = StratifiedGroupKFold(
            min(INNER_FOLDS, len(np.unique(clusters[other_rows]))), shuffle=True, random_state=seed
        )
        _, validation_rows = next(inner_split.split(other_rows, units.labels[other_rows], clusters[other_rows]))
        side = np.full(len(clusters), Side.TRAINING.value, object)
        side[test_rows], side[other_rows[validation_rows]] = Side.TEST.value, Side.VALIDATION.value
        yield dataclasses.replace(units, table=units.table.assign(side=side))


def _read_test_units(path: Path, fold: int) -> pd.DataFrame:
    """The test units of a fold from the predictions file of its evaluation."""
    texts = dict.fromkeys(("unit_id", "cluster", "case", "batch", "site", "scanner", "label"), str)
    table = pd.read_csv(path, dtype=texts, keep_default_na=False, float_precision="round_trip")
    return table[table["side"] == Side.TEST.value].assign(fold=fold)


def _join_folds(further_by_fold: list[dict[str, FurtherBaseline]]) -> dict[str, FurtherBaseline]:
    """The further baselines with the test predictions of all folds; without any if a fold has none."""
    joined = {}
    for name, first in further_by_fold[0].items():
        entries = [fold[name] for fold in further_by_fold]
        reason = next((entry.reason for entry in entries if entry.reason), "")
        tables = [entry.predictions for entry in entries if entry.predictions is not None]
        test_tables = [table[table["side"] == Side.TEST.value] for table in tables]
        joined[name] = FurtherBaseline(
            first.names, None if reason else pd.concat(test_tables, ignore_index=True), reason
        )
    return joined


def _auroc_by_fold(tables: list[pd.DataFrame]) -> dict[str, Any]:
    """The AUROC of each fold (None if it has only positive or only negative units), and their mean."""
    aurocs = []
    for table in tables:
        draws = bootstrap.draw(table["cluster"], 0, 0)
        value = float(bootstrap.auroc(draws, table["score"], table["positive"].to_numpy(bool))[0])
        aurocs.append(value if np.isfinite(value) else None)
    finite = [value for value in aurocs if value is not None]
    return {"each": aurocs, "mean": float(np.mean(finite)) if finite else None}
