"""A verdict: what a gate said, why, and with which figures. Every room ends in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

JSON = Any


class Outcome(StrEnum):
    """`pass` carry on, `fail` stop (in monitoring: ask for retraining), `inconclusive` say what is missing."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.INCONCLUSIVE: 4}


@dataclass(frozen=True)
class Verdict:
    """The answer of one gate about one subject.

    `gate` is the room's name (data, training, serving, monitoring, release), `subject` names what was judged
    (a batch, a model version, a release, a prediction, a window). `figures` and `thresholds` are plain JSON.
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
        """Plain JSON, the form that the ledger keeps."""
        return asdict(self) | {"outcome": self.outcome.value, "reasons": list(self.reasons)}


def from_dict(record: Mapping[str, JSON]) -> Verdict:
    """Read a verdict back from its plain form. A missing key is an error."""
    return Verdict(
        gate=record["gate"],
        subject=record["subject"],
        outcome=Outcome(record["outcome"]),
        reasons=tuple(record["reasons"]),
        figures=record["figures"],
        thresholds=record["thresholds"],
    )


def worst(outcomes: list[Outcome]) -> Outcome:
    """The outcome of several checks together: fail beats inconclusive, inconclusive beats pass."""
    for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    return Outcome.PASS
