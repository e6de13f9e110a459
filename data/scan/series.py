"""Slices -> one scan, in the order of the body: the single-slice files of a series, or the frames of one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Scan
from data.scan import geometry
from data.scan.dicom.header_identity import difference
from data.scan.dicom.image_type import foreign
from lineage.errors import Fault

Array = NDArray[Any]
EVEN = 0.05  # share by which slice distances of an even series may differ
TILT = 0.02  # share of a step between slices that may run beside the slice normal: about 1 degree
TURNED = 1e-3  # difference of direction cosines that a scanner's rounding explains: 0.06 degrees
SCALED = 1e-3  # share by which the pixel spacings of one series may differ: rounding
NEAREST = 1e-3  # mm: slices that are nearer than this share their place
AGAIN = "several slices at one place"
SHARED = ("sex", "age", "manufacturer", "model", "kernel")
TOGETHER = "give the files of one series together"
ODD = ("uneven distances", "missing slices", "gantry tilt", AGAIN)


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

    Files that are none of its slices are named in `left_out`, see `sift`. Fault where the files do not belong together.
    `header["geometry"]` is "even", or names what is odd: uneven distances, missing slices, gantry tilt.
    """
    chosen, others = sift(scans)
    left_out = named(scans, others)
    if len(chosen) == 1:
        return replace(chosen[0], left_out=left_out)
    first, arranged = chosen[0], arrange(chosen)
    row, column = first.spacing[1:] if first.spacing else (1.0, 1.0)
    return Scan(
        name=first.name,
        pixels=np.concatenate([chosen[index].pixels for index in arranged.order]),
        units=first.units,
        modality=first.modality,
        spacing=(arranged.distance, row, column),
        header=first.header | _joined(chosen) | {"geometry": geometry.fact(arranged.geometry, first.directions)},
        patient_id=first.patient_id,
        identity=chosen[arranged.order[0]].identity,
        affine=geometry.stacked([chosen[index].affine for index in arranged.order], arranged.geometry),
        directions=first.directions,
        padding=_padding([chosen[index] for index in arranged.order]),
        left_out=left_out,
    )


def _padding(scans: Sequence[Scan]) -> NDArray[np.bool_] | None:
    if all(scan.padding is None for scan in scans):
        return None
    parts = [np.zeros(scan.pixels.shape, bool) if scan.padding is None else scan.padding for scan in scans]
    return np.concatenate(parts)


def _joined(scans: Sequence[Scan]) -> dict[str, str]:
    """What one file says of itself and holds for all of the series."""
    kinds = {kind for scan in scans for kind in scan.header.get("image_type", "").split("; ") if kind}
    written = [scan.header.get("burned_in", "") for scan in scans]
    burned = next((text for text in written if text.upper() == "YES"), written[0])
    return {"image_type": "; ".join(sorted(kinds)), "burned_in": burned}


def sift(scans: Sequence[Scan]) -> tuple[list[Scan], dict[int, str]]:
    """The slices among the files of a series; and the positions of the others, each with what it is.

    Left out are files without an image, copies, images that are no slices by their own header (localizers, projections,
    captures, maps), and images that lie, measure or are sized otherwise than more than half of the files. Where no
    such majority is, nothing more is left out, and `arrange` refuses. Fault where a file is of another patient, or
    where no file holds an image.
    """
    _same_patient(scans)
    others = {index: scan.header["image_type"] for index, scan in enumerate(scans) if not len(scan.pixels)}
    others |= _copies(scans)
    marked = {
        index: foreign(scan.header.get("image_type", "")) for index, scan in enumerate(scans) if index not in others
    }
    if not all(marked.values()):
        others |= {index: kind for index, kind in marked.items() if kind}
    rest = [index for index in range(len(scans)) if index not in others]
    if all(scans[index].header.get("format") == "dicom" for index in rest):
        others |= _strangers(scans, rest)
    chosen = [scan for index, scan in enumerate(scans) if index not in others]
    if not chosen:
        raise Fault(f"{scans[0].name}: holds {scans[0].header['image_type']}; give the files with the images")
    return chosen, dict(sorted(others.items()))


def named(scans: Sequence[Scan], others: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
    """The names of what `sift` left out, each with what it is."""
    return tuple((scans[index].name, reason) for index, reason in others.items())


def _copies(scans: Sequence[Scan]) -> dict[int, str]:
    """Images that are there already: of the same instance UID, header and pixels."""
    first: dict[str, int] = {}
    copies: dict[int, str] = {}
    for index, scan in enumerate(scans):
        uid = scan.identity.instance
        if not uid or not len(scan.pixels):
            continue
        other = scans[first.setdefault(uid, index)]
        is_same = other is not scan and (other.header, other.identity) == (scan.header, scan.identity)
        if is_same and np.array_equal(other.pixels, scan.pixels):
            copies[index] = f"a copy of {other.name}"
    return copies


def _same_patient(scans: Sequence[Scan]) -> None:
    of_patients = [scan for scan in scans if len(scan.pixels) or scan.patient_id]
    for scan in of_patients[1:]:
        first = of_patients[0]
        wrong = difference(scan.identity, first.identity)
        if wrong and scan.header.get("series") != first.header.get("series"):
            raise Fault(f"holds two series, {scan.name} is of another patient than {first.name}; {TOGETHER}")
        if wrong:
            raise Fault(f"{scan.name}: differs from {first.name} in {wrong}; {TOGETHER}")


def _strangers(scans: Sequence[Scan], rest: Sequence[int]) -> dict[int, str]:
    """The files that are unlike a majority of the rest, and in what."""
    alike: list[list[int]] = []
    for index in rest:
        group = next((group for group in alike if not differs(scans[index], scans[group[0]])), None)
        if group is None:
            alike.append([index])
        else:
            group.append(index)
    most = max(alike, key=len, default=[])
    if len(most) * 2 <= len(rest):
        return {}
    return {
        index: f"of another {differs(scans[index], scans[most[0]])} than the other slices"
        for index in rest
        if index not in most
    }


def differs(scan: Scan, other: Scan) -> str:
    """In what two images can't be slices of one series: modality, orientation, size, units or spacing; else ""."""
    if scan.header.get("modality") != other.header.get("modality"):
        return "modality"
    if _turned(scan, other):
        return "orientation"
    if scan.pixels.shape != other.pixels.shape:
        return "size"
    if scan.units != other.units:
        return "unit of pixels"
    plane, same = ((one.spacing or (0.0, 0.0, 0.0))[1:] for one in (scan, other))
    return "" if np.allclose(plane, same, rtol=SCALED) else "pixel spacing"


def _turned(scan: Scan, other: Scan) -> bool:
    """Whether the rows and columns of two images run otherwise; one that does not say so is like its equals alone."""
    texts = scan.header.get("orientation", ""), other.header.get("orientation", "")
    if not all(texts):
        return texts[0] != texts[1]
    return bool(np.abs(_numbers(scan, "orientation", 6) - _numbers(other, "orientation", 6)).max() > TURNED)


def arrange(scans: Sequence[Scan]) -> Stack:
    """How the files of a series lie, by their headers and shapes alone. Fault where they do not belong together."""
    first = scans[0]
    if not first.header.get("series"):
        raise Fault(f"{first.name}: has no series UID, so nobody knows what belongs with it; give each file by itself")
    axes = _numbers(first, "orientation", 6)
    for scan in scans:
        _numbers(scan, "orientation", 6)
        unlike = "series" if scan.header.get("series") != first.header.get("series") else differs(scan, first)
        if unlike or len(scan.pixels) != 1:
            raise Fault(f"{scan.name}: differs from {first.name} in {unlike or 'size'}; {TOGETHER}")
        wrong = difference(scan.identity, first.identity)
        wrong = wrong or ("study" if scan.identity.study != first.identity.study else _unlike(scan, first))
        if wrong:
            raise Fault(f"{scan.name}: differs from {first.name} in {wrong}; {TOGETHER}")
    stack = stacked(np.array([_numbers(scan, "position", 3) for scan in scans]), axes)
    if AGAIN in stack.geometry:
        along = np.array([_numbers(scan, "position", 3) for scan in scans])[stack.order] @ _normal(axes)
        again = scans[stack.order[int(np.diff(along).argmin()) + 1]]
        raise Fault(f"{again.name}: shares its position with another slice of the series; leave one of them out")
    return stack


def _unlike(scan: Scan, first: Scan) -> str:
    """In what two files differ that all files of one series share (PS3.3 C.7.1 to C.7.5); "" where one is silent."""
    frames = {one.identity.frame for one in (scan, first)} - {""}
    if len(frames) > 1:
        return "frame of reference"
    facts = {fact: {one.header.get(fact, "") for one in (scan, first)} - {""} for fact in SHARED}
    return next((fact for fact, values in facts.items() if len(values) > 1), "")


def stacked(places: Array, axes: Array) -> Stack:
    """Order slices by the positions of their corners (n × 3, mm) along the normal of their rows and columns (6,)."""
    along = places @ _normal(axes)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    apart = steps > NEAREST
    if not apart.any():
        return Stack(order, 0.0, AGAIN if len(steps) else "")
    odd = _odd(steps[apart], np.diff(places[order], axis=0)[apart], _normal(axes)) + ([] if apart.all() else [AGAIN])
    said = ", ".join(odd) or "even"
    step = (places[order[-1]] - places[order[0]]) / len(steps) if said in geometry.EVEN else None
    return Stack(order, float(np.median(steps[apart])), said, step)


def _normal(axes: Array) -> Array:
    return np.cross(axes[:3], axes[3:])


def _odd(steps: Array, moves: Array, normal: Array) -> list[str]:
    """What is odd about the steps (mm along the normal) and moves (n × 3, mm) from slice to slice.

    Slices are missing where a step is a whole multiple of the usual one, and lie unevenly where one of them is shifted
    beside the others.
    """
    odd = []
    ratio = steps / np.median(steps)
    beside = moves / steps[:, None] - normal
    shifted = np.linalg.norm(beside - np.median(beside, axis=0), axis=1) > EVEN
    wide = (np.abs(ratio - 1) > EVEN) | shifted
    if wide.any():
        whole = (np.abs(ratio - np.rint(ratio)) <= EVEN) & ~shifted
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
