"""The site gate: may a release answer at a site, by the metrics of a local labelled sample?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lineage.record.verdict import Outcome, Verdict, worst
from training.promotion.gate_findings import format_value
from training.settings import SiteSettings

Figures = Mapping[str, Any]


def judge_site(subject: str, metrics: Figures, settings: SiteSettings) -> Verdict:
    """Judge a site by the metrics of training/evaluation/site_evaluation.py.

    Fail: sensitivity, specificity or coverage is significantly below its floor. Inconclusive: too few patients, or a
    value could be below its floor. Pass: everything else. `subject` names task and site.
    """
    findings = [_judge_patients(metrics, settings)]
    findings += [
        _judge_floor(name, metrics[name], floor)
        for name, floor in (("sensitivity", settings.floor_sensitivity), ("specificity", settings.floor_specificity))
    ]
    findings.append(_judge_coverage(metrics["coverage"], settings.floor_coverage))
    outcome = worst([finding for finding, _ in findings])
    decisive = [reason for finding, reason in findings if finding is outcome]
    further = [reason for finding, reason in findings if finding is not outcome]
    return Verdict("site", subject, outcome, (*decisive, *further), dict(metrics), asdict(settings))


def _judge_patients(metrics: Figures, settings: SiteSettings) -> tuple[Outcome, str]:
    counts = f"{metrics['positive_clusters']} positive and {metrics['negative_clusters']} negative patients"
    if (
        metrics["positive_clusters"] < settings.min_positive_clusters
        or metrics["negative_clusters"] < settings.min_negative_clusters
    ):
        return Outcome.INCONCLUSIVE, (
            f"the local batch has {counts}; at least {settings.min_positive_clusters} and "
            f"{settings.min_negative_clusters} are needed: add labelled patients of this site"
        )
    return Outcome.PASS, f"the local batch has {counts}"


def _judge_floor(name: str, interval: Figures, floor: float) -> tuple[Outcome, str]:
    """The lower bound must reach the floor: an answer at a new site needs evidence, not its absence."""
    low, high = interval["low"], interval["high"]
    description = f"{name} {format_value(interval['value'])} ({format_value(low)} to {format_value(high)})"
    if low is None or high is None:
        return Outcome.INCONCLUSIVE, f"the {name} is unknown: the local batch lacks patients of one kind"
    if high < floor:
        return Outcome.FAIL, f"{description} is under the floor of {floor:g}"
    if low < floor:
        return Outcome.INCONCLUSIVE, f"{description} is not shown to reach the floor of {floor:g}: add patients"
    return Outcome.PASS, f"{description}, floor {floor:g}"


def _judge_coverage(interval: Figures, floor: float) -> tuple[Outcome, str]:
    """Coverage harms nobody, so its value must reach the floor, not its bound."""
    value, high = interval["value"], interval["high"]
    description = f"coverage {format_value(value)} (at most {format_value(high)})"
    if value is not None and value >= floor:
        return Outcome.PASS, f"{description}, floor {floor:g}"
    is_significant = high is not None and high < floor
    return Outcome.FAIL if is_significant else Outcome.INCONCLUSIVE, f"{description} is under the floor of {floor:g}"
