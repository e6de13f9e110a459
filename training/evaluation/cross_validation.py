"""Cross-validation: every unit is judged once, by a model whose fit, stop and calibration never saw its cluster."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.dataset.shards import Units
from data.record import Side, Task
from lineage.errors import Fault
from training.evaluation import baseline, evaluate
from training.evaluation import metrics as evaluation_metrics
from training.fitting import fit
from training.settings import CalibrateSettings, EvaluateSettings, FitSettings
from training.statistics import bootstrap

log = logging.getLogger(__name__)

INNER = 5  # of the clusters that are left, one in so many tells when to stop and calibrates
FEWEST = 3  # clusters: one to judge, one to stop by, one to learn from


def crossval(
    units: Units,
    task: Task,
    fitting: FitSettings,
    calibration: CalibrateSettings,
    settings: EvaluateSettings,
    folds: int,
    target: Path,
) -> dict[str, Any]:
    """Fit, calibrate and judge fold by fold; the figures of all out-of-fold judgements together, beside the baseline.

    `folds` counts them; 0 leaves one cluster out at a time. Sides that the units have are not looked at. Writes
    `predictions.csv`, `baseline.csv` and `metrics.json` (figures, `fold_auroc` with its mean), and a folder for each
    fold. Scores of different folds come from different models, each calibrated by itself: the AUROC over all of them
    is what a user of such models would see, the mean of the folds' own what the ranking inside one is worth.
    """
    judged, simple = [], []
    names: tuple[str, ...] = ()
    for number, dealt in enumerate(deal(units, folds, settings.seed)):
        folder = target / f"fold-{number}"
        fit.fit(dealt, task, fitting, folder / "model")
        told = evaluate.evaluate(dealt, task, folder / "model", calibration, settings, folder / "evaluation")
        names = tuple(told["baseline"]["features"])
        judged.append(_test(folder / "evaluation" / evaluate.PREDICTIONS, number))
        simple.append(_test(folder / "evaluation" / baseline.PREDICTIONS, number))
        log.info("%s: fold %d of %d judged", task.name, number + 1, folds or units.table["cluster"].nunique())
    every, theirs = (pd.concat(tables, ignore_index=True) for tables in (judged, simple))
    every.to_csv(target / evaluate.PREDICTIONS, index=False)
    theirs.to_csv(target / baseline.PREDICTIONS, index=False)
    metrics = {
        "task": task.name,
        "folds": len(judged),
        "counts": evaluation_metrics.counts(every),
        "test": evaluation_metrics.figures(every, task.classes, settings, task.ordered),
        "fold_auroc": _of_folds(judged),
        "baseline": baseline.compare(every, theirs, names, task, settings) | {"fold_auroc": _of_folds(simple)},
    }
    text = json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False)
    (target / evaluate.METRICS).write_text(text + "\n", encoding="utf-8")
    return metrics


def deal(units: Units, folds: int, seed: int) -> Iterator[Units]:
    """The units with the sides of each fold in turn: its clusters are the test side, one in `INNER` of the others,
    alike in classes, the validation side. Fault for more folds than clusters, or too few of these."""
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

    clusters = units.table["cluster"].to_numpy(str)
    count = len(np.unique(clusters))
    if count < max(FEWEST, folds) or folds == 1:
        raise Fault(
            f"{count} clusters can't be dealt to {folds or count} folds of at least one; admit more patients, "
            "or ask for fewer folds (2 or more)"
        )
    outer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed) if folds else LeaveOneGroupOut()
    for rest, held in outer.split(units.labels, units.labels, clusters):
        inner = StratifiedGroupKFold(min(INNER, len(np.unique(clusters[rest]))), shuffle=True, random_state=seed)
        _, chosen = next(inner.split(rest, units.labels[rest], clusters[rest]))
        side = np.full(len(clusters), Side.TRAINING.value, object)
        side[held], side[rest[chosen]] = Side.TEST.value, Side.VALIDATION.value
        yield dataclasses.replace(units, table=units.table.assign(side=side))


def _test(path: Path, fold: int) -> pd.DataFrame:
    """The test units of a fold, as its evaluation wrote them."""
    texts = dict.fromkeys(("unit_id", "cluster", "case", "batch", "site", "scanner", "label"), str)
    table = pd.read_csv(path, dtype=texts, keep_default_na=False, float_precision="round_trip")
    return table[table["side"] == Side.TEST.value].assign(fold=fold)


def _of_folds(tables: list[pd.DataFrame]) -> dict[str, Any]:
    """The AUROC inside each fold, None where it holds one kind of unit alone, and the mean of the others."""
    found = []
    for table in tables:
        draws = bootstrap.draw(table["cluster"], 0, 0)
        value = float(bootstrap.auroc(draws, table["score"], table["positive"].to_numpy(bool))[0])
        found.append(value if np.isfinite(value) else None)
    known = [value for value in found if value is not None]
    return {"each": found, "mean": float(np.mean(known)) if known else None}
