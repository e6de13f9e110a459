"""What Evidently keeps of a window without what its plots hold: the rows behind them go, the figures stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLOT = "big_graph"  # Evidently's widget that draws, and carries every row it draws
EMPTY = {"data": [], "layout": {"title": {"text": "The rows behind this plot were removed: a patient was withdrawn"}}}


def forget(evidently_home: Path, tasks: frozenset[str]) -> int:
    """Empty the plots of every run of some tasks; how many runs had any. Values, tests and p-values stay as they were.

    A plot shows the descriptions of single predictions and of single reference units, and does not say whose they
    are, so all plots of a task go. Each run is rewritten in one atomic step, and may be done again.
    """
    changed = 0
    for facts in sorted(evidently_home.glob("*/metadata.json")):
        if json.loads(facts.read_text(encoding="utf-8")).get("name") not in tasks:
            continue
        for path in sorted(facts.parent.glob("snapshots/*.json")):
            changed += _forget(path)
    return changed


def _forget(path: Path) -> bool:
    run = json.loads(path.read_text(encoding="utf-8"))
    if not _emptied(run):
        return False
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(run), encoding="utf-8")
    part.replace(path)
    return True


def _emptied(node: Any) -> int:
    """Empty each plot below a node of the run, in place; how many there were to empty."""
    if isinstance(node, list):
        return sum(_emptied(one) for one in node)
    if not isinstance(node, dict):
        return 0
    if node.get("type") == PLOT and "params" in node:
        was, node["params"] = node["params"], EMPTY
        return int(was != EMPTY)
    return sum(_emptied(one) for one in node.values())
