"""Answer, or abstain and say why."""

from __future__ import annotations

from collections.abc import Sequence

from lineage.verdict import Outcome, Verdict

BLANK = 0.01  # standard deviation of the prepared pixels (0 to 1) under which a picture shows nothing
TINY = 32  # pixels of the shorter side


def answer(
    subject: str,
    *,
    modality: tuple[str, str],
    body_part: tuple[str, Sequence[str]],
    confidence: tuple[float, float],
    distance: tuple[float, float],
    contrast: float,
    shorter_side: int,
) -> Verdict:
    """The serving gate. Each pair is (what the scan has, what the task or the release asks).

    An unknown modality or body part ("") is no reason to abstain: most JPEG and PNG files say neither.
    """
    reasons = []
    if modality[0] and modality[0] != modality[1]:
        reasons.append(f"the scan is {modality[0]}, the task is for {modality[1]}")
    if body_part[0] and not fits(*body_part):
        reasons.append(f"the scan shows {body_part[0]}, the task is for {' or '.join(body_part[1])}")
    if shorter_side < TINY:
        reasons.append(f"the picture is too small: {shorter_side} pixels, at least {TINY} are needed")
    if contrast < BLANK:
        reasons.append("the picture is blank: nothing in it stands out")
    if confidence[0] < confidence[1]:
        reasons.append(f"confidence {confidence[0]:.2f} is under {confidence[1]:.2f}")
    if distance[0] > distance[1]:
        reasons.append(
            f"the scan is unlike those the model was judged on: distance {distance[0]:.2f} over {distance[1]:.2f}"
        )
    return Verdict(
        gate="serving",
        subject=subject,
        outcome=Outcome.INCONCLUSIVE if reasons else Outcome.PASS,
        reasons=tuple(reasons),
        figures={
            "modality": modality[0],
            "body_part": body_part[0],
            "confidence": confidence[0],
            "distance": distance[0],
            "contrast": contrast,
            "shorter_side": shorter_side,
        },
        thresholds={
            "modality": modality[1],
            "body_parts": list(body_part[1]),
            "abstain_below": confidence[1],
            "outlier_distance": distance[1],
            "blank": BLANK,
            "tiny": TINY,
        },
    )


def fits(body_part: str, wanted: Sequence[str]) -> bool:
    """Whether a DICOM body part holds one of the task's (CHESTABDOMEN holds CHEST and ABDOMEN)."""
    return any(part.upper() in body_part.upper() for part in wanted)
