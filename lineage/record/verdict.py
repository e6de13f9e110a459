"""A verdict: the outcome of a gate with its reasons, figures and thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

JSON = Any


class Outcome(StrEnum):
    """`pass`: continue; `fail`: stop (in monitoring: request retraining); `inconclusive`: say what is missing."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.INCONCLUSIVE: 4}


@dataclass(frozen=True)
class Verdict:
    """The verdict of one gate on one subject.

    `gate` is the gate's name (data, training, serving, monitoring, release). `subject` is the name of a batch, model
    version, release, prediction or window. `figures` and `thresholds` are plain JSON.
    """

    gate: str
    subject: str
    outcome: Outcome
    reasons: tuple[str, ...]
    figures: Mapping[str, JSON] = field(default_factory=dict)
    thresholds: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends in this verdict."""
        return EXIT_CODES[self.outcome]

    def to_dict(self) -> dict[str, JSON]:
        """The verdict as plain JSON, as stored in the ledger."""
        return asdict(self) | {"outcome": self.outcome.value, "reasons": list(self.reasons)}


def from_dict(record: Mapping[str, JSON]) -> Verdict:
    """The verdict from its plain JSON. KeyError for a missing key."""
    return Verdict(
        gate=record["gate"],
        subject=record["subject"],
        outcome=Outcome(record["outcome"]),
        reasons=tuple(record["reasons"]),
        figures=record["figures"],
        thresholds=record["thresholds"],
    )


def worst(outcomes: list[Outcome]) -> Outcome:
    """The worst of several outcomes: fail before inconclusive before pass; pass for an empty list."""
    for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    return Outcome.PASS
