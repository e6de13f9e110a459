"""The single-slice files of one series -> one scan, its slices in the order of the body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Scan
from lineage.fault import Fault

Array = NDArray[Any]
EVEN = 0.05  # share by which slice distances of an even series may differ
TILT = 0.02  # share of a step between slices that may run beside the slice normal: about 1 degree


def series(scans: Sequence[Scan]) -> Scan:
    """One scan out of the single-slice DICOM files of a series, ordered along the slice normal (PS3.3 C.7.6.2.1.1).

    Fault where the files do not belong together. `header["geometry"]` is "even", or names what is odd:
    uneven distances (a missing slice), gantry tilt.
    """
    if len(scans) == 1:
        return scans[0]
    first = scans[0]
    for scan in scans:
        for fact in ("orientation", "series", "modality"):
            if scan.header.get(fact) != first.header.get(fact):
                raise Fault(f"{scan.name}: differs from {first.name} in {fact}; give the files of one series together")
        if scan.pixels.shape != first.pixels.shape or len(scan.pixels) != 1 or scan.units != first.units:
            raise Fault(f"{scan.name}: differs from {first.name} in size; give the files of one series together")
    places = np.array([_numbers(scan, "position", 3) for scan in scans])
    axes = _numbers(first, "orientation", 6)
    along = places @ np.cross(axes[:3], axes[3:])
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    if (steps < 1e-3).any():
        raise Fault(f"{scans[order[int(steps.argmin())]].name}: shares its position with another slice of the series")
    row, column = first.spacing[1:] if first.spacing else (1.0, 1.0)
    geometry = _geometry(steps, np.diff(places[order], axis=0))
    return Scan(
        name=first.name,
        pixels=np.concatenate([scans[index].pixels for index in order]),
        units=first.units,
        modality=first.modality,
        spacing=(float(np.median(steps)), row, column),
        header=first.header | {"geometry": geometry},
        patient_id=first.patient_id,
    )


def _geometry(steps: Array, moves: Array) -> str:
    odd = []
    if (np.abs(steps / np.median(steps) - 1) > EVEN).any():
        odd.append("uneven distances")
    if (np.sqrt(np.maximum((moves**2).sum(1) - steps**2, 0)) > TILT * np.linalg.norm(moves, axis=1)).any():
        odd.append("gantry tilt")
    return ", ".join(odd) or "even"


def _numbers(scan: Scan, fact: str, count: int) -> Array:
    parts = scan.header.get(fact, "").split("\\")
    if len(parts) != count:
        raise Fault(f"{scan.name}: has no image {fact}, so its slices cannot be put in order; upload them one by one")
    return np.array([float(part) for part in parts])
