from __future__ import annotations

from typing import Any

import pytest

from lineage.record.verdict import Outcome, Verdict
from serving.inference import gate

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
        ({"refused": ["not an axial slice"]}, "the scan would be kept out of a batch: not an axial slice"),
        (
            {"alike": (2, 3), "slices": 300},
            "of 300 slices 2 look like those the model was judged on, and 3 are needed",
        ),
        ({"possible": (("benign", "malignant"), 0.95)}, "benign and malignant are all possible at the level 95%"),
        ({"possible": ((), 0.95)}, "none of the classes fits at the level 95%"),
    ],
)
def test_each_doubt_withholds_the_answer_and_says_why(changed: dict[str, Any], reason: str) -> None:
    verdict = judged(**changed)
    assert verdict.outcome is Outcome.INCONCLUSIVE and len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]


def test_warnings_come_last_and_withhold_nothing() -> None:
    odd = judged(warnings=["the series has missing slices"])
    assert odd.outcome is Outcome.PASS and odd.reasons == ("warning: the series has missing slices",)
    both = judged(warnings=["odd"], unfit=["blank"])
    assert both.outcome is Outcome.INCONCLUSIVE
    assert both.reasons == ("the quality is too low: blank", "warning: odd")


def test_all_reasons_are_told_at_once() -> None:
    assert len(judged(modality=("MR", "CT"), confidence=(0.1, 0.5), contrast=0.0).reasons) == 3


def test_what_a_file_does_not_say_is_no_reason() -> None:
    assert judged(modality=("", "CT"), body_part=("", ("CHEST",))).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"confidence": (0.5, 0.5)}, {"confidence": (0.4999, 0.5)}),
        ({"distance": (2.0, 2.0)}, {"distance": (2.0001, 2.0)}),
        ({"contrast": 0.01}, {"contrast": 0.0099}),
        ({"alike": (3, 3), "slices": 300}, {"alike": (2, 3), "slices": 300}),
        ({"alike": (1, 1)}, {"alike": (0, 1)}),
        ({"possible": (("normal",), 0.95)}, {"possible": (("normal", "benign"), 0.95)}),
        ({"possible": (("normal",), 0.95)}, {"possible": ((), 0.95)}),
        ({"possible": None}, {"possible": (("normal", "benign", "malignant"), 0.95)}),
    ],
)
def test_a_limit_itself_is_within(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    assert judged(**inside).outcome is Outcome.PASS and judged(**inside).reasons == ()
    assert judged(**outside).outcome is Outcome.INCONCLUSIVE and len(judged(**outside).reasons) == 1


def test_a_verdict_holds_all_that_it_compared() -> None:
    verdict = judged(alike=(4, 3), slices=7, possible=(("normal",), 0.95))
    figures = {
        "modality": "CT",
        "body_part": "CHEST",
        "confidence": 0.9,
        "distance": 1.0,
        "contrast": 0.2,
        "slices": 7,
        "slices_alike": 4,
        "possible": ["normal"],
        "unfit": [],
    }
    thresholds = {
        "modality": "CT",
        "body_parts": ["CHEST", "LUNG"],
        "abstain_below": 0.5,
        "outlier_distance": 2.0,
        "blank": 0.01,
        "slices_alike": 3,
        "conformal_level": 0.95,
        "largest_set": 1,
    }
    assert {name: verdict.figures[name] for name in figures} == figures
    assert {name: verdict.thresholds[name] for name in thresholds} == thresholds
    foreign = judged(modality=("MR", "CT"))
    assert (foreign.figures["modality"], foreign.thresholds["modality"]) == ("MR", "CT")
    bare = judged(unfit=["saturated"])
    assert bare.thresholds["slices_alike"] == 1
    assert bare.figures["possible"] is None and bare.thresholds["conformal_level"] is None
    assert (bare.figures["slices"], bare.figures["slices_alike"], bare.figures["unfit"]) == (1, 1, ["saturated"])


def test_a_strange_case_is_not_also_called_too_few_slices() -> None:
    reasons = judged(distance=(3.0, 2.0), alike=(0, 3), slices=9).reasons
    assert len(reasons) == 1 and "distance 3.00 over 2.00" in reasons[0]


def test_each_unfit_reason_is_named_on_its_own() -> None:
    assert judged(unfit=["saturated", "blank"]).reasons == (
        "the quality is too low: saturated",
        "the quality is too low: blank",
    )


@pytest.mark.parametrize(
    ("part", "wanted", "fits"),
    [
        ("CHESTABDOMEN", ("CHEST", "LUNG"), True),
        ("chest", ("CHEST", "LUNG"), True),
        ("Lung", ("chest", "lung"), True),
        ("LUNG", ("CHEST", "LUNG"), True),
        ("PELVIS", ("CHEST", "LUNG"), False),
        ("CHES", ("CHEST",), False),
    ],
)
def test_a_body_part_fits_where_it_holds_one_of_the_task(part: str, wanted: tuple[str, ...], fits: bool) -> None:
    assert gate.matches_body_part(part, wanted) is fits
