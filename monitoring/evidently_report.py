"""The Evidently report of a window: an HTML page, and a run in Evidently's workspace. Only here Evidently runs."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from data.record import Side, Task
from data.scan.slice_features import DESCRIPTION, FACTS
from lineage.record import database
from monitoring import reference as references
from monitoring.drift_tests import FAMILIES, measure
from monitoring.settings import MonitoringSettings
from serving.inference.pooling import prevalence

log = logging.getLogger(__name__)

MAX_PAGES = 50  # of a task; a page is 5 MB, nearly all of it scripts. Runs are never removed
MAX_PLOT_ROWS = 2000  # of each side
METHOD = "clustered permutation"

# Evidently calls metrics and tests without our measurements; they read them from this variable.
_figures: ContextVar[dict[str, Any]] = ContextVar("figures")


@dataclass(frozen=True)
class Drift:
    """The drift of a window: `figures` of `monitoring.drift_tests` with the Evidently `run`, and the HTML `page`."""

    figures: dict[str, Any]
    page: Path


def drift(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    settings: MonitoringSettings,
    evidently_home: Path,
    task: Task,
) -> Drift:
    """Measure the shift, write the page and add a run to the task's project in Evidently's workspace.

    `reference` comes from `monitoring.reference.read`, `current` from `monitoring.window.window`. Raises Fault with
    fewer than two patients on a side.
    """
    validation = reference[reference["side"] == Side.VALIDATION.value]
    calibration_prevalence = prevalence(validation["label"].isin(task.positive).to_numpy())
    reference = references.group_like_answers(reference, current, task.pooling, calibration_prevalence)
    figures = measure(reference, current, settings.permutations, DESCRIPTION, FACTS)
    token = _figures.set(figures)
    try:
        snapshot = _report(reference, current, figures, settings, task.name)
    finally:
        _figures.reset(token)
    run = _save_run(snapshot, evidently_home, task.name)
    page = evidently_home / "pages" / task.name / f"{run['snapshot']}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(page))
    _remove_old_pages(page.parent)
    log.info("drift of %s: corrected p %s, page %s", task.name, figures["p"], page)
    return Drift(figures | {"run": run}, page)


def _report(
    reference: pd.DataFrame, current: pd.DataFrame, figures: dict[str, Any], settings: MonitoringSettings, task: str
) -> Any:
    """The Evidently report; the flag of each column comes from our p-value instead of a row-wise test."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import DriftedColumnsCount, ValueDrift
    from evidently.tests import gte

    metric, method = _evidently()
    columns = [column["name"] for column in figures["columns"] if None not in (column["reference"], column["window"])]
    limit = settings.alpha / len(FAMILIES)
    measured = [family for family in FAMILIES if figures["families"][family]["p"] is not None]
    metrics: list[Any] = [metric(family=family, tests=[gte(limit)]) for family in measured]
    if columns:
        metrics.append(DriftedColumnsCount(columns=columns, method=method, threshold=limit))
    metrics += [ValueDrift(column=column, method=method, threshold=limit) for column in columns]
    definition = DataDefinition(numerical_columns=columns)
    sides = [
        Dataset.from_pandas(_plot_rows(rows[columns] if columns else rows[["score"]]), data_definition=definition)
        for rows in (current, reference)
    ]
    name = f"{task} {database.now()}"
    facts = {"task": task, "p": str(figures["p"]), "patients": str(figures["clusters"]["window"])}
    return Report(metrics).run(*sides, name=name, tags=[task], metadata=facts)


def _plot_rows(rows: pd.DataFrame) -> pd.DataFrame:
    numbers: pd.DataFrame = rows.apply(pd.to_numeric, errors="coerce").astype(float).reset_index(drop=True)
    return numbers.sample(MAX_PLOT_ROWS, random_state=0) if len(numbers) > MAX_PLOT_ROWS else numbers


@cache
def _evidently() -> tuple[Any, str]:
    """Our metric's class and the name of our column test, registered with Evidently once for each process."""
    from evidently.core.metric_types import SingleValueCalculation, SingleValueMetric
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.legacy.renderers.html_widgets import CounterData, counter

    class ClusteredShift(SingleValueMetric):  # type: ignore[misc]
        """The clustered permutation p-value of one family of tests."""

        family: str

    class ClusteredShiftCalculation(SingleValueCalculation[ClusteredShift]):  # type: ignore[misc]
        """Returns the p-value of `measure`, for Evidently to store and show."""

        def calculate(self, context: Any, current_data: Any, reference_data: Any) -> Any:  # noqa: ARG002
            p_value = _figures.get()["families"][self.metric.family]["p"]
            result = self.result(p_value)
            result.widget = [counter(counters=[CounterData(label=self.display_name(), value=f"p = {p_value:.4f}")])]
            return result

        def display_name(self) -> str:
            return f"Shift of the {self.metric.family}, patients permuted"

    def column_p(reference: Any, current: Any, kind: Any, threshold: float) -> tuple[float, bool]:  # noqa: ARG001
        p = next(column["p"] for column in _figures.get()["columns"] if column["name"] == current.name)
        return p, p < threshold

    test = StatTest(name=METHOD, display_name=METHOD, allowed_feature_types=[ColumnType.Numerical])
    register_stattest(test, default_impl=column_p)
    return ClusteredShift, METHOD


def _save_run(snapshot: Any, evidently_home: Path, task: str) -> dict[str, str]:
    """Add the run to the workspace that `evidently ui` shows; create the task's project for its first run."""
    from evidently.ui.workspace import Workspace

    evidently_home.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create(str(evidently_home))
    task_projects = [project for project in workspace.search_project(task) if project.name == task]
    project = task_projects[0] if task_projects else _create_project(workspace, task)
    stored_run = workspace.add_run(project.id, snapshot, include_data=False)
    return {"project": str(project.id), "snapshot": str(stored_run.id)}


def _create_project(workspace: Any, task: str) -> Any:
    """Create a project whose dashboard plots the three p-values over time."""
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel

    project = workspace.create_project(task, description="Windows of predictions against held-out patients")
    values = [
        PanelMetric(metric="ClusteredShift", metric_labels={"family": family}, legend=family) for family in FAMILIES
    ]
    project.dashboard.add_panel(line_plot_panel(title="p-values of the shift, patients permuted", values=values))
    return project


def _remove_old_pages(folder: Path) -> None:
    for page in sorted(folder.glob("*.html"), key=lambda path: path.stat().st_mtime)[:-MAX_PAGES]:
        page.unlink(missing_ok=True)
