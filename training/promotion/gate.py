"""Promote? The training gate: a pure function of the figures of evaluation and comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lineage.record.verdict import Outcome, Verdict
from training.promotion import gate_checks, test_set_budget
from training.promotion.comparison import lacking, needed
from training.promotion.gate_findings import Findings, cohort_words, figure, signed
from training.promotion.test_set_budget import Look
from training.settings import PromotionSettings

CHANCE = 0.5  # AUROC of a model that knows nothing
Figures = Mapping[str, Any]


def promote(
    subject: str,
    metrics: Figures,
    against_champion: Figures | None,
    against_anchor: Figures | None,
    settings: PromotionSettings,
    past: Sequence[Look] = (),
) -> Verdict:
    """Judge a challenger by its own `metrics.json` and by the figures of training/promotion/comparison.py.

    `past` are the looks of the last year at the task's test cohorts (training/promotion/test_set_budget.py). Fail:
    under a floor, or
    shown to be worse than champion or anchor by more than a margin. Pass: not inferior to both on the anchor cohort,
    no harm seen (training/promotion/gate_checks.py), and superior to the champion on the newest test cohort or
    overall, at the level
    that the cohorts' budget has left; a first model passes above the floors if it is shown to be better than chance.
    All else is inconclusive, and says what is missing.
    """
    findings = Findings()
    test = metrics["test"]
    _floors(findings, test, settings)
    gate_checks.baseline(findings, metrics, settings)
    looks: list[dict[str, Any]] = []
    if against_champion is None:
        _first(findings, test, settings)
    else:
        for rival in _rivals(against_champion, against_anchor):
            gate_checks.worse(findings, rival, settings)
            _not_inferior(findings, rival, settings)
            gate_checks.sensitivity(findings, rival, settings)
            gate_checks.calibration(findings, rival, settings)
            gate_checks.slices(findings, rival, settings)
        looks = _superior(findings, against_champion, settings, past)
    figures = {
        "auroc": test["auroc"],
        "clusters": test["clusters"],
        "positive_clusters": test["positive_clusters"],
        "looks": looks,
        "champion": against_champion,
        "anchor": against_anchor,
    }
    return findings.verdict("training", subject, figures, settings, chance=CHANCE)


def _rivals(champion: Figures, anchor: Figures | None) -> list[Figures]:
    """Champion and anchor; once where the champion is the anchor still, since one version has one set of figures."""
    if anchor is None or {**anchor, "rival": ""} == {**champion, "rival": ""}:
        return [champion]
    return [champion, anchor]


def _floors(findings: Findings, test: Figures, settings: PromotionSettings) -> None:
    auroc, low, high = (test["auroc"][name] for name in ("value", "low", "high"))
    seen = f"test AUROC {figure(auroc)} ({figure(low)} to {figure(high)} over {test['clusters']} clusters)"
    if auroc is None:
        findings.add(Outcome.INCONCLUSIVE, "the test side holds one kind of patient alone: admit both kinds")
    elif auroc < settings.floor_auroc:
        findings.add(Outcome.FAIL, f"{seen} is under the floor of {settings.floor_auroc:g}")
    else:
        findings.add(Outcome.PASS, f"{seen}, floor {settings.floor_auroc:g}")
    found, highest = test["sensitivity"]["value"], test["sensitivity"]["high"]
    if found is not None and found < settings.floor_sensitivity:
        shown = highest is not None and highest < settings.floor_sensitivity
        findings.add(
            Outcome.FAIL if shown else Outcome.INCONCLUSIVE,
            f"test sensitivity {figure(found)} (at most "
            f"{figure(highest)}) is under the floor of {settings.floor_sensitivity:g}",
        )


def _first(findings: Findings, test: Figures, settings: PromotionSettings) -> None:
    """There is no champion to beat, but a model must be told from chance."""
    if few := lacking(dict(test), settings):
        findings.add(Outcome.INCONCLUSIVE, f"the test cohort has {few}")
    elif test["auroc"]["low"] is None or test["auroc"]["low"] <= CHANCE:
        findings.add(
            Outcome.INCONCLUSIVE,
            f"the AUROC cannot be told from chance over {test['clusters']} test clusters"
            f" (lower bound {figure(test['auroc']['low'])})",
        )
    else:
        findings.add(Outcome.PASS, "the first model of its task: there is no champion to beat")


def _not_inferior(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Not inferior in AUROC on the anchor cohort, by DeLong's bound and by the bootstrap's."""
    anchor, name = rival["cohorts"]["anchor"], rival["rival"]
    if few := lacking(anchor, settings):
        findings.add(Outcome.INCONCLUSIVE, f"the anchor cohort has {few}")
        return
    low = anchor["auroc"]["difference"]["low"]
    if low is None or low <= -settings.margin_auroc:
        wanted = needed(anchor, settings.margin_auroc, settings.alpha)
        ask = f"; about {wanted} test clusters would be needed" if wanted else ""
        findings.add(
            Outcome.INCONCLUSIVE,
            f"not shown to be as good as {name} on the anchor cohort: the AUROC "
            f"difference could be {signed(low)}, the margin is {-settings.margin_auroc:+g}{ask}",
        )
    else:
        findings.add(Outcome.PASS, f"not inferior to {name} on the anchor cohort (difference at least {low:+.3f})")


def _superior(
    findings: Findings, rival: Figures, settings: PromotionSettings, past: Sequence[Look]
) -> list[dict[str, Any]]:
    """Superior to the champion on the newest cohort or overall; what each claim spent of its cohort's budget."""
    names = ["newest", "overall"] if len(rival["epochs"]) > 1 else ["overall"]
    cohorts = {name: rival["cohorts"][name] for name in names}
    able = {name: held for name, held in cohorts.items() if not lacking(held, settings)}
    few = [
        f"the {cohort_words(name)} has {lacking(held, settings)}" for name, held in cohorts.items() if name not in able
    ]
    if not able:
        findings.add(Outcome.INCONCLUSIVE, f"not shown to be better than {rival['rival']}: {'; '.join(few)}")
        return []
    allowed = test_set_budget.allowances({name: held["batches"] for name, held in able.items()}, past, settings)
    looks = [
        {
            "cohort": name,
            "batches": held["batches"],
            **asdict(allowed[name]),
            "p": held["auroc"]["difference"]["p_better"],
            "value": held["auroc"]["difference"]["value"],
        }
        for name, held in able.items()
    ]
    shown = _shown(looks)
    if shown:
        findings.add(Outcome.PASS, f"superior to {rival['rival']} on the {' and the '.join(map(_look, shown))}")
    else:
        wanted = [needed(held, 0.0, allowed[name].level) for name, held in able.items()]
        known = [count for count in wanted if count]
        ask = f"; about {min(known)} test clusters would be needed to show this gain" if known else ""
        told = "; ".join([f"on the {_look(look)}" for look in looks] + few)
        findings.add(Outcome.INCONCLUSIVE, f"not shown to be better than {rival['rival']}: {told}{ask}")
    if test_set_budget.spent({"looks": looks}):
        findings.add(
            Outcome.INCONCLUSIVE,
            f"these test patients have decided {looks[0]['number'] - 1} times in a year "
            f"and their budget of {settings.budget:g} is spent: admit a batch with fresh ones",
        )
    return looks


def _shown(looks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first claim that is shown by itself, or all if they are shown together
    (training/promotion/test_set_budget.py)."""
    alone, together = (
        [look for look in looks if look["p"] is not None and look["p"] <= look[most] and look[most] > 0]
        for most in ("level", "whole")
    )
    return alone[:1] or (looks if together == looks else [])


def _look(look: Mapping[str, Any]) -> str:
    """One claim in words."""
    p = "unknown" if look["p"] is None else f"{look['p']:.2g}"
    if look["level"] == 0:
        return f"{cohort_words(look['cohort'])} AUROC {signed(look['value'])}, which has no budget left"
    return (
        f"{cohort_words(look['cohort'])} AUROC {signed(look['value'])}, p {p} where look {look['number']} of the "
        f"year asks for {look['level']:.2g}"
    )
