"""The test-set budget: how often a test cohort was used for decisions, and the error rate it has left this year."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from training.settings import PromotionSettings

YEAR = timedelta(days=365)
DECAY = 1.5  # exponent by which the share of a look falls with its number


@dataclass(frozen=True)
class Look:
    """One look: a claim tested in a verdict on the test patients of some batches, and the error rate charged for it.

    "Look" is the term of group-sequential testing: each test of a claim on the same patients spends error rate.
    """

    verdict: str
    batches: tuple[str, ...]
    charge: float


@dataclass(frozen=True)
class Allowance:
    """The error rate open to a claim at the `number`-th look of the year at its most used batch.

    The claim is established by a p-value up to `level` alone, or up to `whole` together with every other claim of the
    verdict. `charge` is deducted from its batches. All three are 0 if the budget is spent.
    """

    number: int
    level: float
    whole: float  # this name is a key of the stored verdicts
    charge: float


@dataclass(frozen=True)
class Balance:
    """The use of one batch's test patients in a year: number of verdicts, and the error rate charged.

    `level` is the error rate open to the next look; 0 if the budget or the number of looks is spent.
    """

    batch: str
    decided: int
    charged: float
    level: float


def read_looks(verdicts: Iterable[tuple[str, Mapping[str, Any]]], task: str, now: str) -> tuple[Look, ...]:
    """The looks in a task's training verdicts, pairs of (time, payload), in the year before `now` (ISO times)."""
    since = datetime.fromisoformat(now) - YEAR
    recent = [record for time, record in verdicts if datetime.fromisoformat(time) > since]
    return tuple(
        Look(record["subject"], tuple(look["batches"]), look["charge"])
        for record in recent
        if record["gate"] == "training" and record["subject"].startswith(f"{task}/")
        for look in record["figures"].get("looks", ())
        if look["level"] > 0
    )


def decided_batches(past: Sequence[Look]) -> frozenset[str]:
    """The batches whose test patients were used in a look."""
    return frozenset(batch for look in past for batch in look.batches)


def exhausted_batches(figures: Mapping[str, Any]) -> list[str]:
    """The batches of a verdict's figures, if the budget of all its claims is spent; else an empty list."""
    claims = figures.get("looks", ())
    if any(look["level"] > 0 for look in claims):
        return []
    return sorted({batch for look in claims for batch in look["batches"]})


def allowances(
    claims: Mapping[str, Sequence[str]], past: Sequence[Look], settings: PromotionSettings
) -> dict[str, Allowance]:
    """The error rate open to each claim of one verdict, by the batches whose test patients it is tested on.

    The k-th look at a batch gets a share of the year's `budget` that falls as k^-1.5 over `looks_per_year` looks. The
    first share is the largest, since most retrainings come with new patients. No batch is charged more than the budget,
    for any dependence between its looks (Bonferroni). Claims of one verdict share one look by Hochberg's step-up
    procedure (Biometrika 75, 1988), valid for positively dependent claims, such as on all patients and on some of them.
    Each claim but the first is tested alone at half its share, the first at its share minus half the shares of the
    others, all together at the smallest share.
    """
    shares = {name: _share(batches, past, settings.budget, settings.looks_per_year) for name, batches in claims.items()}
    first, *other_claims = claims
    joint_level = min(share for _, share in shares.values())
    charged_share = sum(shares[name][1] for name in other_claims)
    number, share = shares[first]
    first_allowance = {first: Allowance(number, share - charged_share / 2, joint_level, share - charged_share)}
    other_allowances = {
        name: Allowance(shares[name][0], shares[name][1] / 2, joint_level, shares[name][1]) for name in other_claims
    }
    return first_allowance | other_allowances


def balances(batches: Iterable[str], past: Sequence[Look], budget: float, most: int) -> tuple[Balance, ...]:
    """The balance of each batch, in the same order, for a year's `budget` over at most `most` looks."""
    batch_balances = []
    for batch in batches:
        past_of_batch = [look for look in past if batch in look.batches]
        level = _share([batch], past, budget, most)[1]
        verdicts = {look.verdict for look in past_of_batch}
        batch_balances.append(Balance(batch, len(verdicts), sum(look.charge for look in past_of_batch), level))
    return tuple(batch_balances)


def _share(batches: Sequence[str], past: Sequence[Look], budget: float, most: int) -> tuple[int, float]:
    """The number of the next look at the most used of some batches, and its share of the budget."""
    number, charged = 1, 0.0
    for batch in batches:
        past_of_batch = [look for look in past if batch in look.batches]
        number = max(number, 1 + len({look.verdict for look in past_of_batch}))
        charged = max(charged, sum(look.charge for look in past_of_batch))
    if number > most:
        return number, 0.0
    weights = [k**-DECAY for k in range(1, most + 1)]
    return number, max(0.0, min(budget * weights[number - 1] / sum(weights), budget - charged))
