"""Answer, or abstain and say why."""

from __future__ import annotations

from collections.abc import Sequence

from data.scan.slice_rules import matches_body_part
from lineage.record.verdict import Outcome, Verdict

__all__ = ["BLANK", "WARNING", "answer", "matches_body_part"]

BLANK = 0.01  # standard deviation of the prepared pixels (0 to 1) under which a picture shows nothing
WARNING = "warning: "  # how a reason begins that withholds nothing
LARGEST_SET = 1  # classes of a conformal set; with more of them the answer would be a guess among them


def answer(
    subject: str,
    *,
    modality: tuple[str, str],
    body_part: tuple[str, Sequence[str]],
    confidence: tuple[float, float],
    distance: tuple[float, float],
    contrast: float,
    alike: tuple[int, int] = (1, 1),
    slices: int = 1,
    possible: tuple[Sequence[str], float] | None = None,
    unfit: Sequence[str] = (),
    refused: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Verdict:
    """The serving gate. Each pair is (what the scan has, what the task or the release asks).

    An unknown modality or body part ("") is no reason to abstain: most JPEG and PNG files say neither. `alike` is how
    many of the `slices` look like what the model was judged on; `possible` the conformal set and its level, None for
    a model whose validation side was too small for one; `unfit` (of its pixels) and `refused` (of its header) are what
    would keep the scan out of a batch. `warnings` come after the reasons, and withhold nothing.
    """
    reasons = []
    if modality[0] and modality[0] != modality[1]:
        reasons.append(f"the scan is {modality[0]}, the task is for {modality[1]}")
    if body_part[0] and not matches_body_part(*body_part):
        reasons.append(f"the scan shows {body_part[0]}, the task is for {' or '.join(body_part[1])}")
    reasons += [f"the scan would be kept out of a batch: {reason}" for reason in refused]
    reasons += [f"the quality is too low: {reason}" for reason in unfit]
    if contrast < BLANK:
        reasons.append("the picture is blank: nothing in it stands out")
    if confidence[0] < confidence[1]:
        reasons.append(f"confidence {confidence[0]:.2f} is under {confidence[1]:.2f}")
    if distance[0] > distance[1]:
        reasons.append(
            f"the scan is unlike those the model was judged on: distance {distance[0]:.2f} over {distance[1]:.2f}"
        )
    elif alike[0] < alike[1]:
        reasons.append(
            f"of {slices} slices {alike[0]} look like those the model was judged on, and {alike[1]} are needed"
        )
    if possible is not None and not 1 <= len(possible[0]) <= LARGEST_SET:
        which = f"{' and '.join(possible[0])} are all possible" if possible[0] else "none of the classes fits"
        reasons.append(f"the answer is open: {which} at the level {possible[1]:.0%}")
    return Verdict(
        gate="serving",
        subject=subject,
        outcome=Outcome.INCONCLUSIVE if reasons else Outcome.PASS,
        reasons=(*reasons, *(f"{WARNING}{text}" for text in warnings)),
        figures={
            "modality": modality[0],
            "body_part": body_part[0],
            "confidence": confidence[0],
            "distance": distance[0],
            "contrast": contrast,
            "slices": slices,
            "slices_alike": alike[0],
            "possible": None if possible is None else list(possible[0]),
            "unfit": list(unfit),
            "refused": list(refused),
            "warnings": list(warnings),
        },
        thresholds={
            "modality": modality[1],
            "body_parts": list(body_part[1]),
            "abstain_below": confidence[1],
            "outlier_distance": distance[1],
            "blank": BLANK,
            "slices_alike": alike[1],
            "conformal_level": None if possible is None else possible[1],
            "largest_set": LARGEST_SET,
        },
    )
