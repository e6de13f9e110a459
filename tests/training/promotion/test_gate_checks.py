"""What a better AUROC may hide is found: lost tumours, lost calibration, a worse slice, a forgotten epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from lineage.record.verdict import Outcome
from training.promotion import gate_checks
from training.promotion.comparison import compare
from training.promotion.gate_findings import Findings


def found(check: Any, samples: Any, mine: pd.DataFrame, theirs: pd.DataFrame) -> list[tuple[Outcome, str]]:
    findings = Findings()
    check(findings, compare(mine, theirs, samples.PROMOTION, "champion 1"), samples.PROMOTION)
    return findings.reasons


def outcomes(reasons: list[tuple[Outcome, str]]) -> set[Outcome]:
    return {outcome for outcome, _ in reasons}


def test_tumours_lost_one_by_one_are_seen_by_mcnemar(samples: Any) -> None:
    """Six of 80 lost and none won is within the margin, but not chance."""
    mine, theirs = samples.pair(200, 1)
    positive = np.flatnonzero(mine["positive"] == 1)
    theirs = theirs.assign(flagged=1)
    mine = mine.assign(flagged=1)
    mine.loc[positive[:6], "flagged"] = 0
    reasons = found(gate_checks.sensitivity, samples, mine, theirs)
    assert outcomes(reasons) == {Outcome.INCONCLUSIVE}
    assert "6 patients with a tumour lost and 0 won, p 0.016" in reasons[0][1]
    assert len(reasons) == 1  # the anchor is the whole side here: said once
    mine.loc[positive[2:6], "flagged"] = 1
    assert not found(gate_checks.sensitivity, samples, mine, theirs)


def test_an_overconfident_challenger_is_seen_by_its_brier_score(samples: Any) -> None:
    mine, theirs = samples.pair(200, 2, auroc=0.85)
    sharp = mine.assign(score=expit(20 * logit(mine["score"])))  # the same ranks
    reasons = found(gate_checks.calibration, samples, sharp, theirs)
    assert outcomes(reasons) == {Outcome.FAIL}
    assert "calibration is worse by more than 0.05" in reasons[0][1]
    assert outcomes(found(gate_checks.calibration, samples, mine, theirs)) == {Outcome.PASS}


def test_calibration_that_few_patients_cannot_tell_is_inconclusive(samples: Any) -> None:
    mine, theirs = samples.pair(20, 3, auroc=0.75, shared=0.1)
    reasons = found(gate_checks.calibration, samples, mine, theirs)
    assert outcomes(reasons) == {Outcome.INCONCLUSIVE}
    assert "could be worse" in reasons[0][1]


def test_a_slice_that_lost_what_others_won_fails(samples: Any) -> None:
    mine, theirs = samples.pair(240, 4, auroc=0.9)
    site = np.where(np.arange(240) % 4 == 0, "south", "north")
    mine, theirs = mine.assign(site=site), theirs.assign(site=site)
    assert outcomes(found(gate_checks.slices, samples, mine, theirs)) == {Outcome.PASS}
    noise = np.random.default_rng(4).uniform(size=240)
    mine = mine.assign(score=np.where(site == "south", noise, mine["score"]))
    reasons = found(gate_checks.slices, samples, mine, theirs)
    assert Outcome.FAIL in outcomes(reasons)
    assert any("worse than that of champion 1 on site south" in reason for _, reason in reasons)


def test_an_epoch_that_was_forgotten_fails(samples: Any) -> None:
    epochs = np.repeat([1, 2, 3], 80)
    mine, theirs = samples.pair(240, 5, auroc=0.9, epochs=epochs)
    noise = np.random.default_rng(5).uniform(size=240)
    mine = mine.assign(score=np.where(epochs == 2, noise, mine["score"]))
    reasons = found(gate_checks.slices, samples, mine, theirs)
    assert any(outcome is Outcome.FAIL and "on epoch 2" in reason for outcome, reason in reasons)
    assert not any("on epoch 1" in reason for _, reason in reasons)


def test_slices_of_equal_models_seldom_raise_an_alarm(samples: Any) -> None:
    alarms = 0
    for seed in range(60):
        mine, theirs = samples.pair(120, 100 + seed, auroc=0.85)
        random = np.random.default_rng(seed)
        facts = {"site": random.choice(["a", "b", "c"], 120), "sex": random.choice(["F", "M"], 120)}
        reasons = found(gate_checks.slices, samples, mine.assign(**facts), theirs.assign(**facts))
        alarms += outcomes(reasons) != {Outcome.PASS}
    assert alarms <= 7  # 5 % of 60 are 3


def test_slices_with_too_few_patients_are_named(samples: Any) -> None:
    mine, theirs = samples.pair(60, 6)
    site = np.where(np.arange(60) < 4, "tiny", "large")
    reasons = found(gate_checks.slices, samples, mine.assign(site=site), theirs.assign(site=site))
    assert (Outcome.PASS, "too few patients to tell: site tiny") in reasons
