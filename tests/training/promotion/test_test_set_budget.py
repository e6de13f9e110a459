"""The test-set budget: the cost of a look at a test cohort, and when the budget is spent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from training.promotion.test_set_budget import (
    Allowance,
    Balance,
    Look,
    allowances,
    balances,
    decided_batches,
    exhausted_batches,
    read_looks,
)


def repeated_looks(samples: Any, times: int) -> list[Look]:
    """`times` looks in a row at the same batch."""
    past: list[Look] = []
    for number in range(times):
        charge = allowances({"overall": ["first"]}, past, samples.PROMOTION)["overall"].charge
        past.append(Look(f"lung-ct/{number}", ("first",), charge))
    return past


def test_twenty_looks_spend_the_budget_and_the_next_has_nothing(samples: Any) -> None:
    past = repeated_looks(samples, 20)
    charges = [look.charge for look in past]
    assert sum(charges) == pytest.approx(samples.PROMOTION.budget)
    assert charges == sorted(charges, reverse=True)
    assert min(charges) > 0
    last = allowances({"overall": ["first"]}, past, samples.PROMOTION)["overall"]
    assert (last.number, last.level, last.whole, last.charge) == (21, 0, 0, 0)


def test_a_fresh_batch_brings_its_own_budget(samples: Any) -> None:
    allowed = allowances(
        {"newest": ["second"], "overall": ["first", "second"]}, repeated_looks(samples, 20), samples.PROMOTION
    )
    assert allowed["newest"].level == allowances({"newest": ["second"]}, [], samples.PROMOTION)["newest"].level > 0
    assert allowed["overall"].level == 0


def test_no_batch_is_charged_more_than_the_budget(samples: Any) -> None:
    """With random new batches, and tests on the newest and on all: charges stay within the budget of each batch."""
    settings = replace(samples.PROMOTION, looks_per_year=8)
    random = np.random.default_rng(0)
    for _ in range(20):
        past: list[Look] = []
        batches = ["first"]
        for number in range(30):
            if random.uniform() < 0.2:
                batches.append(f"later-{number}")
            claims = {"newest": batches[-1:], "overall": list(batches)} if len(batches) > 1 else {"overall": batches[:]}
            for name, allowed in allowances(claims, past, settings).items():
                assert 0 <= allowed.level <= settings.budget
                if allowed.level > 0:
                    past.append(Look(str(number), tuple(claims[name]), allowed.charge))
        for batch in batches:
            assert sum(look.charge for look in past if batch in look.batches) <= settings.budget + 1e-12


FIRST = 0.05 / sum(number**-1.5 for number in range(1, 21))  # of a year's 0.05 over 20 looks: 0.0232


@pytest.mark.parametrize(
    ("past", "number", "share"),
    [
        ([], 1, FIRST),
        ([("1", "a", FIRST)], 2, FIRST * 2**-1.5),
        ([("1", "a", FIRST), ("1", "a", 0.001)], 2, FIRST * 2**-1.5),  # two claims of one verdict are one look
        ([("1", "a", FIRST), ("2", "a", 0.01)], 3, FIRST * 3**-1.5),
        ([("1", "b", FIRST)], 1, FIRST),  # another batch
        ([("1", "ab", FIRST)], 2, FIRST * 2**-1.5),
        ([("1", "a", 0.049)], 2, 0.001),  # the rest of the budget
        ([("1", "a", 0.06)], 2, 0.0),
        ([(str(number), "a", 0.0) for number in range(19)], 20, FIRST * 20**-1.5),
        ([(str(number), "a", 0.0) for number in range(20)], 21, 0.0),
    ],
)
def test_what_a_look_may_spend(samples: Any, past: list[tuple[str, str, float]], number: int, share: float) -> None:
    past_looks = [Look(verdict, tuple(batches), charge) for verdict, batches, charge in past]
    allowed = allowances({"overall": ["a"]}, past_looks, samples.PROMOTION)["overall"]
    assert (allowed.number, allowed.level, allowed.whole, allowed.charge) == pytest.approx((number, *[share] * 3))
    looks_at_batch = [look for look in past_looks if "a" in look.batches]
    verdict_count, charged = len({look.verdict for look in looks_at_batch}), sum(look.charge for look in looks_at_batch)
    (balance,) = balances(["a"], past_looks, 0.05, 20)
    assert balance == Balance("a", verdict_count, pytest.approx(charged), pytest.approx(share))


def test_the_most_used_batch_limits_a_claim_on_several_batches(samples: Any) -> None:
    past = [Look("1", ("a",), 0.001), Look("2", ("b",), 0.045), Look("3", ("a",), 0.001)]
    for batches in (["a", "b"], ["b", "a"]):
        allowed = allowances({"overall": batches}, past, samples.PROMOTION)["overall"]
        assert (allowed.number, allowed.charge) == (3, pytest.approx(min(FIRST * 3**-1.5, 0.005)))
    assert [balance.batch for balance in balances(["b", "c", "a"], past, 0.05, 20)] == ["b", "c", "a"]
    assert [balance.decided for balance in balances(["b", "c", "a"], past, 0.05, 20)] == [1, 0, 2]


def test_claims_of_one_verdict_share_one_look(samples: Any) -> None:
    """Each but the first at half its share, the first at its share minus these halves, all at the smallest share."""
    past = [Look("1", ("a",), FIRST)]
    second = FIRST * 2**-1.5
    allowed = allowances({"newest": ["b"], "overall": ["a", "b"], "more": ["a"]}, past, samples.PROMOTION)
    assert list(allowed) == ["newest", "overall", "more"]
    for name, expected in {
        "newest": Allowance(1, FIRST - second, second, FIRST - 2 * second),
        "overall": Allowance(2, second / 2, second, second),
        "more": Allowance(2, second / 2, second, second),
    }.items():
        allowance = allowed[name]
        assert (allowance.number, allowance.level, allowance.whole, allowance.charge) == pytest.approx(
            (expected.number, expected.level, expected.whole, expected.charge)
        )


def test_two_claims_share_one_look(samples: Any) -> None:
    together = allowances({"newest": ["b"], "overall": ["a", "b"]}, [], samples.PROMOTION)
    alone = allowances({"overall": ["a", "b"]}, [], samples.PROMOTION)["overall"]
    assert together["newest"].level + together["overall"].level == pytest.approx(alone.level)
    assert together["newest"].whole == together["overall"].whole == alone.level


def verdict_record(version: int, time: str, level: float = 0.01, task: str = "lung-ct", gate: str = "training") -> Any:
    verdict_looks = [{"cohort": "overall", "batches": ["first"], "level": level, "charge": level}]
    return time, {"gate": gate, "subject": f"{task}/{version}", "figures": {"looks": verdict_looks}}


def test_looks_are_read_from_the_verdicts_of_a_task_and_a_year() -> None:
    verdicts = [
        verdict_record(1, "2025-01-31T12:00:00Z"),  # more than a year ago
        verdict_record(2, "2025-06-01T12:00:00Z"),
        verdict_record(3, "2025-07-01T12:00:00Z", task="lung-ct-small"),
        verdict_record(4, "2025-08-01T12:00:00Z", gate="shadow"),
        verdict_record(5, "2025-09-01T12:00:00Z", level=0.0),  # no budget left, so no test
        verdict_record(7, "2025-02-01T12:00:00Z"),  # exactly a year ago
        verdict_record(8, "2025-02-01T12:00:01Z"),
        # of the time before looks were recorded
        ("2025-10-01T12:00:00Z", {"gate": "training", "subject": "lung-ct/6", "figures": {"auroc": 1}}),
    ]
    past = read_looks(verdicts, "lung-ct", "2026-02-01T12:00:00Z")
    assert past == (Look("lung-ct/2", ("first",), 0.01), Look("lung-ct/8", ("first",), 0.01))
    assert decided_batches(past) == {"first"}


def test_a_cohort_may_decide_again_a_year_later(samples: Any) -> None:
    verdicts = [verdict_record(number, f"2025-01-{number + 1:02d}T00:00:00Z", level=0.0025) for number in range(20)]
    for now, has_budget in (("2025-12-30T00:00:00Z", False), ("2026-01-05T00:00:00Z", True)):
        allowed = allowances({"overall": ["first"]}, read_looks(verdicts, "lung-ct", now), samples.PROMOTION)
        assert (allowed["overall"].level > 0) is has_budget


def test_batches_with_a_spent_budget_are_listed() -> None:
    exhausted = {"looks": [{"batches": ["b"], "level": 0.0}, {"batches": ["a", "b"], "level": 0.0}]}
    assert exhausted_batches(exhausted) == ["a", "b"]
    assert exhausted_batches({"looks": [*exhausted["looks"], {"batches": ["c"], "level": 0.01}]}) == []
    assert exhausted_batches({}) == []


def test_hochberg_keeps_the_level_for_positively_dependent_claims() -> None:
    """Two claims that share half their patients: the error rate is at most the level of one look."""
    random = np.random.default_rng(1)
    from scipy.stats import norm

    shared, own = random.normal(size=(2, 400_000))
    p = norm.sf([shared, (shared + own) / np.sqrt(2)])
    assert ((p.min(axis=0) <= 0.01) | (p.max(axis=0) <= 0.02)).mean() <= 0.02
