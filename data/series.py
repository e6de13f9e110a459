"""Slices -> one scan, in the order of the body: the single-slice files of a series, or the frames of one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import geometry
from data.header_identity import difference
from data.record import Scan
from lineage.fault import Fault

Array = NDArray[Any]
EVEN = 0.05  # share by which slice distances of an even series may differ
TILT = 0.02  # share of a step between slices that may run beside the slice normal: about 1 degree
TURNED = 1e-3  # difference of direction cosines that a scanner's rounding explains: 0.06 degrees
NEAREST = 1e-3  # mm: slices that are nearer than this share their place
ODD = ("uneven distances", "missing slices", "gantry tilt", "several slices at one place")


@dataclass(frozen=True)
class Stack:
    """How slices lie above each other: their `order` along the normal, their usual `distance` in mm, what is odd; and
    the mean `step` (3,) from slice to slice in mm, None where steps differ."""

    order: NDArray[np.int64]
    distance: float
    geometry: str
    step: Array | None = None


def series(scans: Sequence[Scan]) -> Scan:
    """One scan out of the single-slice DICOM files of a series, ordered along the slice normal (PS3.3 C.7.6.2.1.1).

    Fault where the files do not belong together. `header["geometry"]` is "even", or names what is odd:
    uneven distances, missing slices, gantry tilt.
    """
    if len(scans) == 1:
        return scans[0]
    first, arranged = scans[0], arrange(scans)
    row, column = first.spacing[1:] if first.spacing else (1.0, 1.0)
    return Scan(
        name=first.name,
        pixels=np.concatenate([scans[index].pixels for index in arranged.order]),
        units=first.units,
        modality=first.modality,
        spacing=(arranged.distance, row, column),
        header=first.header | {"geometry": geometry.fact(arranged.geometry, first.directions)},
        patient_id=first.patient_id,
        identity=scans[arranged.order[0]].identity,
        affine=geometry.stacked([scans[index].affine for index in arranged.order], arranged.geometry),
        directions=first.directions,
        padding=_padding([scans[index] for index in arranged.order]),
    )


def _padding(scans: Sequence[Scan]) -> NDArray[np.bool_] | None:
    if all(scan.padding is None for scan in scans):
        return None
    parts = [np.zeros(scan.pixels.shape, bool) if scan.padding is None else scan.padding for scan in scans]
    return np.concatenate(parts)


def arrange(scans: Sequence[Scan]) -> Stack:
    """How the files of a series lie, by their headers and shapes alone. Fault where they do not belong together."""
    first = scans[0]
    if not first.header.get("series"):
        raise Fault(f"{first.name}: has no series UID, so nobody knows what belongs with it; give each file by itself")
    axes = _numbers(first, "orientation", 6)
    for scan in scans:
        for fact in ("series", "modality"):
            if scan.header.get(fact) != first.header.get(fact):
                raise Fault(f"{scan.name}: differs from {first.name} in {fact}; give the files of one series together")
        if np.abs(_numbers(scan, "orientation", 6) - axes).max() > TURNED:
            raise Fault(f"{scan.name}: differs from {first.name} in orientation; give the files of one series together")
        if scan.pixels.shape != first.pixels.shape or len(scan.pixels) != 1 or scan.units != first.units:
            raise Fault(f"{scan.name}: differs from {first.name} in size; give the files of one series together")
        wrong = difference(scan.identity, first.identity)
        wrong = wrong or ("study" if scan.identity.study != first.identity.study else "")
        if wrong:
            raise Fault(f"{scan.name}: differs from {first.name} in {wrong}; give the files of one series together")
    stack = stacked(np.array([_numbers(scan, "position", 3) for scan in scans]), axes)
    if ODD[3] in stack.geometry:
        along = np.array([_numbers(scan, "position", 3) for scan in scans])[stack.order] @ _normal(axes)
        again = scans[stack.order[int(np.diff(along).argmin()) + 1]]
        raise Fault(f"{again.name}: shares its position with another slice of the series; leave one of them out")
    return stack


def stacked(places: Array, axes: Array) -> Stack:
    """Order slices by the positions of their corners (n × 3, mm) along the normal of their rows and columns (6,)."""
    along = places @ _normal(axes)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    apart = steps > NEAREST
    if not apart.any():
        return Stack(order, 0.0, ODD[3] if len(steps) else "")
    odd = _odd(steps[apart], np.diff(places[order], axis=0)[apart]) + ([] if apart.all() else [ODD[3]])
    said = ", ".join(odd) or "even"
    step = (places[order[-1]] - places[order[0]]) / len(steps) if said in geometry.EVEN else None
    return Stack(order, float(np.median(steps[apart])), said, step)


def _normal(axes: Array) -> Array:
    return np.cross(axes[:3], axes[3:])


def _odd(steps: Array, moves: Array) -> list[str]:
    """What is odd about the steps (mm along the normal) and moves (n × 3, mm) from slice to slice.

    Slices are missing where a step is a whole multiple of the usual one.
    """
    odd = []
    ratio = steps / np.median(steps)
    wide = np.abs(ratio - 1) > EVEN
    if wide.any():
        whole = np.abs(ratio - np.rint(ratio)) <= EVEN
        odd.append(ODD[1] if (whole & (ratio > 1))[wide].all() else ODD[0])
    if (np.sqrt(np.maximum((moves**2).sum(1) - steps**2, 0)) > TILT * np.linalg.norm(moves, axis=1)).any():
        odd.append(ODD[2])
    return odd


def _numbers(scan: Scan, fact: str, count: int) -> Array:
    parts = scan.header.get(fact, "").split("\\")
    if len(parts) != count:
        raise Fault(f"{scan.name}: has no image {fact}, so its slices cannot be put in order; upload them one by one")
    numbers = np.array([float(part) for part in parts])
    if not np.isfinite(numbers).all():
        raise Fault(f"{scan.name}: its image {fact} is not made of plain numbers; export it again")
    return numbers
