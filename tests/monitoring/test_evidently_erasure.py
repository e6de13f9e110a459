"""Erasure from stored Evidently runs: no row of a window remains, and its metrics can still be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.core_types import Task
from data.scan.slice_features import DESCRIPTION
from monitoring.evidently_erasure import PLOT_TYPE, empty_plots
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


def test_evidently_stores_rows_only_in_plots_of_the_expected_type(
    side: Side, task: Task, settings: MonitoringSettings, tmp_path: Path
) -> None:
    """The contract with Evidently's files: if this fails, change monitoring/evidently_erasure.py with this test."""
    generator = np.random.default_rng(5)
    reference, current = side(generator, 20, columns=DESCRIPTION), side(generator, 20, columns=DESCRIPTION)
    run = report_drift(reference, current, settings, tmp_path, task).figures["run"]
    software = f"Evidently {version('evidently')}"
    metadata, snapshot = (
        tmp_path / run["project"] / name for name in ("metadata.json", f"snapshots/{run['snapshot']}.json")
    )
    for path in (metadata, snapshot):
        assert path.is_file(), f"{software} no longer writes {path.relative_to(tmp_path)}"
    name = json.loads(metadata.read_text()).get("name")
    assert name == task.name, f"{software} no longer writes a project's name as `name` of metadata.json"
    content = json.loads(snapshot.read_text())
    plots = [json.dumps(plot["params"]) for plot in nodes_of_type(content, PLOT_TYPE)]
    numbers = row_numbers(current)
    assert any(number in plot for plot in plots for number in numbers), (
        f"{software} no longer stores the rows of a plot as `params` of a widget of type {PLOT_TYPE}"
    )
    for plot in nodes_of_type(content, PLOT_TYPE):
        plot["params"] = {}
    remaining = [number for number in numbers if number in json.dumps(content)]
    assert not remaining, f"{software} stores rows of a window outside of widgets of type {PLOT_TYPE}"


def nodes_of_type(node: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every object of a JSON tree with this `type` and with `params`."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and node.get("type") == name and "params" in node:
        yield node
    for child in children:
        yield from nodes_of_type(child, name)
