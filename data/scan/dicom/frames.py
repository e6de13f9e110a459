"""The frames of one DICOM object: their functional groups (PS3.3 C.7.6.16), and their order in the body."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.scan.series import SCALED, TURNED, Stack, stacked
from lineage.errors import Fault


def functional(header: Any, frame: int, keyword: str) -> Any:
    """The first item of a functional group of one frame, its own before the shared one; None if absent."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = header.get(sequence) or []
        if index < len(groups) and groups[index].get(keyword):
            return groups[index].get(keyword)[0]
    return None


def stack(name: str, header: Any, frames: int) -> Stack | None:
    """How the frames lie above each other; None where there is one, or where the file does not say it of each.

    Fault for frames of mixed orientation, which have no order, and for those of mixed pixel spacing.
    """
    if frames < 2:
        return None
    places = _plain(header, frames, "PlanePositionSequence", "ImagePositionPatient", 3)
    axes = _plain(header, frames, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    if places is None or axes is None:
        return None
    turned = np.abs(axes - axes[0]).max(axis=1) > TURNED
    if turned.any():
        raise Fault(f"{name}: frame {int(turned.argmax()) + 1} has another orientation than frame 1; divide the file")
    plane = _plain(header, frames, "PixelMeasuresSequence", "PixelSpacing", 2)
    other = None if plane is None else np.flatnonzero(~np.isclose(plane, plane[0], rtol=SCALED).all(axis=1))
    if other is not None and len(other):
        raise Fault(f"{name}: frame {other[0] + 1} has another pixel spacing than frame 1; divide the file")
    return stacked(places, axes[0])


def _plain(header: Any, frames: int, sequence: str, keyword: str, count: int) -> NDArray[np.float64] | None:
    """An attribute of every frame, frames × count; None where one lacks it or says no plain numbers."""
    rows = []
    for frame in range(frames):
        value = (functional(header, frame, sequence) or {}).get(keyword)
        if value is None or isinstance(value, str) or len(value) != count:
            return None
        rows.append([float(number) for number in value])
    numbers = np.array(rows)
    return numbers if np.isfinite(numbers).all() else None
