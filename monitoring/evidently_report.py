"""The Evidently report of a window: an HTML page, and a run in Evidently's workspace. Only here Evidently runs."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from data.core_types import Side, Task
from data.scan.slice_features import DESCRIPTION, FACTS
from lineage.record import database
from monitoring import evidently_widgets
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


def report_drift(
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
    """The Evidently report; the result of each column is our p-value instead of a row-wise test."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.tests import gte

    family_metric, count_metric, column_metric = _metrics()
    columns = [column["name"] for column in figures["columns"] if None not in (column["reference"], column["window"])]
    limit = settings.alpha / len(FAMILIES)
    measured = [family for family in FAMILIES if figures["families"][family]["p"] is not None]
    metrics: list[Any] = [family_metric(family=family, tests=[gte(limit)]) for family in measured]
    if columns:
        metrics.append(count_metric(columns=columns, threshold=limit))
    metrics += [column_metric(column=column, threshold=limit) for column in columns]
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


def _column_p_value(name: str) -> float:
    return next(float(column["p"]) for column in _figures.get()["columns"] if column["name"] == name)


@cache
def _metrics() -> tuple[Any, Any, Any]:
    """Our metrics as Evidently's custom metrics: p-value of a family, number of shifted columns, p-value of a column.

    They use the base classes of `evidently.core.metric_types` only, and give widgets as JSON to the result's field.
    """
    from evidently.core.metric_types import (
        ColumnMetric,
        CountCalculation,
        CountMetric,
        SingleValue,
        SingleValueCalculation,
        SingleValueMetric,
    )

    class ClusteredShift(SingleValueMetric):  # type: ignore[misc]
        """The clustered permutation p-value of one family of tests."""

        family: str

    class ClusteredShiftCalculation(SingleValueCalculation[ClusteredShift]):  # type: ignore[misc]
        """Returns the p-value of `measure`, for Evidently to store and show."""

        def calculate(self, context: Any, current_data: Any, reference_data: Any) -> Any:  # noqa: ARG002
            p_value = _figures.get()["families"][self.metric.family]["p"]
            widget = evidently_widgets.counter(self.display_name(), f"p = {p_value:.4f}")
            result = SingleValue(value=p_value, display_name=self.display_name(), widget=[widget])
            result.set_metric_location(self.to_metric_config())
            return result

        def display_name(self) -> str:
            return f"Shift of the {self.metric.family}, patients permuted"

    class ColumnShift(ColumnMetric, SingleValueMetric):  # type: ignore[misc]
        """The family-wise clustered permutation p-value of one column."""

        threshold: float
        method: str = METHOD

    class ColumnShiftCalculation(SingleValueCalculation[ColumnShift]):  # type: ignore[misc]
        """Returns the p-value of `measure`, with plots of the column's rows."""

        def calculate(self, context: Any, current_data: Any, reference_data: Any) -> Any:  # noqa: ARG002
            column = self.metric.column
            p_value = _column_p_value(column)
            detected = "detected" if p_value < self.metric.threshold else "not detected"
            text = f"Data drift {detected}. Drift detection method: {self.metric.method}. Drift score: {p_value:.4f}"
            current, reference = (data.column(column).data for data in (current_data, reference_data))
            widgets = [
                evidently_widgets.counter(text, f"Drift in column '{column}'"),
                evidently_widgets.column_plots(column, current, reference),
            ]
            result = SingleValue(value=p_value, display_name=self.display_name(), widget=widgets)
            result.set_metric_location(self.to_metric_config())
            return result

        def display_name(self) -> str:
            return f"Value drift for {self.metric.column}"

    class ShiftedColumnsCount(CountMetric):  # type: ignore[misc]
        """Number and share of columns with a p-value under `threshold`."""

        columns: list[str]
        threshold: float

    class ShiftedColumnsCountCalculation(CountCalculation[ShiftedColumnsCount]):  # type: ignore[misc]
        """Counts the columns by the p-values of `measure`."""

        def calculate(self, context: Any, current_data: Any, reference_data: Any) -> Any:  # noqa: ARG002
            columns = self.metric.columns
            count = sum(_column_p_value(column) < self.metric.threshold for column in columns)
            return self.result(count, count / len(columns))

        def display_name(self) -> str:
            return "Count of Drifted Columns"

        def share_display_name(self) -> str:
            return "Share of Drifted Columns"

    return ClusteredShift, ShiftedColumnsCount, ColumnShift


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
