"""The training gate: a pure function of evaluation metrics and comparisons that returns a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lineage.record.verdict import Outcome, Verdict
from training.promotion import gate_checks, test_set_budget
from training.promotion.comparison import describe_shortage, needed_clusters
from training.promotion.gate_findings import Findings, cohort_label, format_difference, format_value
from training.promotion.test_set_budget import Look
from training.settings import PromotionSettings

CHANCE = 0.5  # AUROC of a random model
Figures = Mapping[str, Any]


def judge_challenger(
    subject: str,
    metrics: Figures,
    against_champion: Figures | None,
    against_anchor: Figures | None,
    settings: PromotionSettings,
    past: Sequence[Look] = (),
) -> Verdict:
    """Judge a challenger by its own `metrics.json` and by comparisons (training/promotion/comparison.py).

    `past` are the looks of the last year at the task's test cohorts (training/promotion/test_set_budget.py).
    Fail: under a floor, or significantly worse than champion or anchor by more than a margin.
    Pass: not inferior to champion and anchor on the anchor cohort, no harm (training/promotion/gate_checks.py), and
    superior to the champion on the newest test cohort or overall, at the level that the cohorts' budget has left. A
    first model passes above the floors if it is significantly better than chance.
    Otherwise inconclusive, with reasons that say what is missing.
    """
    findings = Findings()
    test = metrics["test"]
    _check_floors(findings, test, settings)
    gate_checks.check_coverage(findings, test, settings)
    gate_checks.check_baseline(findings, metrics, settings)
    gate_checks.check_further_baselines(findings, metrics, settings)
    looks: list[dict[str, Any]] = []
    if against_champion is None:
        _check_first_model(findings, test, settings)
    else:
        for rival in _distinct_rivals(against_champion, against_anchor):
            gate_checks.check_harm(findings, rival, settings)
            _check_non_inferiority(findings, rival, settings)
            gate_checks.check_sensitivity(findings, rival, settings)
            gate_checks.check_calibration(findings, rival, settings)
            gate_checks.check_subgroups(findings, rival, settings)
        looks = _check_superiority(findings, against_champion, settings, past)
    figures = {
        "auroc": test["auroc"],
        "coverage": test.get("coverage"),
        "clusters": test["clusters"],
        "positive_clusters": test["positive_clusters"],
        "looks": looks,
        "champion": against_champion,
        "anchor": against_anchor,
    }
    return findings.verdict("training", subject, figures, settings, chance=CHANCE)


def _distinct_rivals(champion: Figures, anchor: Figures | None) -> list[Figures]:
    """Champion and anchor; only the champion if it is the anchor, since both comparisons are then equal."""
    if anchor is None or {**anchor, "rival": ""} == {**champion, "rival": ""}:
        return [champion]
    return [champion, anchor]


def _check_floors(findings: Findings, test: Figures, settings: PromotionSettings) -> None:
    auroc, low, high = (test["auroc"][name] for name in ("value", "low", "high"))
    interval = f"{format_value(low)} to {format_value(high)} over {test['clusters']} clusters"
    description = f"test AUROC {format_value(auroc)} ({interval})"
    if auroc is None:
        findings.add(Outcome.INCONCLUSIVE, "the test set has only positive or only negative patients: admit both kinds")
    elif auroc < settings.floor_auroc:
        findings.add(Outcome.FAIL, f"{description} is under the floor of {settings.floor_auroc:g}")
    else:
        findings.add(Outcome.PASS, f"{description}, floor {settings.floor_auroc:g}")
    sensitivity, sensitivity_high = test["sensitivity"]["value"], test["sensitivity"]["high"]
    if sensitivity is not None and sensitivity < settings.floor_sensitivity:
        is_significant = sensitivity_high is not None and sensitivity_high < settings.floor_sensitivity
        findings.add(
            Outcome.FAIL if is_significant else Outcome.INCONCLUSIVE,
            f"test sensitivity {format_value(sensitivity)} (at most "
            f"{format_value(sensitivity_high)}) is under the floor of {settings.floor_sensitivity:g}",
        )


def _check_first_model(findings: Findings, test: Figures, settings: PromotionSettings) -> None:
    """Check a first model: there is no champion to beat, but the AUROC must be above chance."""
    if shortage := describe_shortage(dict(test), settings):
        findings.add(Outcome.INCONCLUSIVE, f"the test cohort has {shortage}")
    elif test["auroc"]["low"] is None or test["auroc"]["low"] <= CHANCE:
        findings.add(
            Outcome.INCONCLUSIVE,
            f"the AUROC is not distinguishable from chance over {test['clusters']} test clusters"
            f" (lower bound {format_value(test['auroc']['low'])})",
        )
    else:
        findings.add(Outcome.PASS, "the first model of its task: there is no champion to beat")


def _check_non_inferiority(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Check non-inferiority in AUROC on the anchor cohort, by the bounds of DeLong and the bootstrap."""
    anchor, name = rival["cohorts"]["anchor"], rival["rival"]
    if shortage := describe_shortage(anchor, settings):
        findings.add(Outcome.INCONCLUSIVE, f"the anchor cohort has {shortage}")
        return
    low = anchor["auroc"]["difference"]["low"]
    if low is None or low <= -settings.margin_auroc:
        cluster_count = needed_clusters(anchor, settings.margin_auroc, settings.alpha)
        needed_words = f"; about {cluster_count} test clusters would be needed" if cluster_count else ""
        findings.add(
            Outcome.INCONCLUSIVE,
            f"not shown to be as good as {name} on the anchor cohort: the AUROC "
            f"difference could be {format_difference(low)}, the margin is {-settings.margin_auroc:+g}{needed_words}",
        )
    else:
        findings.add(Outcome.PASS, f"not inferior to {name} on the anchor cohort (difference at least {low:+.3f})")


def _check_superiority(
    findings: Findings, rival: Figures, settings: PromotionSettings, past: Sequence[Look]
) -> list[dict[str, Any]]:
    """Check superiority on the newest cohort or overall; return the looks, with the budget that each claim spent."""
    names = ["newest", "overall"] if len(rival["epochs"]) > 1 else ["overall"]
    cohorts = {name: rival["cohorts"][name] for name in names}
    sufficient = {name: cohort for name, cohort in cohorts.items() if not describe_shortage(cohort, settings)}
    shortages = [
        f"the {cohort_label(name)} has {describe_shortage(cohort, settings)}"
        for name, cohort in cohorts.items()
        if name not in sufficient
    ]
    if not sufficient:
        findings.add(Outcome.INCONCLUSIVE, f"not shown to be better than {rival['rival']}: {'; '.join(shortages)}")
        return []
    allowances = test_set_budget.allowances(
        {name: cohort["batches"] for name, cohort in sufficient.items()}, past, settings
    )
    looks = [
        {
            "cohort": name,
            "batches": cohort["batches"],
            **asdict(allowances[name]),
            "p": cohort["auroc"]["difference"]["p_better"],
            "value": cohort["auroc"]["difference"]["value"],
        }
        for name, cohort in sufficient.items()
    ]
    established = _established_claims(looks)
    if established:
        findings.add(
            Outcome.PASS, f"superior to {rival['rival']} on the {' and the '.join(map(_describe_claim, established))}"
        )
    else:
        cluster_counts = [needed_clusters(cohort, 0.0, allowances[name].level) for name, cohort in sufficient.items()]
        positive_counts = [count for count in cluster_counts if count]
        needed_words = (
            f"; about {min(positive_counts)} test clusters would be needed to show this gain" if positive_counts else ""
        )
        claim_words = "; ".join([f"on the {_describe_claim(look)}" for look in looks] + shortages)
        findings.add(Outcome.INCONCLUSIVE, f"not shown to be better than {rival['rival']}: {claim_words}{needed_words}")
    if test_set_budget.exhausted_batches({"looks": looks}):
        findings.add(
            Outcome.INCONCLUSIVE,
            f"these test patients were used in {looks[0]['number'] - 1} verdicts of a year "
            f"and their budget of {settings.budget:g} is spent: admit a batch with new patients",
        )
    return looks


def _established_claims(looks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first claim that is significant alone, or all claims if all are significant at the joint level
    (Hochberg, training/promotion/test_set_budget.py)."""
    separately, jointly = (
        [look for look in looks if look["p"] is not None and look["p"] <= look[level_name] and look[level_name] > 0]
        for level_name in ("level", "whole")
    )
    return separately[:1] or (looks if jointly == looks else [])


def _describe_claim(look: Mapping[str, Any]) -> str:
    """One claim in words."""
    p = "unknown" if look["p"] is None else f"{look['p']:.2g}"
    claim = f"{cohort_label(look['cohort'])} AUROC {format_difference(look['value'])}"
    if look["level"] == 0:
        return f"{claim}, which has no budget left"
    return f"{claim}, p {p} where look {look['number']} of the year requires {look['level']:.2g}"
