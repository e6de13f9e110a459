"""What a good AUROC may hide: no lead over a simple model, lost sensitivity or calibration, a slice that is worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineage.record.verdict import Outcome
from training.promotion.comparison import lacking, needed
from training.promotion.gate_findings import Findings, cohort_words, signed
from training.settings import PromotionSettings

NORMAL = 1.96  # standard errors on each side of an estimate in its interval
Figures = Mapping[str, Any]


def baseline(findings: Findings, metrics: Figures, settings: PromotionSettings) -> None:
    """The network against the simple model on the same test units, in AUROC, by the paired interval of the evaluation
    (clusters resampled, two-sided at `evaluate.confidence`).

    Shown to be behind (upper bound under 0): fail. There is room where the simple model's AUROC is further than
    `room_baseline` from 1: there the network must be shown to be ahead (lower bound over 0). Where there is none,
    nobody could be: there it must not be inferior (lower bound over `-margin_baseline`). All else is inconclusive.
    """
    told = metrics.get("baseline")
    if told is None:
        findings.add(Outcome.INCONCLUSIVE, "there is no baseline to compare with: evaluate the task again")
        return
    test, gap, name = metrics["test"], told["difference"], told["model"]
    value, low, high = gap["value"], gap["low"], gap["high"]
    seen = f"AUROC {signed(value)} ({signed(low)} to {signed(high)}) against {name}"
    if value is None or low is None or high is None or test["auroc"]["value"] is None:
        findings.add(Outcome.INCONCLUSIVE, f"too few test patients to compare with the baseline: {seen}")
        return
    simple = test["auroc"]["value"] - value
    room = round(1 - simple, 9) > settings.room_baseline
    if high < 0:
        findings.add(Outcome.FAIL, f"the network is behind the baseline: {seen}")
    elif low > 0:
        findings.add(Outcome.PASS, f"the network beats the baseline: {seen}")
    elif room:
        findings.add(
            Outcome.INCONCLUSIVE,
            f"the network is not shown to beat the baseline, which leaves room at AUROC "
            f"{simple:.3f}: {seen}{_asked(test, gap, 0.0, settings.alpha)}",
        )
    elif low > -settings.margin_baseline:
        findings.add(
            Outcome.PASS,
            f"the network is no worse than the baseline, which leaves no room at AUROC {simple:.3f}: {seen}",
        )
    else:
        margin = settings.margin_baseline
        findings.add(
            Outcome.INCONCLUSIVE,
            f"the network is not shown to be as good as the baseline, which leaves no "
            f"room at AUROC {simple:.3f}; the margin is {-margin:+g}: {seen}"
            f"{_asked(test, gap, margin, settings.alpha)}",
        )


def _asked(test: Figures, gap: Figures, margin: float, alpha: float) -> str:
    """About how many test clusters would show it, in words; nothing where the difference points the other way."""
    error = (gap["high"] - gap["low"]) / (2 * NORMAL)
    cohort = {"clusters": test["clusters"], "auroc": {"difference": {"value": gap["value"], "error": error}}}
    count = needed(cohort, margin, alpha)
    return f"; about {count} test clusters would be needed" if count else ""


def worse(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Shown to be worse by more than the margin, on any cohort that is large enough to say so: fail."""
    margins = {"auroc": settings.margin_auroc, "sensitivity": settings.margin_sensitivity}
    words = {"auroc": "AUROC", "sensitivity": "sensitivity"}
    seen = set()
    for cohort, held in rival["cohorts"].items():
        if lacking(held, settings):
            continue
        for name, margin in margins.items():
            high = held[name]["difference"]["high"]
            if high is not None and high < -margin and (name, high) not in seen:
                seen.add((name, high))
                findings.add(
                    Outcome.FAIL,
                    f"{words[name]} is worse than that of {rival['rival']} by more than "
                    f"{margin:g} on the {cohort_words(cohort)} (difference at most {high:+.3f})",
                )


def sensitivity(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Sensitivity by its margin as seen, since dozens of patients can't prove it, and by McNemar on the flips."""
    seen = set()
    for cohort in ("anchor", "overall"):
        held = rival["cohorts"][cohort]
        lost, test = held["sensitivity"]["difference"]["value"], held["sensitivity"]["mcnemar"]
        if lacking(held, settings) or lost is None or (lost, test["lost"]) in seen:
            continue
        seen.add((lost, test["lost"]))
        flips = f"{test['lost']} patients with a tumour lost and {test['won']} won, p {test['p_worse']:.2g}"
        if lost < -settings.margin_sensitivity:
            findings.add(
                Outcome.INCONCLUSIVE,
                f"sensitivity on the {cohort_words(cohort)} was {lost:+.3f} against "
                f"{rival['rival']} ({flips}), the margin is {-settings.margin_sensitivity:+g}: read the lost "
                "cases",
            )
        elif test["p_worse"] <= settings.alpha:
            findings.add(
                Outcome.INCONCLUSIVE,
                f"the challenger finds fewer tumours than {rival['rival']} on the "
                f"{cohort_words(cohort)} ({flips}): read the lost cases",
            )


def calibration(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Brier score: fail if shown to be worse by more than the margin, inconclusive if it could be."""
    held, margin = rival["cohorts"]["overall"], settings.margin_brier
    if lacking(held, settings):
        return
    gap = held["brier"]["difference"]
    told = (
        f"Brier score {signed(gap['value'])} against {rival['rival']} ({signed(gap['low'])} to {signed(gap['high'])})"
    )
    if gap["low"] is not None and gap["low"] > margin:
        findings.add(Outcome.FAIL, f"calibration is worse by more than {margin:g}: {told}")
    elif gap["high"] is None or gap["high"] > margin:
        findings.add(Outcome.INCONCLUSIVE, f"calibration could be worse by more than {margin:g}: {told}")
    else:
        findings.add(Outcome.PASS, f"calibration is no worse: {told}")


def slices(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """No slice of the population and no earlier epoch or site is worse: Holm over the slices of each of the two.

    Shown to be worse: fail where the difference seen is beyond the margin of the AUROC, else for a person to read.
    """
    for family, unsure in (("slices", "too few patients to tell"), ("earlier", "too few to tell what is forgotten")):
        rows = rival[family]
        known = {name: row for name, row in rows.items() if row["status"] == "known"}
        for name, row in known.items():
            if row["p_holm"] > settings.alpha:
                continue
            far = row["difference"] < -settings.margin_auroc
            findings.add(
                Outcome.FAIL if far else Outcome.INCONCLUSIVE,
                f"AUROC is worse than that of "
                f"{rival['rival']} on {name} ({row['difference']:+.3f}, p {row['p_holm']:.2g} after "
                f"Holm over {len(known)})",
            )
        if unknown := [name for name in rows if name not in known]:
            findings.add(Outcome.PASS, f"{unsure}: {', '.join(unknown)}")
        elif rows and all(row["p_holm"] > settings.alpha for row in known.values()):
            findings.add(
                Outcome.PASS,
                f"no {'slice' if family == 'slices' else 'earlier epoch or site'} of "
                f"{len(known)} is worse than with {rival['rival']}",
            )
