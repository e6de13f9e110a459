"""Inter-reader agreement: Cohen's kappa of two readers, Fleiss' kappa of more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isnan
from typing import Any

import pandas as pd

from data.core_types import Task, Truth

READ = (Truth.READER.value, Truth.REPORT.value, "")  # not pathology and follow-up, which are the reference for readers
SUBSTANTIAL = 0.6  # upper limit of "moderate" (Landis & Koch 1977, Biometrics 33)


@dataclass(frozen=True)
class Agreement:
    """Agreement of `readers` people on `units` slices that at least two of them read.

    `agreed` is the share of slices with one label. `kappa` is the agreement beyond chance, None if undefined (only one
    label was used). `statistic` is its name, `rated` the number of slices it is computed on. `pairs` has Cohen's kappa
    of each two readers.
    """

    readers: int
    units: int
    agreed: float
    statistic: str
    kappa: float | None
    rated: int
    pairs: Mapping[str, float | None]

    def figures(self) -> dict[str, Any]:
        """The fields as plain JSON."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """A warning if the agreement is at most moderate; else an empty list."""
        if self.kappa is None or self.kappa > SUBSTANTIAL:
            return []
        return [
            f"{self.readers} readers agree on {self.agreed:.0%} of {self.units} units, {self.statistic} kappa "
            f"{self.kappa:.2f}, not more than moderate: the labels are uncertain to that degree"
        ]


def measure_agreement(table: pd.DataFrame, task: Task) -> Agreement | None:
    """The agreement in the rows of a metadata.csv; None if no unit was read by two readers.

    Rows of one `file_name` and `slice` with different `labeller` are readings of one unit. Two readers: Cohen 1960,
    with linear weights if the classes are ordered. More readers: Fleiss 1971, on the units with the most frequent
    number of readings, because that statistic requires a constant number.
    """
    readings = table[table["truth"].isin(READ) & (table["labeller"] != "") & table["label"].isin(task.classes)]
    grid = readings.pivot_table(index=["file_name", "slice"], columns="labeller", values="label", aggfunc="first")
    grid = grid[grid.notna().sum(axis=1) >= 2].dropna(axis=1, how="all")
    if grid.empty:
        return None
    pairs = {f"{a}, {b}": _cohen(grid[[a, b]].dropna(), task) for a, b in combinations(grid, 2)}
    agreed = float((grid.nunique(axis=1) == 1).mean())
    if len(grid.columns) == 2:
        (kappa,) = pairs.values()
        return Agreement(2, len(grid), agreed, "Cohen's", kappa, len(grid), pairs)
    kappa, rated = _fleiss(grid, task)
    return Agreement(len(grid.columns), len(grid), agreed, "Fleiss'", kappa, rated, pairs)


def _cohen(labels: pd.DataFrame, task: Task) -> float | None:
    if len(labels) == 0 or len(set(labels.to_numpy().ravel())) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    weights = "linear" if task.ordered else None
    return _rounded_or_none(
        cohen_kappa_score(labels.iloc[:, 0], labels.iloc[:, 1], labels=list(task.classes), weights=weights)
    )


def _fleiss(grid: pd.DataFrame, task: Task) -> tuple[float | None, int]:
    """Kappa, and the number of units with the most frequent number of readings (the larger one in a tie)."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    readings = grid.notna().sum(axis=1)
    usual_units = readings[readings == max(readings.mode())].index
    counts = pd.DataFrame({name: (grid.loc[usual_units] == name).sum(axis=1) for name in task.classes})
    if (counts.sum() > 0).sum() < 2:
        return None, len(usual_units)
    return _rounded_or_none(fleiss_kappa(counts.to_numpy())), len(usual_units)


def _rounded_or_none(kappa: float) -> float | None:
    return None if isnan(kappa) else round(float(kappa), 4)
