"""Findings of the gate's checks in their order, and the text format of their values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lineage.record.verdict import Outcome, Verdict, worst
from training.settings import PromotionSettings


@dataclass
class Findings:
    """The findings of one verdict; the worst outcome decides."""

    reasons: list[tuple[Outcome, str]] = field(default_factory=list)

    def add(self, outcome: Outcome, reason: str) -> None:
        """Add one finding."""
        self.reasons.append((outcome, reason))

    def verdict(
        self, gate: str, subject: str, figures: dict[str, Any], settings: PromotionSettings, **thresholds: Any
    ) -> Verdict:
        """The verdict with the worst outcome; its reasons first, then all other reasons."""
        outcome = worst([finding_outcome for finding_outcome, _ in self.reasons])
        decisive = [reason for finding_outcome, reason in self.reasons if finding_outcome is outcome]
        further = [reason for finding_outcome, reason in self.reasons if finding_outcome is not outcome]
        return Verdict(gate, subject, outcome, (*decisive, *further), figures, {**asdict(settings), **thresholds})


def cohort_label(name: str) -> str:
    """The name of a cohort of training/promotion/comparison.py in a reason."""
    return {"anchor": "anchor cohort", "newest": "newest test cohort", "overall": "whole test set"}[name]


def format_value(value: float | None) -> str:
    """A metric with three decimals."""
    return "unknown" if value is None else f"{value:.3f}"


def format_difference(value: float | None) -> str:
    """A difference with sign and three decimals."""
    return "unknown" if value is None else f"{value:+.3f}"
