"""Evidently's page and workspace show our p-values; a window from the journal leads to a verdict."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.core_types import Task
from data.scan.slice_features import DESCRIPTION
from lineage.record.verdict import Outcome
from monitoring import evidently_erasure, evidently_report
from monitoring.evidently_report import Drift, report_drift
from monitoring.gate import judge_window
from monitoring.settings import MonitoringSettings
from monitoring.window import count_patients, read_window

Side = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def evidently_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "evidently"


@pytest.fixture(scope="module")
def shifted(side: Side, task: Task, settings: MonitoringSettings, evidently_home: Path) -> Drift:
    """A window in which the first description is shifted by three SDs."""
    generator = np.random.default_rng(1)
    reference, current = side(generator, 60, columns=DESCRIPTION), side(generator, 40, columns=DESCRIPTION)
    current[DESCRIPTION[0]] += 3.0
    current["score"] = current["score"].astype(object)
    return report_drift(reference, current, settings, evidently_home, task)


def read_run(evidently_home: Path, measured_drift: Drift) -> Any:
    from evidently.ui.workspace import Workspace

    run = measured_drift.figures["run"]
    return Workspace(str(evidently_home)).get_run(run["project"], run["snapshot"])


def test_the_run_in_evidentlys_workspace_carries_our_p_values(shifted: Drift, evidently_home: Path) -> None:
    results = read_run(evidently_home, shifted).metric_results.values()
    values = {result.display_name: result for result in results}
    for family, figures in shifted.figures["families"].items():
        assert values[f"Shift of the {family}, patients permuted"].value == figures["p"]


def test_evidentlys_column_results_are_our_p_values(shifted: Drift, evidently_home: Path) -> None:
    run = read_run(evidently_home, shifted)
    p_by_column = {
        result.metric_value_location.metric.params["column"]: float(result.value)
        for result in run.metric_results.values()
        if "column" in result.metric_value_location.metric.params
    }
    assert p_by_column == {column["name"]: column["p"] for column in shifted.figures["columns"]}
    flagged = [name for name, p_value in p_by_column.items() if p_value < 0.01 / 3]
    assert flagged == [DESCRIPTION[0]]


def test_only_public_modules_of_evidently_are_imported() -> None:
    modules = [
        module
        for path in Path(evidently_report.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names])
        if module.split(".")[0] == "evidently"
    ]
    assert "evidently.core.metric_types" in modules
    private = [name for name in modules if "legacy" in name or any(part.startswith("_") for part in name.split("."))]
    assert not private, f"{private} of Evidently are not public: use evidently.core, evidently.sdk or evidently.ui"


def test_evidently_stores_the_widgets_of_every_metric(shifted: Drift, evidently_home: Path) -> None:
    results = {result.display_name: result for result in read_run(evidently_home, shifted).metric_results.values()}
    types = {name: [widget.type for widget in result.get_widgets()] for name, result in results.items()}
    assert types["Shift of the score, patients permuted"] == ["counter"]
    assert types[f"Value drift for {DESCRIPTION[0]}"] == ["counter", "tabs"], (
        "Evidently did not take the JSON widgets of monitoring/evidently_widgets.py: compare them with its widget model"
    )
    tabs = results[f"Value drift for {DESCRIPTION[0]}"].get_widgets()[1].tabs
    assert [tab.title for tab in tabs] == ["DATA DRIFT", "DATA DISTRIBUTION"]
    assert {tab.widget.type for tab in tabs} == {evidently_erasure.PLOT_TYPE}, "plots that the erasure would not empty"
    count = results["Count of Drifted Columns"]
    assert (count.count.value, count.share.value) == (1, pytest.approx(1 / len(DESCRIPTION), abs=0.02))


def test_the_page_names_the_method_of_the_p_values(shifted: Drift) -> None:
    page = shifted.page.read_text()
    assert "patients permuted" in page
    assert evidently_report.METHOD in page


def test_a_second_run_joins_the_project_and_is_fast(
    shifted: Drift, side: Side, task: Task, settings: MonitoringSettings, evidently_home: Path
) -> None:
    from evidently.ui.workspace import Workspace

    generator = np.random.default_rng(2)
    start = time.process_time()
    second = report_drift(
        side(generator, 100, columns=DESCRIPTION),
        side(generator, 100, columns=DESCRIPTION),
        settings,
        evidently_home,
        task,
    )
    assert time.process_time() - start < 10  # about 3 s
    assert second.figures["run"]["project"] == shifted.figures["run"]["project"]
    assert second.page != shifted.page
    workspace = Workspace(str(evidently_home))
    assert len(workspace.list_runs(second.figures["run"]["project"])) == 2
    panels = workspace.get_dashboard(second.figures["run"]["project"]).panels
    assert [value.metric_labels["family"] for value in panels[0].values] == ["embedding", "description", "score"]


def test_columns_without_values_do_not_break_the_page(
    side: Side, task: Task, settings: MonitoringSettings, evidently_home: Path
) -> None:
    generator = np.random.default_rng(3)
    reference, current = side(generator, 25, columns=DESCRIPTION), side(generator, 25, columns=DESCRIPTION)
    current[DESCRIPTION[1]] = np.nan
    reference[DESCRIPTION[2]] = current[DESCRIPTION[2]] = 1.0
    current.loc[0, DESCRIPTION[3]] = np.inf
    current["embedding"] = [np.zeros(0)] * len(current)
    result = report_drift(reference, current, settings, evidently_home, task)
    assert result.page.is_file()
    assert result.figures["columns"][0]["name"] == DESCRIPTION[1]
    assert result.figures["columns"][0]["kind"] == "missing"


def test_old_pages_are_removed_and_new_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(evidently_report, "MAX_PAGES", 2)
    for number in range(4):
        page = tmp_path / f"{number}.html"
        page.write_text("page")
        os.utime(page, (number, number))
    evidently_report._remove_old_pages(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.html", "3.html"]


def test_from_the_journal_to_the_verdict(
    predicted: Callable[..., str], side: Side, task: Task, settings: MonitoringSettings, evidently_home: Path
) -> None:
    generator = np.random.default_rng(4)
    reference, current = side(generator, 60, columns=DESCRIPTION), side(generator, 30, columns=DESCRIPTION)
    current[DESCRIPTION[0]] += 3.0
    for number, row in enumerate(current.to_dict("records")):
        description = {name: row[name] for name in DESCRIPTION} | {"manufacturer": "ACME"}
        predicted(
            number, cluster=row["cluster"], description=description, embedding=[*row["embedding"]], score=row["score"]
        )
    rows = read_window(task.name, hours=settings.window_hours)
    result = report_drift(reference.assign(manufacturer="Known"), rows, settings, evidently_home, task)
    verdict = judge_window(task, result, {}, settings, count_patients(rows))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons[1].startswith(DESCRIPTION[0].replace("_", " "))
    assert "higher than in the reference patients" in verdict.reasons[1]
