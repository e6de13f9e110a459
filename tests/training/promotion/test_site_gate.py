"""The site gate."""

from __future__ import annotations

from typing import Any

import pytest

from lineage.record.verdict import Outcome
from training.promotion import site_gate
from training.settings import SiteSettings

SETTINGS = SiteSettings(
    min_positive_clusters=10,
    min_negative_clusters=12,
    floor_sensitivity=0.7,
    floor_specificity=0.6,
    floor_coverage=0.5,
)


def interval(value: float, half_width: float = 0.1) -> dict[str, float]:
    return {"value": value, "low": value - half_width, "high": min(1.0, value + half_width)}


def metrics(**changes: Any) -> dict[str, Any]:
    return {
        "positive_clusters": 15,
        "negative_clusters": 15,
        "sensitivity": interval(0.9),
        "specificity": interval(0.85),
        "coverage": interval(0.8),
        **changes,
    }


def test_a_good_site_passes() -> None:
    verdict = site_gate.judge_site("lung-ct at north", metrics(), SETTINGS)
    assert verdict.gate == "site"
    assert verdict.outcome is Outcome.PASS
    assert verdict.thresholds["floor_sensitivity"] == 0.7
    assert verdict.figures["sensitivity"]["value"] == 0.9


@pytest.mark.parametrize(
    ("changes", "outcome", "words"),
    [
        ({"positive_clusters": 9}, Outcome.INCONCLUSIVE, "9 positive"),
        ({"negative_clusters": 11}, Outcome.INCONCLUSIVE, "11 negative"),
        ({"positive_clusters": 10, "negative_clusters": 12}, Outcome.PASS, "10 positive"),
        ({"sensitivity": interval(0.75)}, Outcome.INCONCLUSIVE, "sensitivity 0.750 (0.650 to 0.850) is not shown"),
        ({"sensitivity": interval(0.5)}, Outcome.FAIL, "sensitivity 0.500 (0.400 to 0.600) is under the floor"),
        ({"sensitivity": {"value": None, "low": None, "high": None}}, Outcome.INCONCLUSIVE, "sensitivity is unknown"),
        ({"specificity": interval(0.65)}, Outcome.INCONCLUSIVE, "specificity 0.650"),
        ({"specificity": interval(0.3)}, Outcome.FAIL, "specificity 0.300"),
        ({"sensitivity": {"value": 0.9, "low": 0.7, "high": 1.0}}, Outcome.PASS, "sensitivity 0.900"),
        (
            {"sensitivity": {"value": 0.6, "low": 0.5, "high": 0.7}},
            Outcome.INCONCLUSIVE,
            "sensitivity 0.600 (0.500 to 0.700) is not shown",
        ),
        ({"coverage": interval(0.5)}, Outcome.PASS, "coverage 0.500"),
        ({"coverage": interval(0.45)}, Outcome.INCONCLUSIVE, "coverage 0.450"),
        ({"coverage": {"value": 0.4, "low": 0.3, "high": 0.5}}, Outcome.INCONCLUSIVE, "coverage 0.400"),
        ({"coverage": interval(0.3)}, Outcome.FAIL, "coverage 0.300"),
    ],
)
def test_a_shortage_or_a_low_figure_is_named(changes: dict[str, Any], outcome: Outcome, words: str) -> None:
    verdict = site_gate.judge_site("lung-ct at north", metrics(**changes), SETTINGS)
    assert verdict.outcome is outcome
    assert any(words in reason for reason in verdict.reasons)
    if outcome is not Outcome.PASS:
        assert words in verdict.reasons[0]


def test_decisive_reasons_come_first_and_each_is_given_once() -> None:
    verdict = site_gate.judge_site("lung-ct at north", metrics(coverage=interval(0.3)), SETTINGS)
    assert [reason.split()[0] for reason in verdict.reasons] == ["coverage", "the", "sensitivity", "specificity"]
