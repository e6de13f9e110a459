"""The frames of one DICOM object: their functional groups (PS3.3 C.7.6.16) and their anatomical order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.scan.series import COSINE_TOLERANCE, SPACING_TOLERANCE, Stack, stack_slices
from lineage.errors import Fault


def functional_group(header: Any, frame: int, keyword: str) -> Any:
    """The first item of a frame's functional group, else of the shared functional group; None if absent."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = header.get(sequence) or []
        if index < len(groups) and groups[index].get(keyword):
            return groups[index].get(keyword)[0]
    return None


def stack_frames(name: str, header: Any, frames: int) -> Stack | None:
    """The stack of the frames; None for a single frame, or if a frame has no position or orientation.

    Fault for frames of mixed orientation, which have no order, and for frames of mixed pixel spacing.
    """
    if frames < 2:
        return None
    positions = _frame_values(header, frames, "PlanePositionSequence", "ImagePositionPatient", 3)
    axes = _frame_values(header, frames, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    if positions is None or axes is None:
        return None
    is_turned = np.abs(axes - axes[0]).max(axis=1) > COSINE_TOLERANCE
    if is_turned.any():
        raise Fault(
            f"{name}: frame {int(is_turned.argmax()) + 1} has another orientation than frame 1; divide the file"
        )
    spacing = _frame_values(header, frames, "PixelMeasuresSequence", "PixelSpacing", 2)
    if (
        spacing is not None
        and not (is_same := np.isclose(spacing, spacing[0], rtol=SPACING_TOLERANCE).all(axis=1)).all()
    ):
        raise Fault(
            f"{name}: frame {int(is_same.argmin()) + 1} has another pixel spacing than frame 1; divide the file"
        )
    return stack_slices(positions, axes[0])


def _frame_values(header: Any, frames: int, sequence: str, keyword: str, count: int) -> NDArray[np.float64] | None:
    """An attribute of every frame, frames × count; None if a frame lacks it or holds no finite numbers."""
    rows = []
    for frame in range(frames):
        value = (functional_group(header, frame, sequence) or {}).get(keyword)
        if value is None or isinstance(value, str) or len(value) != count:
            return None
        rows.append([float(number) for number in value])
    numbers = np.array(rows)
    return numbers if np.isfinite(numbers).all() else None
