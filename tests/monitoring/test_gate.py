"""The monitoring gate: fail asks for retraining, pass does not, inconclusive says what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.core_types import Task
from lineage.record.verdict import Outcome
from monitoring.evidently_report import Drift
from monitoring.gate import describe_shifts, judge_window
from monitoring.settings import MonitoringSettings

NO_LABELS = {"labelled": 0, "abstained": 0, "clusters": 0, "wanted_sensitivity": 0.9, "sensitivity": None}


def column_figures(name: str, kind: str = "level", **values: Any) -> dict[str, Any]:
    figures = {
        "name": name,
        "kind": kind,
        "t": 9.0,
        "p": 0.001,
        "reference": 1.0,
        "window": 4.1,
        "sd": 3.1,
        "spread": 1.0,
        "missing_reference": 0.0,
        "missing_window": 0.0,
    }
    return figures | values


def drift_with(p: float, **values: Any) -> Drift:
    figures: dict[str, Any] = {
        "p": p,
        "families": {"embedding": {"p": p / 3}, "description": {"p": 0.5}, "score": {"p": None}},
        "columns": [
            column_figures("noise"),
            column_figures("row_spacing", sd=-0.44),
            column_figures("edge", "spread", spread=2.34),
            column_figures("4th"),
        ],
        "unseen": [],
        "clusters": {"reference": 60, "window": 40},
        "rows": {"reference": 200, "window": 80, "per_cluster": 1},
        "smallest_p": 0.0015,
    }
    return Drift(figures | values, Path("page.html"))


def late_label_figures(low: float, value: float, high: float) -> dict[str, Any]:
    figures = {"value": value, "low": low, "high": high, "cases": 30, "clusters": 25}
    return NO_LABELS | {"labelled": 60, "sensitivity": figures}


def test_drift_beyond_chance_fails_and_names_the_shifted_descriptions(task: Task, settings: MonitoringSettings) -> None:
    verdict = judge_window(task, drift_with(0.0015), NO_LABELS, settings, 40)
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("monitoring", "lung-ct", Outcome.FAIL)
    assert verdict.reasons[1:] == (
        "noise is 3.1 SD higher than in the reference patients",
        "row spacing is 0.4 SD lower than in the reference patients",
        "edge varies 2.3 times as widely as in the reference patients",
    )
    assert "together p = 0.0015" in verdict.reasons[0]


def test_no_drift_passes(task: Task, settings: MonitoringSettings) -> None:
    verdict = judge_window(task, drift_with(0.3), NO_LABELS, settings, 40)
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons[0].startswith("No drift beyond chance over 40 patients")


def test_a_new_manufacturer_is_a_reason_but_does_not_decide(task: Task, settings: MonitoringSettings) -> None:
    unseen = [{"fact": "manufacturer", "value": "Other", "rows": 12}]
    verdict = judge_window(task, drift_with(0.3, unseen=unseen), NO_LABELS, settings, 40)
    assert verdict.outcome is Outcome.PASS
    assert "manufacturer 'Other' (12 of 80 predictions) does not occur in the reference patients" in verdict.reasons


@pytest.mark.parametrize("drift", [None, drift_with(0.0001)])
def test_too_few_patients_are_inconclusive(task: Task, settings: MonitoringSettings, drift: Drift | None) -> None:
    verdict = judge_window(task, drift, NO_LABELS, settings, 19)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "19 patients; 20 are needed" in verdict.reasons[0]


def test_a_test_without_power_is_inconclusive(task: Task, settings: MonitoringSettings) -> None:
    verdict = judge_window(task, drift_with(0.03, smallest_p=0.03), NO_LABELS, replace(settings, permutations=99), 40)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no p-value under 0.01 can be reached" in verdict.reasons[0]


def test_a_window_that_could_not_be_compared_is_inconclusive(task: Task, settings: MonitoringSettings) -> None:
    assert judge_window(task, None, NO_LABELS, settings, 40).outcome is Outcome.INCONCLUSIVE
    assert (
        judge_window(task, Drift({"p": None}, Path("page.html")), NO_LABELS, settings, 40).outcome
        is Outcome.INCONCLUSIVE
    )


def test_late_labels_that_rule_out_the_wanted_sensitivity_fail(task: Task, settings: MonitoringSettings) -> None:
    verdict = judge_window(task, drift_with(0.5), late_label_figures(0.4, 0.6, 0.8), settings, 40)
    assert verdict.outcome is Outcome.FAIL
    assert "rule out the wanted sensitivity of 0.90" in verdict.reasons[-1]
    assert judge_window(task, None, late_label_figures(0.4, 0.6, 0.8), settings, 5).outcome is Outcome.FAIL


def test_late_labels_within_reach_of_the_wanted_sensitivity_pass(task: Task, settings: MonitoringSettings) -> None:
    verdict = judge_window(task, drift_with(0.5), late_label_figures(0.7, 0.85, 0.95), settings, 40)
    assert verdict.outcome is Outcome.PASS
    assert "do not rule out" in verdict.reasons[-1]


def test_shifts_without_a_spread_or_value_are_described(task: Task, settings: MonitoringSettings) -> None:
    columns = [
        column_figures("slice_spacing", "missing", missing_window=0.8, missing_reference=0.05),
        column_figures("rows", sd=None, spread=None, reference=512.0, window=256.0),
        column_figures("age", "spread", sd=None, spread=None, reference=60.0, window=61.5),
    ]
    reasons = judge_window(task, drift_with(0.001, columns=columns), NO_LABELS, settings, 40).reasons
    assert reasons[1:] == (
        "slice spacing is missing in 80% of the window's scans, in 5% of the reference patients'",
        "rows is 256.0, but 512.0 in the reference patients",
        "age is 61.5, but 60.0 in the reference patients",
    )


def test_the_verdict_is_plain_json_with_its_thresholds(task: Task, settings: MonitoringSettings) -> None:
    verdict = judge_window(task, drift_with(0.0015), NO_LABELS, settings, 40).to_dict()
    assert json.loads(json.dumps(verdict)) == verdict
    assert verdict["thresholds"] == {"alpha": 0.01, "min_clusters": 20, "permutations": 2000, "sensitivity": 0.9}
    assert verdict["figures"]["drift"]["families"]["embedding"]["p"] == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("changes", "clusters", "outcome", "reason"),
    [
        ({"p": 0.0099}, 20, Outcome.FAIL, "The window's scans differ from the reference patients' by more than chance"),
        ({"p": 0.01}, 20, Outcome.PASS, "No drift beyond chance over 20 patients: embedding p = 0.0033"),
        ({"p": 0.001}, 19, Outcome.INCONCLUSIVE, "The window has scans of 19 patients; 20 are needed"),
        ({"p": 0.001, "smallest_p": 0.0099}, 20, Outcome.FAIL, "by more than chance"),
        (
            {"p": 0.001, "smallest_p": 0.01},
            20,
            Outcome.INCONCLUSIVE,
            "With 60 reference patients, 20 patients in the "
            "window and 2000 permutations no p-value under 0.01 can be reached",
        ),
        ({"p": None}, 20, Outcome.INCONCLUSIVE, "The window could not be compared with the reference patients"),
    ],
)
def test_drift_at_its_limits(
    task: Task, settings: MonitoringSettings, changes: dict[str, Any], clusters: int, outcome: Outcome, reason: str
) -> None:
    drift = Drift({**drift_with(0.01).figures, **changes}, Path("page.html"))
    verdict = judge_window(task, drift, NO_LABELS, settings, clusters)
    assert verdict.outcome is outcome
    assert reason in verdict.reasons[0]
    assert verdict.figures["clusters"] == clusters
    assert verdict.figures["drift"]["p"] == changes["p"]


@pytest.mark.parametrize(
    ("high", "outcome", "reason"),
    [
        (
            0.8999,
            Outcome.FAIL,
            "The late labels rule out the wanted sensitivity of 0.90: sensitivity 0.80 (95 % "
            "interval 0.70 to 0.90) on 30 positive cases of 25 patients with late labels",
        ),
        (0.90, Outcome.PASS, "The late labels do not rule out the wanted sensitivity of 0.90: sensitivity 0.80"),
    ],
)
def test_late_labels_at_their_limit(
    task: Task, settings: MonitoringSettings, high: float, outcome: Outcome, reason: str
) -> None:
    verdict = judge_window(task, drift_with(0.5), late_label_figures(0.7, 0.8, high), settings, 40)
    assert verdict.outcome is outcome
    assert reason in verdict.reasons[-1]
    assert verdict.figures["outcomes"]["sensitivity"]["high"] == high


@pytest.mark.parametrize("missing", [{"sensitivity": None}, {"wanted_sensitivity": None}])
def test_without_late_labels_or_a_wanted_sensitivity_only_drift_decides(
    task: Task, settings: MonitoringSettings, missing: dict[str, None]
) -> None:
    verdict = judge_window(task, drift_with(0.5), late_label_figures(0.1, 0.2, 0.3) | missing, settings, 40)
    assert (verdict.outcome, len(verdict.reasons)) == (Outcome.PASS, 1)
    assert verdict.figures["drift"]["p"] == 0.5


def test_the_worse_of_drift_and_late_labels_decides(task: Task, settings: MonitoringSettings) -> None:
    for drift, high, clusters, outcome in (
        (0.001, 0.95, 40, Outcome.FAIL),
        (0.5, 0.8, 40, Outcome.FAIL),
        (0.5, 0.95, 5, Outcome.INCONCLUSIVE),
        (0.5, 0.95, 40, Outcome.PASS),
    ):
        assert (
            judge_window(task, drift_with(drift), late_label_figures(0.4, 0.6, high), settings, clusters).outcome
            is outcome
        )


def test_a_shift_is_described_with_its_direction_and_three_facts_are_named(
    task: Task, settings: MonitoringSettings
) -> None:
    columns = [
        column_figures("noise", sd=0.06),
        column_figures("edge", sd=-0.06),
        column_figures("more"),
        column_figures("width", "spread", spread=0.5),
    ]
    assert describe_shifts({"columns": columns}, 4) == [
        "noise is 0.1 SD higher than in the reference patients",
        "edge is 0.1 SD lower than in the reference patients",
        "more is 3.1 SD higher than in the reference patients",
        "width varies 0.5 times as widely as in the reference patients",
    ]
    assert len(describe_shifts({"columns": columns})) == 3
    unseen = [{"fact": "kernel_name", "value": f"B{number}", "rows": 9 - number} for number in range(4)]
    for p, first in ((0.3, 1), (0.001, 4)):
        reasons = judge_window(task, drift_with(p, unseen=unseen), NO_LABELS, settings, 40).reasons
        assert reasons[first:] == tuple(
            f"kernel name 'B{number}' ({9 - number} of 80 predictions) does not occur in the reference patients"
            for number in range(3)
        )


def test_families_that_could_not_be_measured_are_left_out_of_the_reason(
    task: Task, settings: MonitoringSettings
) -> None:
    reason = judge_window(task, drift_with(0.3), NO_LABELS, settings, 40).reasons[0]
    assert reason.endswith("embedding p = 0.1000, description p = 0.5000; together p = 0.3000")
    assert "score" not in reason
