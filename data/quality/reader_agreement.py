"""How far several readers of the same scans agree: Cohen's kappa of two, Fleiss' kappa of more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isnan
from typing import Any

import pandas as pd

from data.record import Task, Truth

READ = (Truth.READER.value, Truth.REPORT.value, "")  # pathology and follow-up are what readers are measured by
SUBSTANTIAL = 0.6  # Landis & Koch 1977, Biometrics 33: "moderate" up to here


@dataclass(frozen=True)
class Agreement:
    """Agreement of `readers` people on `units` slices that two or more of them read.

    `agreed` is the share on which all gave one label; `kappa` is what is left of it beyond chance, None where it is
    not defined (one label alone was ever given); `statistic` names it, `rated` says on how many slices it rests;
    `pairs` holds Cohen's kappa of each two readers.
    """

    readers: int
    units: int
    agreed: float
    statistic: str
    kappa: float | None
    rated: int
    pairs: Mapping[str, float | None]

    def figures(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """What a reader of the verdict should know."""
        if self.kappa is None or self.kappa > SUBSTANTIAL:
            return []
        return [
            f"{self.readers} readers agree on {self.agreed:.0%} of {self.units} units, {self.statistic} kappa "
            f"{self.kappa:.2f}, not more than moderate: the labels are as uncertain as that"
        ]


def measure(table: pd.DataFrame, task: Task) -> Agreement | None:
    """Agreement in the rows of a batch's metadata.csv; None where nobody read what another read.

    Rows of one `file_name` and `slice` with different `labeller` are readings of one unit. Cohen 1960 for two readers
    (weighted linearly where the classes are ordered), Fleiss 1971 for more: on the units with the most usual number
    of readings, since that statistic asks for one number.
    """
    read = table[table["truth"].isin(READ) & (table["labeller"] != "") & table["label"].isin(task.classes)]
    grid = read.pivot_table(index=["file_name", "slice"], columns="labeller", values="label", aggfunc="first")
    grid = grid[grid.notna().sum(axis=1) >= 2].dropna(axis=1, how="all")
    if grid.empty:
        return None
    pairs = {f"{one}, {other}": _cohen(grid[[one, other]].dropna(), task) for one, other in combinations(grid, 2)}
    agreed = float((grid.nunique(axis=1) == 1).mean())
    if len(grid.columns) == 2:
        (kappa,) = pairs.values()
        return Agreement(2, len(grid), agreed, "Cohen's", kappa, len(grid), pairs)
    kappa, rated = _fleiss(grid, task)
    return Agreement(len(grid.columns), len(grid), agreed, "Fleiss'", kappa, rated, pairs)


def _cohen(both: pd.DataFrame, task: Task) -> float | None:
    if len(both) == 0 or len(set(both.to_numpy().ravel())) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    weights = "linear" if task.ordered else None
    return _defined(cohen_kappa_score(both.iloc[:, 0], both.iloc[:, 1], labels=list(task.classes), weights=weights))


def _fleiss(grid: pd.DataFrame, task: Task) -> tuple[float | None, int]:
    """Kappa, and the number of units with the most usual number of readings (of two such numbers the larger)."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    readings = grid.notna().sum(axis=1)
    usual = readings[readings == max(readings.mode())].index
    counts = pd.DataFrame({name: (grid.loc[usual] == name).sum(axis=1) for name in task.classes})
    if (counts.sum() > 0).sum() < 2:
        return None, len(usual)
    return _defined(fleiss_kappa(counts.to_numpy())), len(usual)


def _defined(kappa: float) -> float | None:
    return None if isnan(kappa) else round(float(kappa), 4)
