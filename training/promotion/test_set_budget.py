"""The test-set ledger: how often a test cohort has decided, and what chance of luck it has left this year."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from training.settings import PromotionSettings

YEAR = timedelta(days=365)
FALL = 1.5  # of a look's share of the budget with its number


@dataclass(frozen=True)
class Look:
    """One claim that was tested: in which verdict, on the test patients of which batches, and what it was charged."""

    verdict: str
    batches: tuple[str, ...]
    charge: float


@dataclass(frozen=True)
class Allowance:
    """What a claim may spend now, at the `number`-th look of the year at its most used batch.

    It is shown by a p-value up to `level` alone, or up to `whole` together with every other claim of the verdict;
    `charge` is what its batches pay. All three are 0 where nothing is left.
    """

    number: int
    level: float
    whole: float
    charge: float


@dataclass(frozen=True)
class Balance:
    """What the test patients of one batch have decided in a year: verdicts, and the chance of luck that was charged.

    `level` is the share that is open to the next look at them; 0 where the budget or the number of looks is spent.
    """

    batch: str
    decided: int
    charged: float
    level: float


def looks(verdicts: Iterable[tuple[str, Mapping[str, Any]]], task: str, now: str) -> tuple[Look, ...]:
    """The looks of a task's training verdicts, (time, payload) each, in the year before `now` (ISO times)."""
    since = datetime.fromisoformat(now) - YEAR
    recent = [record for at, record in verdicts if datetime.fromisoformat(at) > since]
    return tuple(
        Look(record["subject"], tuple(look["batches"]), look["charge"])
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

    The k-th look at a batch takes a share of the year's `budget` that falls as k^-1.5 over `looks_per_year` looks: the
    first takes most, since a retraining mostly comes with patients that are new. No batch is ever charged more than
    the budget, however its looks depend on each other (Bonferroni). Claims of one verdict share one look by Hochberg's
    step-up (Biometrika 75, 1988), which holds for claims that rise together, as of patients and some of them: each but
    the first is shown alone at half its share, the first at what these leave, all together at the smallest share.
    """
    shares = {name: _share(batches, past, settings.budget, settings.looks_per_year) for name, batches in claims.items()}
    first, *others = claims
    whole = min(share for _, share in shares.values())
    taken = sum(shares[name][1] for name in others)
    number, share = shares[first]
    told = {first: Allowance(number, share - taken / 2, whole, share - taken)}
    return told | {name: Allowance(shares[name][0], shares[name][1] / 2, whole, shares[name][1]) for name in others}


def balances(batches: Iterable[str], past: Sequence[Look], budget: float, most: int) -> tuple[Balance, ...]:
    """What each batch has left of a year's `budget` over at most so many looks, in the order given."""
    told = []
    for batch in batches:
        used = [look for look in past if batch in look.batches]
        level = _share([batch], past, budget, most)[1]
        told.append(Balance(batch, len({look.verdict for look in used}), sum(look.charge for look in used), level))
    return tuple(told)


def _share(batches: Sequence[str], past: Sequence[Look], budget: float, most: int) -> tuple[int, float]:
    """The number of this look at the most used of some batches, and the share of the budget that is open to it."""
    number, charged = 1, 0.0
    for batch in batches:
        used = [look for look in past if batch in look.batches]
        number = max(number, 1 + len({look.verdict for look in used}))
        charged = max(charged, sum(look.charge for look in used))
    if number > most:
        return number, 0.0
    weights = [k**-FALL for k in range(1, most + 1)]
    return number, max(0.0, min(budget * weights[number - 1] / sum(weights), budget - charged))
