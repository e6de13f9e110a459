"""Widgets of the Evidently page: their values, long and empty columns, and plain JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring import evidently_widgets


def plots(current: list[float], reference: list[float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the line plot and of the bar plot of a column."""
    widget = evidently_widgets.column_plots("noise", pd.Series(current, dtype=float), pd.Series(reference, dtype=float))
    json.dumps(widget, allow_nan=False)
    line_plot, bar_plot = (tab["widget"] for tab in widget["tabs"])
    assert line_plot["type"] == bar_plot["type"] == "big_graph"
    return line_plot["params"], bar_plot["params"]


def test_a_short_column_is_plotted_row_by_row_against_the_reference_mean() -> None:
    line_plot, _ = plots([3.0, 1.5, 2.25], [1.0, 3.0])
    current, mean, low, high = line_plot["data"]
    assert (current["x"], current["y"]) == ([0, 1, 2], [3.0, 1.5, 2.25])
    assert [mean["y"], low["y"], high["y"]] == [[2.0, 2.0], [1.0, 1.0], [3.0, 3.0]]
    assert mean["x"] == [0, 2] and line_plot["layout"]["yaxis"]["title"]["text"] == "noise"


def test_a_long_column_is_averaged_in_groups() -> None:
    line_plot, _ = plots(list(np.arange(600.0)), [0.0])
    assert line_plot["data"][0]["y"][:2] == [1.5, 5.5] and len(line_plot["data"][0]["y"]) == 150


def test_bars_are_shares_of_rows_in_common_bins() -> None:
    _, bar_plot = plots([0.0, 0.0, 10.0, np.nan], [10.0, 10.0, np.inf])
    current, reference = bar_plot["data"]
    assert current["x"] == reference["x"] == pytest.approx(np.arange(10.0))
    assert current["y"] == pytest.approx([2 / 3, *[0] * 8, 1 / 3]) and reference["y"] == [*[0.0] * 9, 1.0]


def test_a_column_without_finite_values_has_empty_plots() -> None:
    line_plot, bar_plot = plots([np.nan], [])
    assert line_plot["data"][0]["y"] == [] and sum(bar_plot["data"][0]["y"]) == 0


def test_a_counter_has_its_value_and_label() -> None:
    assert evidently_widgets.counter("of the score", "p = 0.0500")["params"] == {
        "counters": [{"value": "p = 0.0500", "label": "of the score"}]
    }
