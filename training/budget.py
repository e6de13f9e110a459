"""The test-set ledger: how often a test cohort has decided, and what chance of luck it has left this year."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from training.settings import PromotionSettings

YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Look:
    """One claim that was tested: in which verdict, on the test patients of which batches, at which level."""

    verdict: str
    batches: tuple[str, ...]
    level: float


@dataclass(frozen=True)
class Allowance:
    """What a claim may spend now. `number` counts this look at the most used batch; `level` 0: nothing is left."""

    number: int
    level: float
    spent: float


def looks(verdicts: Iterable[tuple[str, Mapping[str, Any]]], task: str, now: str) -> tuple[Look, ...]:
    """The looks of a task's training verdicts, (time, payload) each, in the year before `now` (ISO times)."""
    since = datetime.fromisoformat(now) - YEAR
    recent = [record for at, record in verdicts if datetime.fromisoformat(at) > since]
    return tuple(
        Look(record["subject"], tuple(look["batches"]), look["level"])
        for record in recent
        if record["gate"] == "training" and record["subject"].startswith(f"{task}/")
        for look in record["figures"].get("looks", ())
        if look["level"] > 0
    )


def decided(past: Sequence[Look]) -> frozenset[str]:
    """The batches whose test patients have been looked at."""
    return frozenset(batch for look in past for batch in look.batches)


def spent(figures: Mapping[str, Any]) -> list[str]:
    """The batches of a verdict's figures whose budget is spent, so that it could decide nothing; else none."""
    asked = figures.get("looks", ())
    if any(look["level"] > 0 for look in asked):
        return []
    return sorted({batch for look in asked for batch in look["batches"]})


def allowances(
    claims: Mapping[str, Sequence[str]], past: Sequence[Look], settings: PromotionSettings
) -> dict[str, Allowance]:
    """What each claim of one verdict may spend, by the batches whose test patients it is tested on.

    A look takes its share of the year's `budget`, the k-th look at a batch the share 1/k of the sum of 1/k over
    `looks_per_year`: the first ones take most, since a retraining mostly comes with patients that are new. No batch is
    ever charged more than the budget, however the claims depend on each other (Bonferroni over all looks). Claims of
    one verdict share its look: each but the first takes half of its own share, the first what they leave.
    """
    whole = {name: _allowance(batches, past, settings) for name, batches in claims.items()}
    first, *others = claims
    halved = {name: Allowance(whole[name].number, whole[name].level / 2, whole[name].spent) for name in others}
    taken = sum(halved[name].level for name in others if set(claims[name]) & set(claims[first]))
    rest = Allowance(whole[first].number, max(0.0, whole[first].level - taken), whole[first].spent)
    return {first: rest, **halved}


def _allowance(batches: Sequence[str], past: Sequence[Look], settings: PromotionSettings) -> Allowance:
    number, charged = 1, 0.0
    for batch in batches:
        used = [look for look in past if batch in look.batches]
        number = max(number, 1 + len({look.verdict for look in used}))
        charged = max(charged, sum(look.level for look in used))
    if number > settings.looks_per_year:
        return Allowance(number, 0.0, charged)
    shares = sum(1 / k for k in range(1, settings.looks_per_year + 1))
    return Allowance(number, max(0.0, min(settings.budget / number / shares, settings.budget - charged)), charged)
