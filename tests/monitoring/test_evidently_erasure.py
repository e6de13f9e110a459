"""Erasure from stored Evidently runs: no row of a window remains, and its metrics can still be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.core_types import Task
from data.scan.slice_features import DESCRIPTION
from monitoring.evidently_erasure import empty_plots
from monitoring.evidently_report import report_drift
from monitoring.settings import MonitoringSettings

Side = Callable[..., pd.DataFrame]


def row_numbers(rows: pd.DataFrame) -> list[str]:
    return [repr(float(value)) for value in rows[list(DESCRIPTION)].to_numpy().ravel()]


def metric_values(home: Path, run: dict[str, str]) -> list[float]:
    from evidently.ui.workspace import Workspace

    stored_run: Any = Workspace(str(home)).get_run(run["project"], run["snapshot"])
    return [float(result.value) for result in stored_run.metric_results.values() if hasattr(result, "value")]


def test_plotted_rows_are_removed_and_metrics_stay(
    side: Side, task: Task, settings: MonitoringSettings, tmp_path: Path
) -> None:
    generator = np.random.default_rng(5)
    reference, current = side(generator, 20, columns=DESCRIPTION), side(generator, 20, columns=DESCRIPTION)
    run = report_drift(reference, current, settings, tmp_path, task).figures["run"]
    path = tmp_path / run["project"] / "snapshots" / f"{run['snapshot']}.json"
    before = path.read_text()
    assert all(number in before for number in row_numbers(current)) and any(n in before for n in row_numbers(reference))
    figures = metric_values(tmp_path, run)
    assert empty_plots(tmp_path, frozenset({"another task"})) == 0 and path.read_text() == before
    assert empty_plots(tmp_path, frozenset({task.name})) == 1
    after = path.read_text()
    assert not [number for number in row_numbers(current) + row_numbers(reference) if number in after]
    assert metric_values(tmp_path, run) == figures and len(figures) > len(DESCRIPTION)
    assert (
        empty_plots(tmp_path, frozenset({task.name})) == 0
        and empty_plots(tmp_path / "none", frozenset({task.name})) == 0
    )
