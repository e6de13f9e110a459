"""The watch asks for retraining when it must, carries on when it may, and says what is missing otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.record import Task
from lineage.verdict import Outcome
from monitoring.drift import Drift
from monitoring.gate import ask
from monitoring.settings import MonitoringSettings

NO_LABELS = {"labelled": 0, "abstained": 0, "clusters": 0, "wanted_sensitivity": 0.9, "sensitivity": None}


def column(name: str, kind: str = "level", **changed: Any) -> dict[str, Any]:
    figures = {
        "name": name, "kind": kind, "t": 9.0, "p": 0.001, "reference": 1.0, "window": 4.1, "sd": 3.1, "spread": 1.0,
        "missing_reference": 0.0, "missing_window": 0.0,
    }  # fmt: skip
    return figures | changed


def moved(p: float, **changed: Any) -> Drift:
    figures: dict[str, Any] = {
        "p": p,
        "families": {"embedding": {"p": p / 3}, "description": {"p": 0.5}, "score": {"p": None}},
        "columns": [
            column("noise"),
            column("row_spacing", sd=-0.44),
            column("edge", "spread", spread=2.34),
            column("4th"),
        ],
        "unseen": [],
        "clusters": {"reference": 60, "window": 40},
        "rows": {"reference": 200, "window": 80, "per_cluster": 1},
        "smallest_p": 0.0015,
    }
    return Drift(figures | changed, Path("page.html"))


def late(low: float, value: float, high: float) -> dict[str, Any]:
    figures = {"value": value, "low": low, "high": high, "cases": 30, "clusters": 25}
    return NO_LABELS | {"labelled": 60, "sensitivity": figures}


def test_drift_beyond_chance_asks_for_retraining_and_names_what_moved(task: Task, settings: MonitoringSettings) -> None:
    verdict = ask(task, moved(0.0015), NO_LABELS, settings, 40)
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("monitoring", "lung-ct", Outcome.FAIL)
    assert verdict.reasons[1:] == (
        "noise is 3.1 SD higher than in the reference patients",
        "row spacing is 0.4 SD lower than in the reference patients",
        "edge varies 2.3 times as widely as in the reference patients",
    )
    assert "together p = 0.0015" in verdict.reasons[0]


def test_no_drift_passes(task: Task, settings: MonitoringSettings) -> None:
    verdict = ask(task, moved(0.3), NO_LABELS, settings, 40)
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons[0].startswith("No drift beyond chance over 40 patients")


def test_a_new_manufacturer_is_said_but_does_not_decide(task: Task, settings: MonitoringSettings) -> None:
    unseen = [{"fact": "manufacturer", "value": "Other", "rows": 12}]
    verdict = ask(task, moved(0.3, unseen=unseen), NO_LABELS, settings, 40)
    assert verdict.outcome is Outcome.PASS
    assert "manufacturer 'Other' (12 of 80 predictions) was never seen in the reference patients" in verdict.reasons


@pytest.mark.parametrize("drift", [None, moved(0.0001)])
def test_too_few_patients_are_inconclusive(task: Task, settings: MonitoringSettings, drift: Drift | None) -> None:
    verdict = ask(task, drift, NO_LABELS, settings, 19)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "19 patients; 20 are needed" in verdict.reasons[0]


def test_a_test_that_can_never_alarm_is_inconclusive(task: Task, settings: MonitoringSettings) -> None:
    verdict = ask(task, moved(0.03, smallest_p=0.03), NO_LABELS, replace(settings, permutations=99), 40)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no p-value under 0.01 can be reached" in verdict.reasons[0]


def test_a_window_that_could_not_be_compared_is_inconclusive(task: Task, settings: MonitoringSettings) -> None:
    assert ask(task, None, NO_LABELS, settings, 40).outcome is Outcome.INCONCLUSIVE
    assert ask(task, Drift({"p": None}, Path("page.html")), NO_LABELS, settings, 40).outcome is Outcome.INCONCLUSIVE


def test_late_labels_that_rule_out_the_wanted_sensitivity_ask_for_retraining(
    task: Task, settings: MonitoringSettings
) -> None:
    verdict = ask(task, moved(0.5), late(0.4, 0.6, 0.8), settings, 40)
    assert verdict.outcome is Outcome.FAIL
    assert "rule out the wanted sensitivity of 0.90" in verdict.reasons[-1]
    assert ask(task, None, late(0.4, 0.6, 0.8), settings, 5).outcome is Outcome.FAIL


def test_late_labels_within_reach_of_the_wanted_sensitivity_pass(task: Task, settings: MonitoringSettings) -> None:
    verdict = ask(task, moved(0.5), late(0.7, 0.85, 0.95), settings, 40)
    assert verdict.outcome is Outcome.PASS
    assert "do not rule out" in verdict.reasons[-1]


def test_shifts_without_a_spread_or_value_are_told_in_words(task: Task, settings: MonitoringSettings) -> None:
    columns = [
        column("slice_spacing", "missing", missing_window=0.8, missing_reference=0.05),
        column("rows", sd=None, spread=None, reference=512.0, window=256.0),
        column("age", "spread", sd=None, spread=None, reference=60.0, window=61.5),
    ]
    reasons = ask(task, moved(0.001, columns=columns), NO_LABELS, settings, 40).reasons
    assert reasons[1:] == (
        "slice spacing is missing in 80% of the window's scans, in 5% of the reference patients'",
        "rows is 256.0, but 512.0 in the reference patients",
        "age is 61.5, but 60.0 in the reference patients",
    )


def test_the_verdict_is_plain_json_with_its_thresholds(task: Task, settings: MonitoringSettings) -> None:
    verdict = ask(task, moved(0.0015), NO_LABELS, settings, 40).to_dict()
    assert json.loads(json.dumps(verdict)) == verdict
    assert verdict["thresholds"] == {"alpha": 0.01, "min_clusters": 20, "permutations": 2000, "sensitivity": 0.9}
    assert verdict["figures"]["drift"]["families"]["embedding"]["p"] == pytest.approx(0.0005)
