"""Widgets of the Evidently page as plain JSON: a counter with text, and the plots of one column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FULL_WIDTH = 2
MAX_POINTS = 150  # of the line plot: rows in order, averaged in groups
BINS = 10
COLOURS = {"reference": "#4d4d4d", "current": "#ed0400"}
Array = NDArray[np.float64]


def counter(label: str, value: str) -> dict[str, Any]:
    """A counter: `value` in large type above `label`."""
    params = {"counters": [{"value": value, "label": label}]}
    return {"type": "counter", "title": "", "size": FULL_WIDTH, "params": params}


def column_plots(name: str, current: pd.Series[float], reference: pd.Series[float]) -> dict[str, Any]:
    """Two tabs for a column: the window's values in order against the reference mean, and both distributions."""
    window_values, reference_values = (values[np.isfinite(values)] for values in (_floats(current), _floats(reference)))
    plots = {
        "DATA DRIFT": _values_in_order(name, window_values, reference_values),
        "DATA DISTRIBUTION": _distributions(window_values, reference_values),
    }
    tabs = [{"id": f"{name} {title}", "title": title, "widget": plot} for title, plot in plots.items()]
    return {"type": "tabs", "title": "", "size": FULL_WIDTH, "tabs": tabs}


def _floats(values: pd.Series[float]) -> Array:
    return np.asarray(values, np.float64)


def _values_in_order(name: str, current: Array, reference: Array) -> dict[str, Any]:
    groups = np.array_split(current, min(MAX_POINTS, max(1, len(current))))
    means = [float(group.mean()) for group in groups if len(group)]
    mean, deviation = (float(reference.mean()), float(reference.std())) if len(reference) else (0.0, 0.0)
    ends = [0, max(1, len(means) - 1)]
    lines = [
        _line(list(range(len(means))), means, "current", "current"),
        _line(ends, [mean, mean], "reference (mean)", "reference"),
        _line(ends, [mean - deviation] * 2, "reference (mean - std)", "reference", "dot"),
        _line(ends, [mean + deviation] * 2, "reference (mean + std)", "reference", "dot"),
    ]
    return _plot(lines, {"xaxis": {"title": {"text": "rows in order"}}, "yaxis": {"title": {"text": name}}})


def _distributions(current: Array, reference: Array) -> dict[str, Any]:
    """Shares of rows in the same bins for both sides."""
    edges = np.histogram_bin_edges(np.concatenate([current, reference]), BINS)
    bars = [
        {
            "type": "bar",
            "name": name,
            "x": edges[:-1].tolist(),
            "y": (np.histogram(values, edges)[0] / max(1, len(values))).tolist(),
            "offset": 0,
            "opacity": 0.6,
            "marker": {"color": COLOURS[name]},
        }
        for name, values in (("current", current), ("reference", reference))
    ]
    return _plot(bars, {"barmode": "overlay", "yaxis": {"title": {"text": "share of rows"}}})


def _line(x: list[int], y: list[float], name: str, colour: str, dash: str = "solid") -> dict[str, Any]:
    line = {"color": COLOURS[colour], "dash": dash}
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": line}


def _plot(data: list[dict[str, Any]], layout: dict[str, Any]) -> dict[str, Any]:
    return {"type": "big_graph", "title": "", "size": FULL_WIDTH, "params": {"data": data, "layout": layout}}
