"""What the manifest of a release says about its models."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.models import release


def comparison(low: float | None) -> dict[str, Any]:
    return {
        "status": "known",
        "auroc": {"value": 0.8, "low": 0.7, "high": 0.9},
        "difference": {"value": 0.05, "low": low, "high": 0.2},
    }


@pytest.mark.parametrize(
    ("intensity", "position", "note"),
    [
        (0.01, 0.01, ""),
        (0.01, 0.0, "On the test patients this model was not shown to be better than slice position alone."),
        (
            -0.1,
            -0.1,
            "On the test patients this model was not shown to be better than intensity or slice position alone.",
        ),
        (None, 0.01, ""),
    ],
)
def test_a_baseline_that_may_be_as_good_is_named_in_one_sentence(
    intensity: float | None, position: float, note: str
) -> None:
    missing = {"status": "unknown", "reason": "no unit has a lesion size"}
    metrics = {
        "baseline": comparison(intensity),
        "baselines": {"slice position": comparison(position), "lesion size": missing},
    }
    assert release.baseline_note(metrics) == note


def test_an_evaluation_of_an_older_version_has_no_note() -> None:
    assert release.baseline_note({"test": {}}) == ""
