"""The monitoring gate: drift or late labels that ask for retraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.core_types import Task
from lineage.record.verdict import Outcome, Verdict, worst
from monitoring.evidently_report import Drift
from monitoring.settings import MonitoringSettings

MAX_NAMED = 3  # shifted descriptions that a reason names


def judge_window(
    task: Task,
    drift: Drift | None,
    outcomes: Mapping[str, Any],
    settings: MonitoringSettings,
    clusters: int,
) -> Verdict:
    """`fail` asks for retraining: drift beyond chance, or late labels that rule out the wanted sensitivity.

    `inconclusive`: fewer patients than `min_clusters`, or too few to reach this alpha. `drift` is None if the window
    was too small to be measured. A pure function.
    """
    findings = [_judge_drift(drift, settings, clusters), _judge_sensitivity(outcomes)]
    outcome = worst([finding[0] for finding in findings])
    reasons = [reason.removesuffix(".") for finding in findings for reason in finding[1]]  # a page joins them by ";"
    figures = {"clusters": clusters, "drift": dict(drift.figures) if drift else None, "outcomes": dict(outcomes)}
    thresholds = {
        "alpha": settings.alpha,
        "min_clusters": settings.min_clusters,
        "permutations": settings.permutations,
        "sensitivity": task.sensitivity,
    }
    return Verdict("monitoring", task.name, outcome, tuple(reasons), figures, thresholds)


def _judge_drift(drift: Drift | None, settings: MonitoringSettings, clusters: int) -> tuple[Outcome, list[str]]:
    if clusters < settings.min_clusters:
        return Outcome.INCONCLUSIVE, [
            f"The window has scans of {clusters} patients; {settings.min_clusters} are needed to distinguish drift "
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
        families = _describe_families(figures)
        reasons = [f"The window's scans differ from the reference patients' by more than chance: {families}."]
        return Outcome.FAIL, reasons + describe_shifts(figures) + _describe_unseen(figures)
    return Outcome.PASS, [
        f"No drift beyond chance over {clusters} patients: {_describe_families(figures)}.",
        *_describe_unseen(figures),
    ]


def _describe_families(figures: Mapping[str, Any]) -> str:
    p_values = [
        f"{name} p = {family['p']:.4f}" for name, family in figures["families"].items() if family["p"] is not None
    ]
    return f"{', '.join(p_values)}; together p = {figures['p']:.4f}"


def describe_shifts(figures: Mapping[str, Any], count: int = MAX_NAMED) -> list[str]:
    """The most shifted descriptions in words, with direction and size."""
    return [_describe_shift(column) for column in figures["columns"][:count]]


def _describe_shift(column: Mapping[str, Any]) -> str:
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


def _describe_unseen(figures: Mapping[str, Any]) -> list[str]:
    return [
        f"{item['fact'].replace('_', ' ')} {item['value']!r} ({item['rows']} of {figures['rows']['window']} "
        "predictions) does not occur in the reference patients"
        for item in figures["unseen"][:MAX_NAMED]
    ]


def _judge_sensitivity(outcomes: Mapping[str, Any]) -> tuple[Outcome, list[str]]:
    sensitivity, wanted_sensitivity = outcomes.get("sensitivity"), outcomes.get("wanted_sensitivity")
    if sensitivity is None or wanted_sensitivity is None:
        return Outcome.PASS, []
    measured = (
        f"sensitivity {sensitivity['value']:.2f} (95 % interval {sensitivity['low']:.2f} to {sensitivity['high']:.2f}) "
        f"on {sensitivity['cases']} positive cases of {sensitivity['clusters']} patients with late labels"
    )
    if sensitivity["high"] < wanted_sensitivity:
        return Outcome.FAIL, [
            f"The late labels rule out the wanted sensitivity of {wanted_sensitivity:.2f}: {measured}."
        ]
    return Outcome.PASS, [
        f"The late labels do not rule out the wanted sensitivity of {wanted_sensitivity:.2f}: {measured}."
    ]
