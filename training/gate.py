"""Promote? The training gate: a pure function of the figures of evaluation and comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lineage.verdict import Outcome, Verdict, worst
from training.compare import needed
from training.settings import PromotionSettings

CHANCE = 0.5  # AUROC of a model that knows nothing
Figures = Mapping[str, Any]


@dataclass
class Findings:
    """What the checks found, in the order they ran; the worst outcome decides."""

    reasons: list[tuple[Outcome, str]] = field(default_factory=list)

    def add(self, outcome: Outcome, reason: str) -> None:
        """Write one finding down."""
        self.reasons.append((outcome, reason))

    def verdict(self, subject: str, figures: dict[str, Any], settings: PromotionSettings) -> Verdict:
        """The worst outcome, with its reasons first and what else was found after them."""
        outcome = worst([found for found, _ in self.reasons])
        first = [reason for found, reason in self.reasons if found is outcome]
        rest = [reason for found, reason in self.reasons if found is not outcome]
        return Verdict("training", subject, outcome, (*first, *rest), figures, {**asdict(settings), "chance": CHANCE})


def promote(
    subject: str,
    metrics: Figures,
    against_champion: Figures | None,
    against_anchor: Figures | None,
    settings: PromotionSettings,
) -> Verdict:
    """Judge a challenger by its own `metrics.json` and by the figures of training/compare.py.

    Fail: AUROC under the floor, or shown to be worse than champion or anchor by more than a margin. Pass: not
    inferior to both on the anchor cohort, and superior to the champion on the newest test cohort or overall; a first
    model passes above the floor if it is shown to be better than chance. All else is inconclusive, and says what is
    missing. Sensitivity is held by its margin as seen, since some dozens of patients can't prove it.
    """
    findings = Findings()
    test = metrics["test"]
    _floor(findings, test, settings)
    if against_champion is None:
        _first(findings, test, settings)
    else:
        for rival in filter(None, (against_champion, against_anchor)):
            _worse(findings, rival, settings)
            _not_inferior(findings, rival, settings)
        _superior(findings, against_champion, settings)
    figures = {"auroc": test["auroc"], "clusters": test["clusters"], "positive_clusters": test["positive_clusters"],
               "champion": against_champion, "anchor": against_anchor}  # fmt: skip
    return findings.verdict(subject, figures, settings)


def _floor(findings: Findings, test: Figures, settings: PromotionSettings) -> None:
    auroc, low, high = (test["auroc"][name] for name in ("value", "low", "high"))
    seen = f"test AUROC {_figure(auroc)} ({_figure(low)} to {_figure(high)} over {test['clusters']} clusters)"
    if auroc is None:
        findings.add(Outcome.INCONCLUSIVE, "the test side holds one kind of patient alone: admit both kinds")
    elif auroc < settings.floor_auroc:
        findings.add(Outcome.FAIL, f"{seen} is under the floor of {settings.floor_auroc:g}")
    else:
        findings.add(Outcome.PASS, f"{seen}, floor {settings.floor_auroc:g}")


def _first(findings: Findings, test: Figures, settings: PromotionSettings) -> None:
    """There is no champion to beat, but a model must be told from chance."""
    if lacking := _lacking(test, settings):
        findings.add(Outcome.INCONCLUSIVE, f"the test cohort has {lacking}")
    elif test["auroc"]["low"] is None or test["auroc"]["low"] <= CHANCE:
        findings.add(Outcome.INCONCLUSIVE, f"the AUROC cannot be told from chance over {test['clusters']} test clusters"
                     f" (lower bound {_figure(test['auroc']['low'])})")  # fmt: skip
    else:
        findings.add(Outcome.PASS, "the first model of its task: there is no champion to beat")


def _worse(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Shown to be worse by more than the margin, on any cohort that is large enough to say so."""
    margins = {"auroc": settings.margin_auroc, "sensitivity": settings.margin_sensitivity}
    seen = set()
    for cohort, figures in rival["cohorts"].items():
        if _lacking(figures, settings):
            continue
        for name, margin in margins.items():
            high = figures[name]["difference"]["high"]
            if high is not None and high < -margin and (name, high) not in seen:
                seen.add((name, high))
                findings.add(Outcome.FAIL, f"{_word(name)} is worse than that of {rival['rival']} by more than "
                             f"{margin:g} on the {_cohort(cohort)} (difference at most {high:+.3f})")  # fmt: skip


def _not_inferior(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Not inferior on the anchor cohort: AUROC by its bound, sensitivity as seen."""
    anchor, name = rival["cohorts"]["anchor"], rival["rival"]
    if lacking := _lacking(anchor, settings):
        findings.add(Outcome.INCONCLUSIVE, f"the anchor cohort has {lacking}")
        return
    low = anchor["auroc"]["difference"]["low"]
    if low is None or low <= -settings.margin_auroc:
        wanted = needed(anchor, settings.margin_auroc, settings.alpha)
        ask = f"; about {wanted} test clusters would be needed" if wanted else ""
        findings.add(Outcome.INCONCLUSIVE, f"not shown to be as good as {name} on the anchor cohort: the AUROC "
                     f"difference could be {_told(low)}, the margin is {-settings.margin_auroc:+g}{ask}")  # fmt: skip
    else:
        findings.add(Outcome.PASS, f"not inferior to {name} on the anchor cohort (difference at least {low:+.3f})")
    lost = anchor["sensitivity"]["difference"]["value"]
    if lost is not None and lost < -settings.margin_sensitivity:
        findings.add(Outcome.INCONCLUSIVE, f"sensitivity on the anchor cohort was {lost:+.3f} against {name}, the "
                     f"margin is {-settings.margin_sensitivity:+g}: read the lost cases")  # fmt: skip


def _superior(findings: Findings, rival: Figures, settings: PromotionSettings) -> None:
    """Superior to the champion on the newest cohort or overall; two chances share the alpha (Bonferroni)."""
    names = ["newest", "overall"] if len(rival["epochs"]) > 1 else ["overall"]
    cohorts = {name: rival["cohorts"][name] for name in names}
    able = {name: figures for name, figures in cohorts.items() if not _lacking(figures, settings)}
    bound = "low_half" if len(able) > 1 else "low"
    shares = settings.alpha / max(1, len(able))
    for name, figures in able.items():
        low = figures["auroc"]["difference"][bound]
        if low is not None and low > 0:
            findings.add(Outcome.PASS, f"superior to {rival['rival']} on the {_cohort(name)} "
                         f"(AUROC {figures['auroc']['difference']['value']:+.3f}, at least {low:+.3f})")  # fmt: skip
            return
    seen = [f"{figures['auroc']['difference']['value']:+.3f} on the {_cohort(name)}" for name, figures in able.items()]
    wanted = [needed(figures, 0.0, shares) for figures in able.values()]
    known = [count for count in wanted if count]
    ask = f"; about {min(known)} test clusters would be needed to show this gain" if known else ""
    few = [f"the {_cohort(name)} has {_lacking(figures, settings)}" for name, figures in cohorts.items()
           if name not in able]  # fmt: skip
    told = "; ".join([f"AUROC difference {text}" for text in seen] + few)
    findings.add(Outcome.INCONCLUSIVE, f"not shown to be better than {rival['rival']}: {told}{ask}")


def _lacking(figures: Figures, settings: PromotionSettings) -> str:
    """What a cohort lacks to decide anything, in words; empty if it has enough clusters."""
    if figures["clusters"] < settings.min_clusters:
        return f"{figures['clusters']} clusters, and {settings.min_clusters} are needed"
    for kind in ("positive", "negative"):
        count = figures[f"{kind}_clusters"]
        if count < settings.min_positive_clusters:
            return f"{count} clusters with a {kind} unit, and {settings.min_positive_clusters} are needed"
    return ""


def _cohort(name: str) -> str:
    return {"anchor": "anchor cohort", "newest": "newest test cohort", "overall": "whole test side"}[name]


def _word(name: str) -> str:
    return {"auroc": "AUROC", "sensitivity": "sensitivity"}[name]


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _told(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3f}"
