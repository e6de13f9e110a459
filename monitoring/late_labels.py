"""Late labels of predictions, and the sensitivity and specificity of the answers against them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from data.core_types import Task, Truth
from lineage.errors import Fault
from lineage.record import database, journal, ledger
from lineage.record.events import EventKind

CONFIDENCE = 0.95  # two-sided


def add(prediction_id: str, label: str, source: str, actor: str, classes: tuple[str, ...] = ()) -> None:
    """Record the label of an earlier prediction; a later label for the same prediction replaces it.

    `source` is the kind of evidence (pathology, follow-up, reader, report). Raises Fault for an unknown prediction or
    source, and for a label outside `classes` (if not empty).
    """
    journal.get(prediction_id)
    if source not in set(Truth):
        raise Fault(f"the source of a label is one of {', '.join(Truth)}, not {source!r}")
    if classes and label not in classes:
        raise Fault(f"the label of a prediction of this task is one of {', '.join(classes)}, not {label!r}")
    row = {"prediction_id": prediction_id, "label": label, "source": source, "actor": actor, "at": database.now()}
    database.execute(database.outcomes.insert().values(**row))
    ledger.append(EventKind.OUTCOME_ADDED, prediction_id, {"label": label, "source": source}, actor=actor)


def labels() -> pd.DataFrame:
    """The last label of every labelled prediction: prediction_id, label, source, actor, at."""
    columns = ["prediction_id", "label", "source", "actor", "at"]
    rows = database.fetch(database.outcomes.select().order_by(database.outcomes.c.id))
    return pd.DataFrame(rows, columns=columns).drop_duplicates("prediction_id", keep="last", ignore_index=True)


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """The labelled predictions of a window, with `label` and `source`."""
    last_labels = labels().rename(columns={"prediction_id": "id", "at": "labelled_at", "actor": "labelled_by"})
    return rows.merge(last_labels, on="id", how="inner")


def compute_outcomes(task: Task, rows: pd.DataFrame) -> dict[str, Any]:
    """Sensitivity and specificity of a window's answers against their late labels, with 95 % intervals by patient.

    A withheld answer is neither correct nor wrong; it is counted as `abstained`. A metric without cases is None.
    """
    with_labels = labelled(rows)
    answered = with_labels[with_labels["answer"].notna() & (with_labels["answer"] != "")]
    is_positive = answered["label"].isin(task.positive)
    answered_positive = answered["answer"].isin(task.positive)
    return {
        "labelled": len(with_labels),
        "abstained": len(with_labels) - len(answered),
        "clusters": int(answered["cluster"].nunique()),
        "wanted_sensitivity": task.sensitivity,
        "sensitivity": share_with_interval(answered_positive[is_positive], answered["cluster"][is_positive]),
        "specificity": share_with_interval(~answered_positive[~is_positive], answered["cluster"][~is_positive]),
    }


def share_with_interval(is_correct: pd.Series[bool], cluster: pd.Series[str]) -> dict[str, Any] | None:
    """Share of `is_correct` with an interval for dependent cases (Korn and Graubard 1998).

    Clopper and Pearson's exact interval, with the number of cases divided by the design effect of the patients. If all
    cases agree, the design effect is unknown, and the number of patients is used. None without cases.
    """
    from scipy.stats import beta

    cases, patients = len(is_correct), int(cluster.nunique())
    if not cases:
        return None
    value = float(is_correct.mean())
    effective_cases = _effective_cases(is_correct.to_numpy(dtype=np.float64), cluster, value, patients)
    tail = (1 - CONFIDENCE) / 2
    correct_count, wrong_count = value * effective_cases, (1 - value) * effective_cases
    low = 0.0 if correct_count == 0 else float(beta.ppf(tail, correct_count, wrong_count + 1))
    high = 1.0 if wrong_count == 0 else float(beta.ppf(1 - tail, correct_count + 1, wrong_count))
    return {
        "value": round(value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "cases": cases,
        "clusters": patients,
    }


def _effective_cases(is_correct: np.ndarray[Any, Any], cluster: pd.Series[str], value: float, patients: int) -> float:
    """The number of cases divided by the design effect of the clusters (at least 1); at least one."""
    binomial = value * (1 - value) / len(is_correct)
    if binomial == 0 or patients < 2:
        return float(patients)
    residuals = pd.Series(is_correct - value).groupby(cluster.to_numpy()).sum()
    variance = float((residuals**2).sum()) * patients / (patients - 1) / len(is_correct) ** 2
    return max(1.0, len(is_correct) / max(1.0, variance / binomial)) if math.isfinite(variance) else float(patients)
