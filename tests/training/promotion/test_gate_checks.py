"""Checks beyond AUROC: lost tumours, lost calibration, a worse subgroup, a forgotten epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from lineage.record.verdict import Outcome
from training.promotion import gate_checks
from training.promotion.comparison import compare
from training.promotion.gate_findings import Findings


def run_check(check: Any, samples: Any, challenger: pd.DataFrame, rival: pd.DataFrame) -> list[tuple[Outcome, str]]:
    findings = Findings()
    check(findings, compare(challenger, rival, samples.PROMOTION, "champion 1"), samples.PROMOTION)
    return findings.reasons


def outcomes(reasons: list[tuple[Outcome, str]]) -> set[Outcome]:
    return {outcome for outcome, _ in reasons}


def test_many_lost_tumours_are_detected_by_mcnemar(samples: Any) -> None:
    """Six of 80 lost and none won is within the margin, but significant."""
    challenger, rival = samples.pair(200, 1)
    positive = np.flatnonzero(challenger["positive"] == 1)
    rival = rival.assign(flagged=1)
    challenger = challenger.assign(flagged=1)
    challenger.loc[positive[:6], "flagged"] = 0
    reasons = run_check(gate_checks.check_sensitivity, samples, challenger, rival)
    assert outcomes(reasons) == {Outcome.INCONCLUSIVE}
    assert "6 patients with a tumour lost and 0 won, p 0.016" in reasons[0][1]
    assert len(reasons) == 1  # anchor cohort and test set are the same here: one reason
    challenger.loc[positive[2:6], "flagged"] = 1
    assert not run_check(gate_checks.check_sensitivity, samples, challenger, rival)


def test_an_overconfident_challenger_is_detected_by_its_brier_score(samples: Any) -> None:
    challenger, rival = samples.pair(200, 2, auroc=0.85)
    sharp = challenger.assign(score=expit(20 * logit(challenger["score"])))  # the same ranks
    reasons = run_check(gate_checks.check_calibration, samples, sharp, rival)
    assert outcomes(reasons) == {Outcome.FAIL}
    assert "calibration is worse by more than 0.05" in reasons[0][1]
    assert outcomes(run_check(gate_checks.check_calibration, samples, challenger, rival)) == {Outcome.PASS}


def test_calibration_of_few_patients_is_inconclusive(samples: Any) -> None:
    challenger, rival = samples.pair(20, 3, auroc=0.75, shared=0.1)
    reasons = run_check(gate_checks.check_calibration, samples, challenger, rival)
    assert outcomes(reasons) == {Outcome.INCONCLUSIVE}
    assert "could be worse" in reasons[0][1]


def test_a_subgroup_with_a_large_loss_fails(samples: Any) -> None:
    challenger, rival = samples.pair(240, 4, auroc=0.9)
    site = np.where(np.arange(240) % 4 == 0, "south", "north")
    challenger, rival = challenger.assign(site=site), rival.assign(site=site)
    assert outcomes(run_check(gate_checks.check_subgroups, samples, challenger, rival)) == {Outcome.PASS}
    noise = np.random.default_rng(4).uniform(size=240)
    challenger = challenger.assign(score=np.where(site == "south", noise, challenger["score"]))
    reasons = run_check(gate_checks.check_subgroups, samples, challenger, rival)
    assert Outcome.FAIL in outcomes(reasons)
    assert any("worse than that of champion 1 on site south" in reason for _, reason in reasons)


def test_a_forgotten_epoch_fails(samples: Any) -> None:
    epochs = np.repeat([1, 2, 3], 80)
    challenger, rival = samples.pair(240, 5, auroc=0.9, epochs=epochs)
    noise = np.random.default_rng(5).uniform(size=240)
    challenger = challenger.assign(score=np.where(epochs == 2, noise, challenger["score"]))
    reasons = run_check(gate_checks.check_subgroups, samples, challenger, rival)
    assert any(outcome is Outcome.FAIL and "on epoch 2" in reason for outcome, reason in reasons)
    assert not any("on epoch 1" in reason for _, reason in reasons)


def test_subgroups_of_equal_models_seldom_raise_an_alarm(samples: Any) -> None:
    alarms = 0
    for seed in range(60):
        challenger, rival = samples.pair(120, 100 + seed, auroc=0.85)
        random = np.random.default_rng(seed)
        facts = {"site": random.choice(["a", "b", "c"], 120), "sex": random.choice(["F", "M"], 120)}
        reasons = run_check(gate_checks.check_subgroups, samples, challenger.assign(**facts), rival.assign(**facts))
        alarms += outcomes(reasons) != {Outcome.PASS}
    assert alarms <= 7  # 5 % of 60 are 3


def test_subgroups_with_too_few_patients_are_named(samples: Any) -> None:
    challenger, rival = samples.pair(60, 6)
    site = np.where(np.arange(60) < 4, "tiny", "large")
    reasons = run_check(gate_checks.check_subgroups, samples, challenger.assign(site=site), rival.assign(site=site))
    assert (Outcome.PASS, "too few patients to tell: site tiny") in reasons
