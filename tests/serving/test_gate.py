from __future__ import annotations

from typing import Any

import pytest

from lineage.verdict import Outcome, Verdict
from serving import gate

USUAL: dict[str, Any] = {
    "modality": ("CT", "CT"),
    "body_part": ("CHEST", ("CHEST", "LUNG")),
    "confidence": (0.9, 0.5),
    "distance": (1.0, 2.0),
    "contrast": 0.2,
}


def judged(**changed: Any) -> Verdict:
    return gate.answer("lung-ct", **USUAL | changed)


def test_a_usual_scan_is_answered_with_its_figures() -> None:
    verdict = judged()
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("serving", "lung-ct", Outcome.PASS)
    assert verdict.figures["distance"] == 1.0 and verdict.thresholds["outlier_distance"] == 2.0
    assert verdict.to_dict()["outcome"] == "pass"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"modality": ("MR", "CT")}, "the scan is MR, the task is for CT"),
        ({"body_part": ("HEAD", ("CHEST", "LUNG"))}, "the scan shows HEAD, the task is for CHEST or LUNG"),
        ({"confidence": (0.45, 0.5)}, "confidence 0.45 is under 0.50"),
        ({"distance": (2.5, 2.0)}, "unlike those the model was judged on: distance 2.50 over 2.00"),
        ({"contrast": 0.0}, "the picture is blank"),
        ({"unfit": ["saturated"]}, "the quality is too low: saturated"),
        ({"alike": (2, 3), "slices": 300}, "of 300 slices 2 look like those"),
        ({"possible": (("benign", "malignant"), 0.95)}, "benign and malignant are all possible at the level 95%"),
        ({"possible": ((), 0.95)}, "none of the classes fits at the level 95%"),
    ],
)
def test_each_doubt_withholds_the_answer_and_says_why(changed: dict[str, Any], reason: str) -> None:
    verdict = judged(**changed)
    assert verdict.outcome is Outcome.INCONCLUSIVE and len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]


def test_all_reasons_are_told_at_once() -> None:
    assert len(judged(modality=("MR", "CT"), confidence=(0.1, 0.5), contrast=0.0).reasons) == 3


def test_what_a_file_does_not_say_is_no_reason() -> None:
    assert judged(modality=("", "CT"), body_part=("", ("CHEST",))).outcome is Outcome.PASS


def test_limits_themselves_are_within() -> None:
    at_the_limit = judged(
        confidence=(0.5, 0.5), distance=(2.0, 2.0), alike=(3, 3), slices=300, possible=(("normal",), 0.95)
    )
    assert at_the_limit.outcome is Outcome.PASS


@pytest.mark.parametrize(("part", "fits"), [("CHESTABDOMEN", True), ("chest", True), ("PELVIS", False)])
def test_combined_body_parts_fit(part: str, fits: bool) -> None:
    assert gate.fits(part, ("CHEST", "LUNG")) is fits
