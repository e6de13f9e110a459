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


def judge(**changes: Any) -> Verdict:
    return gate.judge_scan("lung-ct", **USUAL | changes)


def test_a_usual_scan_is_answered_with_its_figures() -> None:
    verdict = judge()
    assert (verdict.gate, verdict.subject, verdict.outcome) == ("serving", "lung-ct", Outcome.PASS)
    assert verdict.figures["distance"] == 1.0 and verdict.thresholds["outlier_distance"] == 2.0
    assert verdict.to_dict()["outcome"] == "pass"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modality": ("MR", "CT")}, "the scan is MR, the task is for CT"),
        ({"body_part": ("HEAD", ("CHEST", "LUNG"))}, "the scan shows HEAD, the task is for CHEST or LUNG"),
        ({"confidence": (0.45, 0.5)}, "confidence 0.45 is under 0.50"),
        ({"distance": (2.5, 2.0)}, "unlike those the model was evaluated on: distance 2.50 over 2.00"),
        ({"contrast": 0.0}, "the picture is blank"),
        ({"pixel_faults": ["saturated"]}, "the quality is too low: saturated"),
        ({"header_faults": ["not an axial slice"]}, "the scan would be rejected at ingest: not an axial slice"),
        (
            {"inliers": (2, 3), "slices": 300},
            "of 300 slices 2 are like those the model was evaluated on, and 3 are needed",
        ),
        ({"conformal_set": (("benign", "malignant"), 0.95)}, "benign and malignant are all possible at the level 95%"),
        ({"conformal_set": ((), 0.95)}, "none of the classes fits at the level 95%"),
    ],
)
def test_each_reason_withholds_the_answer_and_is_named(changes: dict[str, Any], reason: str) -> None:
    verdict = judge(**changes)
    assert verdict.outcome is Outcome.INCONCLUSIVE and len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]


def test_warnings_come_last_and_do_not_withhold_the_answer() -> None:
    odd = judge(warnings=["the series has missing slices"])
    assert odd.outcome is Outcome.PASS and odd.reasons == ("warning: the series has missing slices",)
    withheld = judge(warnings=["odd"], pixel_faults=["blank"])
    assert withheld.outcome is Outcome.INCONCLUSIVE
    assert withheld.reasons == ("the quality is too low: blank", "warning: odd")


def test_all_reasons_are_listed_together() -> None:
    assert len(judge(modality=("MR", "CT"), confidence=(0.1, 0.5), contrast=0.0).reasons) == 3


def test_unknown_modality_and_body_part_are_no_reason() -> None:
    assert judge(modality=("", "CT"), body_part=("", ("CHEST",))).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"confidence": (0.5, 0.5)}, {"confidence": (0.4999, 0.5)}),
        ({"distance": (2.0, 2.0)}, {"distance": (2.0001, 2.0)}),
        ({"contrast": 0.01}, {"contrast": 0.0099}),
        ({"inliers": (3, 3), "slices": 300}, {"inliers": (2, 3), "slices": 300}),
        ({"inliers": (1, 1)}, {"inliers": (0, 1)}),
        ({"conformal_set": (("normal",), 0.95)}, {"conformal_set": (("normal", "benign"), 0.95)}),
        ({"conformal_set": (("normal",), 0.95)}, {"conformal_set": ((), 0.95)}),
        ({"conformal_set": None}, {"conformal_set": (("normal", "benign", "malignant"), 0.95)}),
    ],
)
def test_a_value_at_the_limit_passes(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    assert judge(**inside).outcome is Outcome.PASS and judge(**inside).reasons == ()
    assert judge(**outside).outcome is Outcome.INCONCLUSIVE and len(judge(**outside).reasons) == 1


def test_a_verdict_contains_all_compared_values() -> None:
    verdict = judge(inliers=(4, 3), slices=7, conformal_set=(("normal",), 0.95))
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
    foreign = judge(modality=("MR", "CT"))
    assert (foreign.figures["modality"], foreign.thresholds["modality"]) == ("MR", "CT")
    bare = judge(pixel_faults=["saturated"])
    assert bare.thresholds["slices_alike"] == 1
    assert bare.figures["possible"] is None and bare.thresholds["conformal_level"] is None
    assert (bare.figures["slices"], bare.figures["slices_alike"], bare.figures["unfit"]) == (1, 1, ["saturated"])


def test_an_outlier_is_not_also_reported_as_too_few_slices() -> None:
    reasons = judge(distance=(3.0, 2.0), inliers=(0, 3), slices=9).reasons
    assert len(reasons) == 1 and "distance 3.00 over 2.00" in reasons[0]


def test_each_pixel_fault_is_its_own_reason() -> None:
    assert judge(pixel_faults=["saturated", "blank"]).reasons == (
        "the quality is too low: saturated",
        "the quality is too low: blank",
    )


@pytest.mark.parametrize(
    ("part", "task_parts", "fits"),
    [
        ("CHESTABDOMEN", ("CHEST", "LUNG"), True),
        ("chest", ("CHEST", "LUNG"), True),
        ("Lung", ("chest", "lung"), True),
        ("LUNG", ("CHEST", "LUNG"), True),
        ("PELVIS", ("CHEST", "LUNG"), False),
        ("CHES", ("CHEST",), False),
    ],
)
def test_a_body_part_fits_if_it_contains_one_of_the_tasks_parts(
    part: str, task_parts: tuple[str, ...], fits: bool
) -> None:
    assert gate.matches_body_part(part, task_parts) is fits
