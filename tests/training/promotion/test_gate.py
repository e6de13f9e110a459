"""The training gate: three verdicts, always with reasons, and correct often enough with few patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from training.promotion import gate_checks, test_set_budget
from training.promotion.comparison import compare
from training.promotion.gate import judge_challenger

FEW, MANY = 12, 40


def metrics(
    auroc: float | None = 0.9,
    low: float | None = 0.8,
    clusters: int = MANY,
    positive: int = 16,
    sensitivity: float = 0.9,
    ahead: tuple[float, float, float] = (0.2, 0.1, 0.3),
) -> Any:
    value, low_ahead, high_ahead = ahead
    return {
        "baseline": {
            "model": "logistic regression",
            "difference": {"value": value, "low": low_ahead, "high": high_ahead},
        },
        "test": {
            "auroc": {"value": auroc, "low": low, "high": 1.0},
            "coverage": {"value": 0.9, "low": 0.8, "high": 1.0},
            "sensitivity": {"value": sensitivity, "low": 0.0, "high": min(1.0, sensitivity + 0.2)},
            "clusters": clusters,
            "positive_clusters": positive,
            "negative_clusters": clusters - positive,
        },
    }


@pytest.mark.parametrize(
    ("auroc", "ahead", "outcome", "reason"),
    [  # of the network; its difference to the baseline with interval
        (0.90, (0.2, 0.1, 0.3), Outcome.PASS, "the network beats the baseline: AUROC +0.200 (+0.100 to +0.300)"),
        (0.90, (0.02, -0.1, 0.2), Outcome.INCONCLUSIVE, "the network is not shown to beat the baseline of AUROC 0.880"),
        (0.90, (0.0, 0.0, 0.0), Outcome.INCONCLUSIVE, "the network is not shown to beat the baseline"),
        (0.96, (0.0, 0.0, 0.0), Outcome.INCONCLUSIVE, "the network is not shown to beat the baseline"),
        (0.90, (0.2, 0.0, 0.3), Outcome.INCONCLUSIVE, "the network is not shown to beat the baseline"),
        (0.90, (-0.02, -0.1, 0.1), Outcome.INCONCLUSIVE, "the network is not shown to beat the baseline"),
        (0.70, (-0.2, -0.3, -0.1), Outcome.FAIL, "the network is behind the baseline: AUROC -0.200"),
        (0.97, (-0.025, -0.04, -0.001), Outcome.FAIL, "the network is behind the baseline"),
        (
            0.989,
            (-0.011, -0.03, 0.0),
            Outcome.PASS,
            "the network is no worse than the baseline, whose AUROC of 1.000 is near 1",
        ),
        (1.0, (0.0, 0.0, 0.0), Outcome.PASS, "the network is no worse than the baseline"),
        (0.97, (0.0, -0.04, 0.04), Outcome.PASS, "the network is no worse than the baseline"),
        (0.98, (0.03, 0.01, 0.06), Outcome.PASS, "the network beats the baseline"),
        (
            0.93,
            (-0.05, -0.12, 0.0),
            Outcome.INCONCLUSIVE,
            "the network is not shown to be as good as the baseline, whose AUROC "
            "of 0.980 is near 1; the margin is -0.05: AUROC -0.050 (-0.120 to +0.000)",
        ),
        (0.96, (-0.02, -0.05, 0.0), Outcome.INCONCLUSIVE, "the network is not shown to be as good as the baseline"),
    ],
)
def test_a_network_must_beat_the_baseline_or_be_no_worse_than_a_nearly_perfect_one(
    samples: Any, auroc: float, ahead: Any, outcome: Outcome, reason: str
) -> None:
    verdict = judge_challenger("lung-ct/1", metrics(auroc=auroc, low=0.6, ahead=ahead), None, None, samples.PROMOTION)
    assert verdict.outcome is outcome
    assert any(line.startswith(reason) for line in verdict.reasons), verdict.reasons


def test_limits_of_the_baseline_check_are_settings(samples: Any) -> None:
    """A baseline of 0.92 counts as nearly perfect with `room_baseline` 0.10; a wider margin allows a wider interval."""
    evaluation = metrics(auroc=0.92, ahead=(0.0, -0.08, 0.05))
    for changes, outcome in (
        ({}, "inconclusive"),
        ({"room_baseline": 0.1}, "inconclusive"),
        ({"room_baseline": 0.1, "margin_baseline": 0.1}, "pass"),
    ):
        verdict = judge_challenger("lung-ct/1", evaluation, None, None, replace(samples.PROMOTION, **changes))
        assert verdict.outcome.value == outcome
        assert verdict.thresholds["room_baseline"] == changes.get("room_baseline", 0.03)


def test_a_lead_over_the_baseline_with_few_patients_names_the_needed_number(samples: Any) -> None:
    verdict = judge_challenger("lung-ct/1", metrics(ahead=(0.1, -0.05, 0.25)), None, None, samples.PROMOTION)
    assert "about 145 test clusters would be needed" in verdict.reasons[0]
    unknown = metrics() | {"baseline": {"model": "x", "difference": dict.fromkeys(("value", "low", "high"))}}
    verdict = judge_challenger("lung-ct/1", unknown, None, None, samples.PROMOTION)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "too few test patients to compare" in verdict.reasons[0]


def test_a_challenger_that_is_behind_the_baseline_fails_whatever_the_champion_is(samples: Any) -> None:
    challenger, rival = samples.pair(120, 2, auroc=0.7, gain=0.29)
    figures = compare(challenger, rival, samples.PROMOTION, "champion 1")
    behind = metrics(0.90, ahead=(-0.09, -0.12, -0.05))
    assert judge_challenger("t/9", behind, figures, None, samples.PROMOTION).outcome is Outcome.FAIL


def test_an_evaluation_without_baseline_is_inconclusive(samples: Any) -> None:
    verdict = judge_challenger("lung-ct/1", metrics() | {"baseline": None}, None, None, samples.PROMOTION)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "no baseline" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("value", "high", "outcome"),
    [
        (0.5, 0.6, Outcome.PASS),
        (0.49, 0.6, Outcome.INCONCLUSIVE),
        (0.3, 0.5, Outcome.INCONCLUSIVE),
        (0.15, 0.25, Outcome.FAIL),
    ],
)
def test_a_model_that_withholds_most_answers_does_not_pass(
    samples: Any, value: float, high: float, outcome: Outcome
) -> None:
    evaluation = metrics()
    evaluation["test"] |= {
        "coverage": {"value": value, "low": 0.0, "high": high},
        "withheld": {"low confidence": 0, "several classes are possible": 61, "no class fits": 3},
    }
    verdict = judge_challenger("lung-ct/1", evaluation, None, None, samples.PROMOTION)
    assert verdict.outcome is outcome
    assert verdict.figures["coverage"]["value"] == value
    if outcome is not Outcome.PASS:
        assert f"would answer {value:.3f} of the test units (at most {high:.3f})" in verdict.reasons[0]
        assert "61 because several classes are possible, 3 because no class fits" in verdict.reasons[0]


def test_an_evaluation_without_coverage_is_inconclusive(samples: Any) -> None:
    evaluation = metrics()
    del evaluation["test"]["coverage"]
    verdict = judge_challenger("lung-ct/1", evaluation, None, None, samples.PROMOTION)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "answered test units is unknown" in verdict.reasons[0]


def further_baseline(auroc: float, gap: tuple[float, float, float]) -> dict[str, Any]:
    value, low, high = gap
    return {
        "status": "known",
        "clusters": MANY,
        "auroc": {"value": auroc, "low": auroc - 0.1, "high": 1.0},
        "network_auroc": auroc + value,
        "difference": {"value": value, "low": low, "high": high},
    }


@pytest.mark.parametrize(
    ("auroc", "gap", "outcome", "reason"),
    [
        (0.60, (0.2, 0.1, 0.3), Outcome.PASS, "the network is not behind the baselines slice position"),
        (0.985, (0.0, -0.02, 0.02), Outcome.PASS, "the network is not behind the baselines slice position"),
        (0.985, (-0.03, -0.05, 0.02), Outcome.INCONCLUSIVE, "the network is not shown to beat slice position alone"),
        (0.60, (0.1, 0.0, 0.3), Outcome.INCONCLUSIVE, "the network is not shown to beat slice position alone"),
        (0.985, (-0.03, -0.06, 0.02), Outcome.INCONCLUSIVE, "the network is not shown to beat slice position alone"),
        (0.771, (0.028, -0.05, 0.1), Outcome.INCONCLUSIVE, "AUROC 0.799 against 0.771, difference +0.028"),
        (0.925, (-0.128, -0.2, -0.05), Outcome.INCONCLUSIVE, "AUROC 0.797 against 0.925, difference -0.128"),
    ],
)
def test_a_network_that_a_simple_fact_equals_is_inconclusive(
    samples: Any, auroc: float, gap: Any, outcome: Outcome, reason: str
) -> None:
    evaluation = metrics() | {"baselines": {"slice position": further_baseline(auroc, gap)}}
    verdict = judge_challenger("lung-ct/1", evaluation, None, None, samples.PROMOTION)
    assert verdict.outcome is outcome
    assert any(reason in line for line in verdict.reasons), verdict.reasons


def test_a_baseline_without_patients_decides_nothing(samples: Any) -> None:
    missing = {"status": "unknown", "reason": "no unit has a lesion size"}
    evaluation = metrics() | {"baselines": {"lesion size": missing}}
    verdict = judge_challenger("lung-ct/1", evaluation, None, None, samples.PROMOTION)
    assert verdict.outcome is Outcome.PASS
    assert "not compared with the baselines lesion size (no unit has a lesion size)" in verdict.reasons


def test_readers_learn_which_baselines_the_network_does_not_beat() -> None:
    evaluation = metrics(ahead=(0.02, -0.1, 0.2)) | {
        "baselines": {
            "slice position": further_baseline(0.6, (0.2, 0.1, 0.3)),
            "lesion size": further_baseline(0.925, (-0.1, -0.2, -0.05)),
            "texture": further_baseline(0.8, (0.0, 0.0, 0.0)),
            "header facts": {"status": "unknown", "reason": "all scans have the same header facts"},
        }
    }
    assert list(gate_checks.equal_baselines(evaluation)) == ["intensity", "lesion size", "texture"]
    assert gate_checks.equal_baselines(metrics()) == {}


def judge(samples: Any, challenger: Any, rival: Any, anchor: Any = None, **changes: Any) -> Verdict:
    settings = replace(samples.PROMOTION, **changes)
    champion = compare(challenger, rival, settings, "champion 1")
    anchor_comparison = champion if anchor is None else compare(challenger, anchor, settings, "anchor 1")
    auroc = champion["cohorts"]["overall"]["auroc"]["challenger"]
    return judge_challenger("lung-ct/2", metrics(auroc), champion, anchor_comparison, settings)


def test_a_first_model_passes_above_the_floor(samples: Any) -> None:
    verdict = judge_challenger("lung-ct/1", metrics(), None, None, samples.PROMOTION)
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("training", "lung-ct/1", Outcome.PASS)
    assert verdict.thresholds["floor_auroc"] == 0.6
    assert any("no champion to beat" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("evaluation", "outcome", "reason"),
    [
        (metrics(auroc=0.59, low=0.55), Outcome.FAIL, "test AUROC 0.590 (0.550 to"),
        (metrics(auroc=0.7, low=0.48), Outcome.INCONCLUSIVE, "is not distinguishable from chance"),
        (metrics(clusters=9, positive=5), Outcome.INCONCLUSIVE, "9 clusters, and 10 are needed"),
        (metrics(positive=3), Outcome.INCONCLUSIVE, "3 clusters with a positive unit, and 4 are needed"),
        (metrics(positive=38), Outcome.INCONCLUSIVE, "2 clusters with a negative unit"),
        (metrics(auroc=None, low=None, positive=0), Outcome.INCONCLUSIVE, "only positive or only negative patients"),
    ],
)
def test_a_first_model_is_stopped_with_a_reason(samples: Any, evaluation: Any, outcome: Outcome, reason: str) -> None:
    verdict = judge_challenger("lung-ct/1", evaluation, None, None, samples.PROMOTION)
    assert verdict.outcome is outcome
    assert reason in verdict.reasons[0]


def test_the_floor_holds_for_a_challenger_too(samples: Any) -> None:
    positive = np.arange(MANY) < 16
    noise = np.random.default_rng(0).uniform(size=MANY)
    verdict = judge(samples, samples.judged(noise, positive), samples.judged(1 - noise, positive), floor_auroc=0.99)
    assert verdict.outcome is Outcome.FAIL


def new_scanner_pair(samples: Any, seed: int, old: int = 36, new: int = 24) -> tuple[Any, Any]:
    """A challenger with AUROC 0.97 on old and new data, and a champion that is random on a new scanner."""
    epochs = np.repeat([1, 2], [old, new])
    challenger, rival = samples.pair(old + new, seed, epochs=epochs)
    random = np.random.default_rng(seed)
    rival.loc[epochs == 2, "score"] = random.uniform(size=new)
    return challenger, rival.assign(flagged=(rival["score"] >= 0.5).astype(int))


def test_a_large_gain_on_a_new_scanner_passes_with_the_shipped_thresholds(samples: Any) -> None:
    passed = [judge(samples, *new_scanner_pair(samples, seed)).outcome is Outcome.PASS for seed in range(40)]
    assert np.mean(passed) >= 0.6


def test_a_pass_has_its_reasons(samples: Any) -> None:
    verdicts = [judge(samples, *new_scanner_pair(samples, seed)) for seed in range(10)]
    passed = [candidate for candidate in verdicts if candidate.outcome is Outcome.PASS]
    verdict = next(
        candidate for candidate in passed if any("on the newest test cohort" in reason for reason in candidate.reasons)
    )
    assert any("superior to champion 1 on the newest test cohort AUROC +0." in reason for reason in verdict.reasons)
    assert any("not inferior to champion 1 on the anchor cohort" in reason for reason in verdict.reasons)
    assert verdict.figures["champion"]["cohorts"]["newest"]["clusters"] == 24


def test_equal_challengers_hardly_ever_pass(samples: Any) -> None:
    epochs = np.repeat([1, 2], [40, 30])
    verdicts = [judge(samples, *samples.pair(70, seed, auroc=0.9, epochs=epochs), bootstrap=200) for seed in range(60)]
    assert np.mean([verdict.outcome is Outcome.PASS for verdict in verdicts]) <= 0.08
    assert not [verdict for verdict in verdicts if verdict.outcome is Outcome.FAIL]


def test_a_sham_challenger_fails(samples: Any) -> None:
    for seed in range(10):
        _, rival = samples.pair(60, seed)
        noise = np.random.default_rng(seed).uniform(size=60)
        verdict = judge(samples, samples.judged(noise, rival["positive"].to_numpy(bool)), rival, floor_auroc=0.0)
        assert verdict.outcome is Outcome.FAIL
        assert "AUROC is worse than that of champion 1 by more than 0.05" in verdict.reasons[0]


def test_better_on_new_data_but_worse_than_the_anchor_fails(samples: Any) -> None:
    """A decline in small steps is measured against the anchor, not against the last champion."""
    challenger, rival = new_scanner_pair(samples, 1)
    old = (challenger["epoch"] == 1).to_numpy()
    for table in (challenger, rival):
        table.loc[old, "score"] = np.random.default_rng(5).uniform(size=int(old.sum()))
    anchor = samples.pair(len(challenger), 1, epochs=challenger["epoch"].to_numpy())[1]
    verdict = judge(samples, challenger, rival, anchor)
    assert verdict.outcome is Outcome.FAIL
    assert "anchor 1" in verdict.reasons[0]


def test_an_inconclusive_verdict_names_the_needed_number(samples: Any) -> None:
    verdicts = [judge(samples, *samples.pair(30, seed, auroc=0.85, shared=0.5)) for seed in range(5)]
    reasons = [reason for verdict in verdicts if verdict.outcome is Outcome.INCONCLUSIVE for reason in verdict.reasons]
    assert any("test clusters would be needed" in reason for reason in reasons)


def test_a_small_new_cohort_is_named_and_the_test_set_decides(samples: Any) -> None:
    challenger, rival = new_scanner_pair(samples, 2, old=52, new=8)
    verdict = judge(samples, challenger, rival)
    assert any("newest test cohort has 8 clusters" in reason for reason in verdict.reasons) or (
        verdict.outcome is Outcome.PASS and any("on the whole test set" in reason for reason in verdict.reasons)
    )


def test_a_small_anchor_cohort_decides_nothing(samples: Any) -> None:
    challenger, rival = new_scanner_pair(samples, 3, old=8, new=52)
    verdict = judge(samples, challenger, rival)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the anchor cohort has 8 clusters" in verdict.reasons[0]


def test_lost_sensitivity_on_old_patients_is_no_pass(samples: Any) -> None:
    challenger, rival = new_scanner_pair(samples, 4)
    old_positive = (challenger["epoch"] == 1) & (challenger["positive"] == 1)
    challenger.loc[old_positive, "flagged"] = (np.arange(int(old_positive.sum())) % 3 > 0).astype(int)
    rival.loc[old_positive, "flagged"] = 1
    verdict = judge(samples, challenger, rival)
    assert verdict.outcome is not Outcome.PASS
    assert any("ensitivity" in reason for reason in verdict.reasons)


def test_every_verdict_has_a_reason_and_can_be_stored_as_json(samples: Any) -> None:
    import json

    from lineage.record.verdict import from_dict

    for seed in range(4):
        verdict = judge(samples, *samples.pair(FEW, seed))
        assert verdict.reasons
        assert from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False))).outcome is verdict.outcome


def test_a_sensitivity_shown_to_be_under_the_floor_fails(samples: Any) -> None:
    for sensitivity, outcome in ((0.1, Outcome.FAIL), (0.4, Outcome.INCONCLUSIVE), (0.6, Outcome.PASS)):
        verdict = judge_challenger("lung-ct/1", metrics(sensitivity=sensitivity), None, None, samples.PROMOTION)
        assert verdict.outcome is outcome
        assert ("floor of 0.5" in verdict.reasons[0]) is (outcome is not Outcome.PASS)


def chain(samples: Any, seed: int, length: int) -> list[Verdict]:
    """A champion and challengers that are no better, compared one after the other on one test cohort."""
    settings = replace(samples.PROMOTION, bootstrap=200, looks_per_year=4)
    _, champion = samples.pair(120, seed, auroc=0.9)
    verdicts: list[Verdict] = []
    for number in range(length):
        challenger, _ = samples.pair(120, seed, auroc=0.9)
        own_noise = np.random.default_rng([seed, number]).normal(0, 0.02, 120)
        challenger = challenger.assign(
            score=np.clip(champion["score"] + own_noise, 0, 1), positive=champion["positive"]
        )
        records = [(f"2026-01-{day + 1:02d}T00:00:00Z", verdict.to_dict()) for day, verdict in enumerate(verdicts)]
        past = test_set_budget.read_looks(records, "lung-ct", "2026-02-01T00:00:00Z")
        figures = compare(challenger, champion, settings, "champion 1", decided=test_set_budget.decided_batches(past))
        verdicts.append(judge_challenger(f"lung-ct/{number + 2}", metrics(0.9), figures, figures, settings, past))
    return verdicts


def test_a_cohort_used_too_often_needs_new_patients(samples: Any) -> None:
    verdicts = chain(samples, 1, 5)
    levels = [verdict.figures["looks"][0]["level"] for verdict in verdicts]
    assert levels == sorted(levels, reverse=True)
    assert levels[3] > 0 == levels[4]
    assert sum(levels) == pytest.approx(0.05)
    assert not any("admit a batch with new patients" in reason for reason in verdicts[3].reasons)
    assert any("were used in 4 verdicts of a year" in reason for reason in verdicts[4].reasons)
    assert verdicts[4].outcome is Outcome.INCONCLUSIVE


def test_a_certain_gain_without_budget_is_inconclusive(samples: Any) -> None:
    challenger, rival = samples.pair(120, 2, auroc=0.7, gain=0.29)
    figures = compare(challenger, rival, samples.PROMOTION, "champion 1")
    assert judge_challenger("t/9", metrics(0.98), figures, None, samples.PROMOTION).outcome is Outcome.PASS
    past = [test_set_budget.Look(f"t/{number}", ("first",), 0.0) for number in range(20)]
    assert (
        judge_challenger("t/9", metrics(0.98), figures, None, samples.PROMOTION, past).outcome is Outcome.INCONCLUSIVE
    )


def test_a_fresh_batch_of_an_old_epoch_is_the_newest_cohort_and_has_its_own_budget(samples: Any) -> None:
    challenger, rival = samples.pair(160, 3, auroc=0.8, gain=0.18, epochs=np.repeat([1, 2], [60, 100]))
    batch = np.repeat(["first", "second", "third"], [60, 60, 40])
    challenger, rival = challenger.assign(batch=batch), rival.assign(batch=batch)
    past = [test_set_budget.Look(f"t/{number}", ("first", "second"), 0.0025) for number in range(20)]
    settings = samples.PROMOTION
    figures = compare(challenger, rival, settings, "champion 1", decided=test_set_budget.decided_batches(past))
    assert figures["cohorts"]["newest"]["batches"] == ["third"]
    looks = {
        look["cohort"]: look
        for look in judge_challenger("t/9", metrics(), figures, None, settings, past).figures["looks"]
    }
    assert looks["newest"]["number"] == 1
    assert looks["newest"]["level"] > 0 == looks["overall"]["level"]
    again = compare(challenger, rival, settings, "champion 1", decided={"first", "second", "third"})
    assert again["cohorts"]["newest"]["batches"] == ["second", "third"]


def test_looks_are_counted_from_the_ledger(samples: Any, home: Path) -> None:
    """Verdicts recorded in a real ledger and read back."""
    from lineage.record import database, ledger

    challenger, rival = samples.pair(60, 4)
    figures = compare(challenger, rival, samples.PROMOTION, "champion 1")
    for version in (2, 3):
        ledger.record_verdict(
            judge_challenger(f"lung-ct/{version}", metrics(), figures, None, samples.PROMOTION), task="lung-ct"
        )
    ledger.record_verdict(judge_challenger("brain-mr/2", metrics(), figures, None, samples.PROMOTION), task="brain-mr")
    records = [(event.at, event.payload) for event in ledger.events(kind=EventKind.VERDICT)]
    past = test_set_budget.read_looks(records, "lung-ct", database.now())
    assert [(look.verdict, look.batches) for look in past] == [("lung-ct/2", ("first",)), ("lung-ct/3", ("first",))]
    third = judge_challenger("lung-ct/4", metrics(), figures, None, samples.PROMOTION, past)
    assert third.figures["looks"][0]["number"] == 3
