"""The gate of the watch: is there reason to retrain?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.record import Task
from lineage.record.verdict import Outcome, Verdict, worst
from monitoring.evidently_report import Drift
from monitoring.settings import MonitoringSettings

NAMED = 3  # shifted descriptions that a reason names


def ask(
    task: Task,
    drift: Drift | None,
    outcomes: Mapping[str, Any],
    settings: MonitoringSettings,
    clusters: int,
) -> Verdict:
    """`fail` asks for retraining: drift beyond chance, or late labels that rule out the wanted sensitivity.

    `inconclusive`: fewer patients than `min_clusters`, or too few to tell at this alpha. `drift` is None where the
    window was too small to be measured. Pure: nothing is read or written.
    """
    answers = [_drift(drift, settings, clusters), _sensitivity(outcomes)]
    outcome = worst([answer[0] for answer in answers])
    reasons = [reason.removesuffix(".") for answer in answers for reason in answer[1]]  # a page joins them by ";"
    figures = {"clusters": clusters, "drift": dict(drift.figures) if drift else None, "outcomes": dict(outcomes)}
    thresholds = {
        "alpha": settings.alpha,
        "min_clusters": settings.min_clusters,
        "permutations": settings.permutations,
        "sensitivity": task.sensitivity,
    }
    return Verdict("monitoring", task.name, outcome, tuple(reasons), figures, thresholds)


def _drift(drift: Drift | None, settings: MonitoringSettings, clusters: int) -> tuple[Outcome, list[str]]:
    if clusters < settings.min_clusters:
        return Outcome.INCONCLUSIVE, [
            f"The window has scans of {clusters} patients; {settings.min_clusters} are needed to tell drift "
            "from chance."
        ]
    if drift is None or drift.figures["p"] is None:
        return Outcome.INCONCLUSIVE, ["The window could not be compared with the reference patients."]
    figures = drift.figures
    if figures["smallest_p"] >= settings.alpha:
        return Outcome.INCONCLUSIVE, [
            f"With {figures['clusters']['reference']} reference patients, {clusters} patients in the window and "
            f"{settings.permutations} permutations no p-value under {settings.alpha:g} can be reached."
        ]
    if figures["p"] < settings.alpha:
        told = [f"The window's scans differ from the reference patients' by more than chance: {_families(figures)}."]
        return Outcome.FAIL, told + shifted(figures) + _new(figures)
    return Outcome.PASS, [
        f"No drift beyond chance over {clusters} patients: {_families(figures)}.",
        *_new(figures),
    ]


def _families(figures: Mapping[str, Any]) -> str:
    parts = [f"{name} p = {family['p']:.4f}" for name, family in figures["families"].items() if family["p"] is not None]
    return f"{', '.join(parts)}; together p = {figures['p']:.4f}"


def shifted(figures: Mapping[str, Any], count: int = NAMED) -> list[str]:
    """The most shifted descriptions in plain words, with direction and size."""
    return [_words(column) for column in figures["columns"][:count]]


def _words(column: Mapping[str, Any]) -> str:
    name = str(column["name"]).replace("_", " ")
    if column["kind"] == "missing":
        share, usual = column["missing_window"], column["missing_reference"]
        return f"{name} is missing in {share:.0%} of the window's scans, in {usual:.0%} of the reference patients'"
    if column["kind"] == "spread" and column["spread"] is not None:
        return f"{name} varies {column['spread']:.1f} times as widely as in the reference patients"
    if column["sd"] is None:
        return f"{name} is {column['window']}, but {column['reference']} in the reference patients"
    direction = "higher" if column["sd"] > 0 else "lower"
    return f"{name} is {abs(column['sd']):.1f} SD {direction} than in the reference patients"


def _new(figures: Mapping[str, Any]) -> list[str]:
    return [
        f"{item['fact'].replace('_', ' ')} {item['value']!r} ({item['rows']} of {figures['rows']['window']} "
        "predictions) was never seen in the reference patients"
        for item in figures["unseen"][:NAMED]
    ]


def _sensitivity(outcomes: Mapping[str, Any]) -> tuple[Outcome, list[str]]:
    sensitivity, wanted = outcomes.get("sensitivity"), outcomes.get("wanted_sensitivity")
    if sensitivity is None or wanted is None:
        return Outcome.PASS, []
    told = (
        f"sensitivity {sensitivity['value']:.2f} (95 % interval {sensitivity['low']:.2f} to {sensitivity['high']:.2f}) "
        f"on {sensitivity['cases']} positive cases of {sensitivity['clusters']} patients with late labels"
    )
    if sensitivity["high"] < wanted:
        return Outcome.FAIL, [f"The late labels rule out the wanted sensitivity of {wanted:.2f}: {told}."]
    return Outcome.PASS, [f"The late labels do not rule out the wanted sensitivity of {wanted:.2f}: {told}."]
