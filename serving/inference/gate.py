"""The serving gate: answer a scan, or abstain with reasons."""

from __future__ import annotations

from collections.abc import Sequence

from data.scan.slice_rules import matches_body_part
from lineage.record.verdict import Outcome, Verdict

__all__ = ["BLANK_CONTRAST", "WARNING_PREFIX", "judge_scan", "matches_body_part"]

BLANK_CONTRAST = 0.01  # standard deviation of the prepared pixels (0 to 1); under it a picture is blank
WARNING_PREFIX = "warning: "  # of a reason that does not withhold the answer
MAX_CONFORMAL_SET = 1  # classes; with more of them the answer would be a guess


def judge_scan(
    subject: str,
    *,
    modality: tuple[str, str],
    body_part: tuple[str, Sequence[str]],
    confidence: tuple[float, float],
    distance: tuple[float, float],
    contrast: float,
    likeness: tuple[float, float] | None = None,
    inliers: tuple[int, int] = (1, 1),
    slices: int = 1,
    conformal_set: tuple[Sequence[str], float] | None = None,
    site_faults: Sequence[str] = (),
    pixel_faults: Sequence[str] = (),
    header_faults: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Verdict:
    """Judge one scan. Each pair is (the scan's value, the value that the task or release requires).

    `likeness` is that of the decisive slice to the kind of picture of the task; None if the release does not check it.
    An unknown modality or body part ("") is no reason to abstain, because most JPEG and PNG files have neither.
    `inliers` are the slices, of all `slices`, that are within the limits of distance and likeness. `conformal_set` is
    the set of possible classes and its level, or None if the validation side was too small to calibrate one.
    `pixel_faults` and `header_faults` are ingest rules that the scan breaks. `site_faults` say why the source of the
    scan is not accepted. `warnings` follow the reasons and do not withhold the answer.
    """
    reasons = []
    if modality[0] and modality[0] != modality[1]:
        reasons.append(f"the scan is {modality[0]}, the task is for {modality[1]}")
    if body_part[0] and not matches_body_part(*body_part):
        reasons.append(f"the scan shows {body_part[0]}, the task is for {' or '.join(body_part[1])}")
    reasons += [f"the scan would be rejected at ingest: {reason}" for reason in header_faults]
    reasons += [f"the quality is too low: {reason}" for reason in pixel_faults]
    if contrast < BLANK_CONTRAST:
        reasons.append("the picture is blank: it has no contrast")
    if confidence[0] < confidence[1]:
        reasons.append(f"confidence {confidence[0]:.2f} is under {confidence[1]:.2f}")
    if likeness is not None and likeness[0] < likeness[1]:
        reasons.append(
            f"the picture is of another kind than those of the task: likeness {likeness[0]:.2f} under {likeness[1]:.2f}"
        )
    if distance[0] > distance[1]:
        reasons.append(
            f"the scan is unlike those the model was evaluated on: distance {distance[0]:.2f} over {distance[1]:.2f}"
        )
    elif inliers[0] < inliers[1]:
        reasons.append(
            f"of {slices} slices {inliers[0]} are like those the model was evaluated on, and {inliers[1]} are needed"
        )
    if conformal_set is not None and not 1 <= len(conformal_set[0]) <= MAX_CONFORMAL_SET:
        classes, level = conformal_set
        ambiguity = f"{' and '.join(classes)} are all possible" if classes else "none of the classes fits"
        reasons.append(f"the answer is ambiguous: {ambiguity} at the level {level:.0%}")
    reasons += site_faults
    return Verdict(
        gate="serving",
        subject=subject,
        outcome=Outcome.INCONCLUSIVE if reasons else Outcome.PASS,
        reasons=(*reasons, *(f"{WARNING_PREFIX}{text}" for text in warnings)),
        figures={
            "modality": modality[0],
            "body_part": body_part[0],
            "confidence": confidence[0],
            "distance": distance[0],
            "likeness": None if likeness is None else likeness[0],
            "contrast": contrast,
            "slices": slices,
            "slices_alike": inliers[0],
            "possible": None if conformal_set is None else list(conformal_set[0]),
            "unfit": list(pixel_faults),
            "refused": list(header_faults),
            "warnings": list(warnings),
        },
        thresholds={
            "modality": modality[1],
            "body_parts": list(body_part[1]),
            "abstain_below": confidence[1],
            "outlier_distance": distance[1],
            "likeness": None if likeness is None else likeness[1],
            "blank": BLANK_CONTRAST,
            "slices_alike": inliers[1],
            "conformal_level": None if conformal_set is None else conformal_set[1],
            "largest_set": MAX_CONFORMAL_SET,
        },
    )
