"""What the checks of a gate found, in the order they ran, and the words in which they say it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lineage.record.verdict import Outcome, Verdict, worst
from training.settings import PromotionSettings


@dataclass
class Findings:
    """Findings of one verdict; the worst outcome decides."""

    reasons: list[tuple[Outcome, str]] = field(default_factory=list)

    def add(self, outcome: Outcome, reason: str) -> None:
        """Write one finding down."""
        self.reasons.append((outcome, reason))

    def verdict(
        self, gate: str, subject: str, figures: dict[str, Any], settings: PromotionSettings, **also: Any
    ) -> Verdict:
        """The worst outcome, with its reasons first and what else was found after them."""
        outcome = worst([found for found, _ in self.reasons])
        first = [reason for found, reason in self.reasons if found is outcome]
        rest = [reason for found, reason in self.reasons if found is not outcome]
        return Verdict(gate, subject, outcome, (*first, *rest), figures, {**asdict(settings), **also})


def cohort_words(name: str) -> str:
    """A cohort of training/promotion/comparison.py as people read it."""
    return {"anchor": "anchor cohort", "newest": "newest test cohort", "overall": "whole test side"}[name]


def figure(value: float | None) -> str:
    """A figure with three decimals."""
    return "unknown" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return "unknown" if value is None else f"{value:+.3f}"
