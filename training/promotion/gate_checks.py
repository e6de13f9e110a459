"""Checks of the gate beyond overall AUROC: baseline, harm, sensitivity, calibration, subgroups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineage.record.verdict import Outcome
from training.promotion.comparison import describe_shortage, needed_clusters
from training.promotion.gate_findings import Findings, cohort_label, format_difference, format_value
from training.settings import PromotionSettings

NORMAL_QUANTILE = 1.96  # standard errors on each side of an estimate in its interval
Figures = Mapping[str, Any]


def check_coverage(findings: Findings, test: Figures, settings: PromotionSettings) -> None:
    """Check the share of test units that the release would answer: significantly under the floor is a fail.

    A model that withholds most answers is of no use, however well it does on the others.
    """
    coverage = test.get("coverage")
    if coverage is None or coverage["value"] is None:
        findings.add(Outcome.INCONCLUSIVE, "the share of answered test units is unknown: evaluate the task again")
        return
    value, high, floor = coverage["value"], coverage["high"], settings.floor_coverage
    description = f"the model would answer {format_value(value)} of the test units (at most {format_value(high)})"
    if value >= floor:
        findings.add(Outcome.PASS, f"{description}, floor {floor:g}")
        return
    is_significant = high is not None and high < floor
    withheld = [f"{count} because {reason}" for reason, count in test.get("withheld", {}).items() if count]
    findings.add(
        Outcome.FAIL if is_significant else Outcome.INCONCLUSIVE,
        f"{description}, under the floor of {floor:g}; withheld: {', '.join(withheld) or 'unknown'}",
    )


def check_baseline(findings: Findings, metrics: Figures, settings: PromotionSettings) -> None:
    """Compare the network with the baseline in AUROC on the same test units, by the paired interval of the evaluation
    (clusters resampled, two-sided at `evaluate.confidence`).

    Significantly worse (upper bound under 0): fail. If the AUROC of the baseline is further than `room_baseline` from
    1, the network must be superior (lower bound over 0). Otherwise nearly no gain is possible, and the network must not
    be inferior (lower bound over `-margin_baseline`). Anything else is inconclusive.
    """
    comparison = metrics.get("baseline")
    if comparison is None:
        findings.add(Outcome.INCONCLUSIVE, "there is no baseline to compare with: evaluate the task again")
        return
    test, gap, name = metrics["test"], comparison["difference"], comparison["model"]
    value, low, high = gap["value"], gap["low"], gap["high"]
    difference_words = (
        f"AUROC {format_difference(value)} ({format_difference(low)} to {format_difference(high)}) against {name}"
    )
    if value is None or low is None or high is None or test["auroc"]["value"] is None:
        findings.add(Outcome.INCONCLUSIVE, f"too few test patients to compare with the baseline: {difference_words}")
        return
    baseline_auroc = test["auroc"]["value"] - value
    has_room = round(1 - baseline_auroc, 9) > settings.room_baseline
    if high < 0:
        findings.add(Outcome.FAIL, f"the network is behind the baseline: {difference_words}")
    elif low > 0:
        findings.add(Outcome.PASS, f"the network beats the baseline: {difference_words}")
    elif has_room:
        findings.add(
            Outcome.INCONCLUSIVE,
            f"the network is not shown to beat the baseline of AUROC {baseline_auroc:.3f}: {difference_words}"
            f"{_describe_needed(test, gap, 0.0, settings.alpha)}",
        )
    elif low > -settings.margin_baseline:
        findings.add(
            Outcome.PASS,
            f"the network is no worse than the baseline, whose AUROC of {baseline_auroc:.3f} is near 1: "
            f"{difference_words}",
        )
    else:
        margin = settings.margin_baseline
        findings.add(
            Outcome.INCONCLUSIVE,
            f"the network is not shown to be as good as the baseline, whose AUROC of {baseline_auroc:.3f} is near 1; "
            f"the margin is {-margin:+g}: {difference_words}"
            f"{_describe_needed(test, gap, margin, settings.alpha)}",
        )


def check_further_baselines(findings: Findings, metrics: Figures, settings: PromotionSettings) -> None:
    """Compare the network with each other baseline on the test units that have its features: slice position, lesion
    size, header facts, and further ones.

    The rule is that of `check_baseline`, but no such baseline fails a network: it shows what the labels of this test
    set give away, and a person has to read that. A baseline without enough patients decides nothing.
    """
    comparisons = metrics.get("baselines") or {}
    beaten = []
    for name, comparison in comparisons.items():
        if comparison["status"] != "known":
            continue
        gap = comparison["difference"]
        value, low, high = gap["value"], gap["low"], gap["high"]
        difference_words = f"{format_difference(value)} ({format_difference(low)} to {format_difference(high)})"
        if low is None or high is None:
            findings.add(Outcome.INCONCLUSIVE, f"too few test patients to compare with {name} alone")
            continue
        is_near_one = round(1 - comparison["auroc"]["value"], 9) <= settings.room_baseline
        if low > 0 or (is_near_one and low > -settings.margin_baseline):
            beaten.append(name)
            continue
        findings.add(
            Outcome.INCONCLUSIVE,
            f"the network is not shown to beat {name} alone on the test patients: AUROC "
            f"{format_value(comparison['network_auroc'])} against {format_value(comparison['auroc']['value'])}, "
            f"difference {difference_words}{_describe_needed(comparison, gap, 0.0, settings.alpha)}",
        )
    if beaten:
        findings.add(Outcome.PASS, f"the network is not behind the baselines {', '.join(beaten)}")
    if unknown := [f"{name} ({entry['reason']})" for name, entry in comparisons.items() if entry["status"] != "known"]:
        findings.add(Outcome.PASS, f"not compared with the baselines {', '.join(unknown)}")


def equal_baselines(metrics: Figures) -> dict[str, Figures]:
    """The baselines that the network is not shown to beat on the test patients, by name: what a reader should know."""
    main, further = metrics.get("baseline"), metrics.get("baselines") or {}
    comparisons = ({"intensity": main} if main else {}) | {
        name: entry for name, entry in further.items() if entry["status"] == "known"
    }
    return {
        name: entry
        for name, entry in comparisons.items()
        if entry["difference"]["low"] is not None and entry["difference"]["low"] <= 0
    }


def _describe_needed(test: Figures, gap: Figures, margin: float, alpha: float) -> str:
    """About how many test clusters would be needed, in words; empty if the difference has the wrong sign."""
    error = (gap["high"] - gap["low"]) / (2 * NORMAL_QUANTILE)
    cohort = {"clusters": test["clusters"], "auroc": {"difference": {"value": gap["value"], "error": error}}}
    count = needed_clusters(cohort, margin, alpha)
    return f"; about {count} test clusters would be needed" if count else ""


def check_harm(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Fail if a metric is significantly worse by more than its margin, on any cohort that is large enough."""
    margins = {"auroc": settings.margin_auroc, "sensitivity": settings.margin_sensitivity}
    metric_words = {"auroc": "AUROC", "sensitivity": "sensitivity"}
    reported = set()
    for cohort, cohort_metrics in rival["cohorts"].items():
        if describe_shortage(cohort_metrics, settings):
            continue
        for name, margin in margins.items():
            high = cohort_metrics[name]["difference"]["high"]
            if high is not None and high < -margin and (name, high) not in reported:
                reported.add((name, high))
                findings.add(
                    Outcome.FAIL,
                    f"{metric_words[name]} is worse than that of {rival['rival']} by more than "
                    f"{margin:g} on the {cohort_label(cohort)} (difference at most {high:+.3f})",
                )


def check_sensitivity(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Check sensitivity by the observed difference, as dozens of patients prove little, and by McNemar's test."""
    reported = set()
    for cohort in ("anchor", "overall"):
        cohort_metrics = rival["cohorts"][cohort]
        sensitivity = cohort_metrics["sensitivity"]
        difference, test = sensitivity["difference"]["value"], sensitivity["mcnemar"]
        if describe_shortage(cohort_metrics, settings) or difference is None or (difference, test["lost"]) in reported:
            continue
        reported.add((difference, test["lost"]))
        changed_words = f"{test['lost']} patients with a tumour lost and {test['won']} won, p {test['p_worse']:.2g}"
        if difference < -settings.margin_sensitivity:
            findings.add(
                Outcome.INCONCLUSIVE,
                f"sensitivity on the {cohort_label(cohort)} was {difference:+.3f} against "
                f"{rival['rival']} ({changed_words}), the margin is {-settings.margin_sensitivity:+g}: read the lost "
                "cases",
            )
        elif test["p_worse"] <= settings.alpha:
            findings.add(
                Outcome.INCONCLUSIVE,
                f"the challenger finds fewer tumours than {rival['rival']} on the "
                f"{cohort_label(cohort)} ({changed_words}): read the lost cases",
            )


def check_calibration(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Check the Brier score: fail if significantly worse by more than the margin, inconclusive if it could be."""
    cohort_metrics, margin = rival["cohorts"]["overall"], settings.margin_brier
    if describe_shortage(cohort_metrics, settings):
        return
    difference = cohort_metrics["brier"]["difference"]
    interval = f"{format_difference(difference['low'])} to {format_difference(difference['high'])}"
    difference_words = f"Brier score {format_difference(difference['value'])} against {rival['rival']} ({interval})"
    if difference["low"] is not None and difference["low"] > margin:
        findings.add(Outcome.FAIL, f"calibration is worse by more than {margin:g}: {difference_words}")
    elif difference["high"] is None or difference["high"] > margin:
        findings.add(Outcome.INCONCLUSIVE, f"calibration could be worse by more than {margin:g}: {difference_words}")
    else:
        findings.add(Outcome.PASS, f"calibration is no worse: {difference_words}")


def check_subgroups(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Check subgroups, and earlier epochs and sites, with Holm's correction within each of the two families.

    A significantly worse subgroup fails if its difference exceeds the AUROC margin; else it is inconclusive, for a
    person to decide.
    """
    for family, unknown_words in (
        ("slices", "too few patients to tell"),
        ("earlier", "too few patients to detect forgetting"),
    ):
        rows = rival[family]
        judged = {name: row for name, row in rows.items() if row["status"] == "known"}
        for name, row in judged.items():
            if row["p_holm"] > settings.alpha:
                continue
            is_beyond_margin = row["difference"] < -settings.margin_auroc
            findings.add(
                Outcome.FAIL if is_beyond_margin else Outcome.INCONCLUSIVE,
                f"AUROC is worse than that of "
                f"{rival['rival']} on {name} ({row['difference']:+.3f}, p {row['p_holm']:.2g} after "
                f"Holm over {len(judged)})",
            )
        if unknown := [name for name in rows if name not in judged]:
            findings.add(Outcome.PASS, f"{unknown_words}: {', '.join(unknown)}")
        elif rows and all(row["p_holm"] > settings.alpha for row in judged.values()):
            findings.add(
                Outcome.PASS,
                f"no {'subgroup' if family == 'slices' else 'earlier epoch or site'} of "
                f"{len(judged)} is worse than with {rival['rival']}",
            )
