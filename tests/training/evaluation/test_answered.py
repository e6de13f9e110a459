"""Which units are answered, by the rules of the serving gate."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.record.verdict import Outcome
from serving.inference import gate
from training.evaluation import answered

CONFORMAL = {
    "status": "calibrated",
    "level": 0.9,
    "classes": {"a": {"quantile": 0.4, "status": "calibrated"}, "b": {"quantile": 0.7, "status": "calibrated"}},
}


def test_each_reason_is_named() -> None:
    class_probabilities = np.array([[0.9, 0.1], [0.65, 0.35], [0.2, 0.8], [0.5, 0.5]], np.float32)
    assert answered.withheld_reasons(class_probabilities, CONFORMAL, 0.0).tolist() == [
        "",
        "several classes are possible",
        "",
        "",
    ]
    assert answered.withheld_reasons(class_probabilities, CONFORMAL, 0.85).tolist() == [
        "",
        "low confidence",
        "low confidence",
        "low confidence",
    ]
    narrow = CONFORMAL | {"classes": {name: {"quantile": 0.05, "status": "calibrated"} for name in "ab"}}
    assert set(answered.withheld_reasons(class_probabilities, narrow, 0.0)) == {"no class fits"}


@pytest.mark.parametrize("conformal", [None, CONFORMAL | {"status": "not calibratable"}])
def test_without_quantiles_only_confidence_withholds(conformal: dict[str, object] | None) -> None:
    class_probabilities = np.array([[0.9, 0.1], [0.55, 0.45]], np.float32)
    assert answered.withheld_reasons(class_probabilities, conformal, 0.6).tolist() == ["", "low confidence"]


def test_it_decides_as_the_serving_gate() -> None:
    random = np.random.default_rng(0)
    first = random.uniform(size=200).astype(np.float32)
    class_probabilities = np.column_stack([first, 1 - first])
    reasons = answered.withheld_reasons(class_probabilities, CONFORMAL, 0.6)
    for row, reason in zip(class_probabilities, reasons, strict=True):
        possible = [
            name for name, p in zip("ab", row, strict=True) if 1 - float(p) <= CONFORMAL["classes"][name]["quantile"]
        ]
        verdict = gate.judge_scan(
            "task",
            modality=("", "CT"),
            body_part=("", ()),
            confidence=(float(row.max()), 0.6),
            distance=(0.0, 1.0),
            contrast=1.0,
            conformal_set=(possible, 0.9),
        )
        assert (verdict.outcome is Outcome.PASS) == (reason == "")
