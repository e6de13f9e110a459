"""Erasure of patient rows from the plots in stored Evidently runs; metrics and tests stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lineage import atomic_write

PLOT_TYPE = "big_graph"  # type of Evidently's plot widget, which contains every plotted row
EMPTY_PLOT = {"data": [], "layout": {"title": {"text": "The rows of this plot were removed: a patient was withdrawn"}}}


def empty_plots(evidently_home: Path, tasks: frozenset[str]) -> int:
    """Empty the plots of every run of some tasks; return the number of changed runs.

    Plots contain descriptions of single predictions and reference units without patient identifiers, so all plots of a
    task are emptied. Values, tests and p-values stay. Each run is rewritten atomically; the function may run again.
    """
    changed = 0
    for metadata_path in sorted(evidently_home.glob("*/metadata.json")):
        if json.loads(metadata_path.read_text(encoding="utf-8")).get("name") not in tasks:
            continue
        for path in sorted(metadata_path.parent.glob("snapshots/*.json")):
            changed += _empty_run(path)
    return changed


def _empty_run(path: Path) -> bool:
    run = json.loads(path.read_text(encoding="utf-8"))
    if not _empty_plots_below(run):
        return False
    atomic_write.write_text(path, json.dumps(run))
    return True


def _empty_plots_below(node: Any) -> int:
    """Empty each plot below a node of the run, in place; return the number of emptied plots."""
    if isinstance(node, list):
        return sum(_empty_plots_below(child) for child in node)
    if not isinstance(node, dict):
        return 0
    if node.get("type") == PLOT_TYPE and "params" in node:
        previous, node["params"] = node["params"], EMPTY_PLOT
        return int(previous != EMPTY_PLOT)
    return sum(_empty_plots_below(child) for child in node.values())
