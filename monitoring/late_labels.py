"""Late labels: what the patient turned out to have, and how often the answers were right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from data.record import Task, Truth
from lineage.errors import Fault
from lineage.record import database, journal, ledger

CONFIDENCE = 0.95  # two-sided


def add(prediction_id: str, label: str, source: str, actor: str, classes: tuple[str, ...] = ()) -> None:
    """Write down the label of an earlier prediction; a later one for the same prediction corrects it.

    `source` says how it is known (pathology, follow-up, reader, report). Raises Fault for an unknown prediction,
    source or, where `classes` are given, label.
    """
    journal.get(prediction_id)
    if source not in set(Truth):
        raise Fault(f"the source of a label is one of {', '.join(Truth)}, not {source!r}")
    if classes and label not in classes:
        raise Fault(f"the label of a prediction of this task is one of {', '.join(classes)}, not {label!r}")
    row = {"prediction_id": prediction_id, "label": label, "source": source, "actor": actor, "at": database.now()}
    database.execute(database.outcomes.insert().values(**row))
    ledger.append("outcome.added", prediction_id, {"label": label, "source": source}, actor=actor)


def labels() -> pd.DataFrame:
    """The last label of every prediction that has one: prediction_id, label, source, actor, at."""
    columns = ["prediction_id", "label", "source", "actor", "at"]
    rows = database.fetch(database.outcomes.select().order_by(database.outcomes.c.id))
    return pd.DataFrame(rows, columns=columns).drop_duplicates("prediction_id", keep="last", ignore_index=True)


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """The predictions of a window that have a label by now, with `label` and `source`."""
    known = labels().rename(columns={"prediction_id": "id", "at": "labelled_at", "actor": "labelled_by"})
    return rows.merge(known, on="id", how="inner")


def outcomes(task: Task, rows: pd.DataFrame) -> dict[str, Any]:
    """Sensitivity and specificity of a window's answers against their late labels, with 95 % intervals by patient.

    A withheld answer is neither right nor wrong: it is counted as `abstained`. Figures without cases are None.
    """
    known = labelled(rows)
    answered = known[known["answer"].notna() & (known["answer"] != "")]
    truly = answered["label"].isin(task.positive)
    said = answered["answer"].isin(task.positive)
    return {
        "labelled": len(known),
        "abstained": len(known) - len(answered),
        "clusters": int(answered["cluster"].nunique()),
        "wanted_sensitivity": task.sensitivity,
        "sensitivity": share(said[truly], answered["cluster"][truly]),
        "specificity": share(~said[~truly], answered["cluster"][~truly]),
    }


def share(right: pd.Series[bool], cluster: pd.Series[str]) -> dict[str, Any] | None:
    """Share of `right` with its interval for dependent cases, after Korn and Graubard (1998).

    Clopper and Pearson's exact interval with the number of cases divided by the design effect of the patients; where
    all agree, the design effect is unknown and the patients count. None without cases.
    """
    from scipy.stats import beta

    cases, patients = len(right), int(cluster.nunique())
    if not cases:
        return None
    value = float(right.mean())
    effective = _effective(right.to_numpy(dtype=np.float64), cluster, value, patients)
    tail = (1 - CONFIDENCE) / 2
    hits, misses = value * effective, (1 - value) * effective
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, misses + 1))
    high = 1.0 if misses == 0 else float(beta.ppf(1 - tail, hits + 1, misses))
    return {
        "value": round(value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "cases": cases,
        "clusters": patients,
    }


def _effective(right: np.ndarray[Any, Any], cluster: pd.Series[str], value: float, patients: int) -> float:
    """Cases divided by the design effect of the clusters (at least 1); never fewer than one."""
    binomial = value * (1 - value) / len(right)
    if binomial == 0 or patients < 2:
        return float(patients)
    residuals = pd.Series(right - value).groupby(cluster.to_numpy()).sum()
    variance = float((residuals**2).sum()) * patients / (patients - 1) / len(right) ** 2
    return max(1.0, len(right) / max(1.0, variance / binomial)) if math.isfinite(variance) else float(patients)
