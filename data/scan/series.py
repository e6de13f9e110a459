"""Joining the single-slice files of a series, or the frames of one file, into one scan in anatomical order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Scan
from data.scan import geometry
from data.scan.dicom.header_identity import identity_difference
from data.scan.dicom.image_type import non_slice_kinds
from lineage.errors import Fault

Array = NDArray[Any]
DISTANCE_TOLERANCE = 0.05  # share by which slice distances of an even series may differ
MAX_TILT = 0.02  # share of a step between slices that may deviate from the slice normal: about 1 degree
COSINE_TOLERANCE = 1e-3  # difference of direction cosines that a scanner's rounding explains: 0.06 degrees
SPACING_TOLERANCE = 1e-3  # share by which the pixel spacings of one series may differ: rounding
MIN_DISTANCE = 1e-3  # mm; slices that are nearer have the same position
SAME_PLACE = "several slices at one place"
SHARED = ("sex", "age", "manufacturer", "model", "kernel")
TOGETHER = "give the files of one series together"
UNEVEN, MISSING, GANTRY_TILT = "uneven distances", "missing slices", "gantry tilt"
IRREGULAR = (UNEVEN, MISSING, GANTRY_TILT, SAME_PLACE)


@dataclass(frozen=True)
class Stack:
    """A stack of slices: their `order` along the normal, their median `distance` in mm, and the fact "geometry".

    `step` (3,) is the mean vector from slice to slice in mm, None where steps differ.
    """

    order: NDArray[np.int64]
    distance: float
    geometry: str
    step: Array | None = None


def join_series(scans: Sequence[Scan]) -> Scan:
    """One scan from the single-slice DICOM files of a series, ordered along the slice normal (PS3.3 C.7.6.2.1.1).

    Files that are not slices of it are named in `left_out`, see `sift`. Fault if the files do not belong together.
    `header["geometry"]` is "even", or names the irregularity: uneven distances, missing slices, gantry tilt.
    """
    chosen, excluded = select_slices(scans)
    left_out = names_of_excluded(scans, excluded)
    if len(chosen) == 1:
        return replace(chosen[0], left_out=left_out)
    first, stack = chosen[0], order_slices(chosen)
    row, column = first.spacing[1:] if first.spacing else (1.0, 1.0)
    return Scan(
        name=first.name,
        pixels=np.concatenate([chosen[index].pixels for index in stack.order]),
        units=first.units,
        modality=first.modality,
        spacing=(stack.distance, row, column),
        header=first.header
        | _series_facts(chosen)
        | {"geometry": geometry.geometry_fact(stack.geometry, first.directions)},
        patient_id=first.patient_id,
        scanner=first.scanner,
        identity=replace(chosen[stack.order[0]].identity, institution=_joined_institutions(chosen)),
        affine=geometry.series_affine([chosen[index].affine for index in stack.order], stack.geometry),
        directions=first.directions,
        padding=_joined_padding([chosen[index] for index in stack.order]),
        left_out=left_out,
    )


def _joined_institutions(scans: Sequence[Scan]) -> str:
    """The institution of a series; several different names give a text that is the name of no institution."""
    return " + ".join(sorted({scan.identity.institution for scan in scans} - {""}))


def _joined_padding(scans: Sequence[Scan]) -> NDArray[np.bool_] | None:
    if all(scan.padding is None for scan in scans):
        return None
    parts = [np.zeros(scan.pixels.shape, bool) if scan.padding is None else scan.padding for scan in scans]
    return np.concatenate(parts)


def _series_facts(scans: Sequence[Scan]) -> dict[str, str]:
    """The facts of single files that count for all of the series."""
    kinds = {kind for scan in scans for kind in scan.header.get("image_type", "").split("; ") if kind}
    annotations = [scan.header.get("burned_in", "") for scan in scans]
    burned_in = next((text for text in annotations if text.upper() == "YES"), annotations[0])
    return {"image_type": "; ".join(sorted(kinds)), "burned_in": burned_in}


def select_slices(scans: Sequence[Scan]) -> tuple[list[Scan], dict[int, str]]:
    """The slices among the files of a series, and the positions of the excluded files with a description of each.

    Excluded are files without an image, copies, and images that are no slices by their own header (localizers,
    projections, captures, maps). Excluded are also images that differ from more than half of the files in orientation,
    size, units or spacing. Without such a majority none of these is excluded, and `order_slices` refuses the series.
    Fault if a file is of another patient, or if no file holds an image.
    """
    _check_one_patient(scans)
    excluded = {index: scan.header["image_type"] for index, scan in enumerate(scans) if not len(scan.pixels)}
    excluded |= _copies(scans)
    foreign_kinds = {
        index: non_slice_kinds(scan.header.get("image_type", ""))
        for index, scan in enumerate(scans)
        if index not in excluded
    }
    if not all(foreign_kinds.values()):
        excluded |= {index: kind for index, kind in foreign_kinds.items() if kind}
    candidates = [index for index in range(len(scans)) if index not in excluded]
    if all(scans[index].header.get("format") == "dicom" for index in candidates):
        excluded |= _outliers(scans, candidates)
    chosen = [scan for index, scan in enumerate(scans) if index not in excluded]
    if not chosen:
        raise Fault(f"{scans[0].name}: holds {scans[0].header['image_type']}; give the files with the images")
    return chosen, dict(sorted(excluded.items()))


def names_of_excluded(scans: Sequence[Scan], excluded: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
    """The name of each file that `select_slices` excluded, with its description."""
    return tuple((scans[index].name, reason) for index, reason in excluded.items())


def _copies(scans: Sequence[Scan]) -> dict[int, str]:
    """Repeated images, by position: of the same instance UID, header and pixels as an earlier one."""
    first_by_uid: dict[str, int] = {}
    copies: dict[int, str] = {}
    for index, scan in enumerate(scans):
        uid = scan.identity.instance
        if not uid or not len(scan.pixels):
            continue
        earlier = scans[first_by_uid.setdefault(uid, index)]
        is_same = earlier is not scan and (earlier.header, earlier.identity) == (scan.header, scan.identity)
        if is_same and np.array_equal(earlier.pixels, scan.pixels):
            copies[index] = f"a copy of {earlier.name}"
    return copies


def _check_one_patient(scans: Sequence[Scan]) -> None:
    identified = [scan for scan in scans if len(scan.pixels) or scan.patient_id]
    for scan in identified[1:]:
        first = identified[0]
        differing = identity_difference(scan.identity, first.identity)
        if differing and scan.header.get("series") != first.header.get("series"):
            raise Fault(f"holds two series, {scan.name} is of another patient than {first.name}; {TOGETHER}")
        if differing:
            raise Fault(f"{scan.name}: differs from {first.name} in {differing}; {TOGETHER}")


def _outliers(scans: Sequence[Scan], candidates: Sequence[int]) -> dict[int, str]:
    """The files that differ from a majority of the candidates, by position, and in which property."""
    groups: list[list[int]] = []
    for index in candidates:
        group = next((group for group in groups if not slice_difference(scans[index], scans[group[0]])), None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    majority = max(groups, key=len, default=[])
    if len(majority) * 2 <= len(candidates):
        return {}
    return {
        index: f"of another {slice_difference(scans[index], scans[majority[0]])} than the other slices"
        for index in candidates
        if index not in majority
    }


def slice_difference(scan: Scan, reference: Scan) -> str:
    """The property that rules out one series for two images (modality, orientation, size, units, spacing), else ""."""
    if scan.header.get("modality") != reference.header.get("modality"):
        return "modality"
    if _has_other_orientation(scan, reference):
        return "orientation"
    if scan.pixels.shape != reference.pixels.shape:
        return "size"
    if scan.units != reference.units:
        return "unit of pixels"
    spacing, reference_spacing = ((image.spacing or (0.0, 0.0, 0.0))[1:] for image in (scan, reference))
    return "" if np.allclose(spacing, reference_spacing, rtol=SPACING_TOLERANCE) else "pixel spacing"


def _has_other_orientation(scan: Scan, reference: Scan) -> bool:
    """Whether two images have different orientations; an image without one only matches another without one."""
    texts = scan.header.get("orientation", ""), reference.header.get("orientation", "")
    if not all(texts):
        return texts[0] != texts[1]
    return bool(
        np.abs(_numbers(scan, "orientation", 6) - _numbers(reference, "orientation", 6)).max() > COSINE_TOLERANCE
    )


def order_slices(scans: Sequence[Scan]) -> Stack:
    """The stack of a series' files, by their headers and shapes alone. Fault if they do not belong together."""
    first = scans[0]
    if not first.header.get("series"):
        raise Fault(f"{first.name}: has no series UID, so its series is unknown; give each file by itself")
    axes = _numbers(first, "orientation", 6)
    for scan in scans:
        _numbers(scan, "orientation", 6)
        unlike = "series" if scan.header.get("series") != first.header.get("series") else slice_difference(scan, first)
        if unlike or len(scan.pixels) != 1:
            raise Fault(f"{scan.name}: differs from {first.name} in {unlike or 'size'}; {TOGETHER}")
        differing = identity_difference(scan.identity, first.identity)
        if not differing:
            differing = "study" if scan.identity.study != first.identity.study else _shared_difference(scan, first)
        if differing:
            raise Fault(f"{scan.name}: differs from {first.name} in {differing}; {TOGETHER}")
    stack = stack_slices(np.array([_numbers(scan, "position", 3) for scan in scans]), axes)
    if SAME_PLACE in stack.geometry:
        along = np.array([_numbers(scan, "position", 3) for scan in scans])[stack.order] @ _normal(axes)
        duplicate = scans[stack.order[int(np.diff(along).argmin()) + 1]]
        raise Fault(f"{duplicate.name}: shares its position with another slice of the series; leave one of them out")
    return stack


def _shared_difference(scan: Scan, first: Scan) -> str:
    """A difference in what all files of one series share (PS3.3 C.7.1 to C.7.5); empty values do not differ."""
    frames = {image.identity.frame for image in (scan, first)} - {""}
    if len(frames) > 1:
        return "frame of reference"
    facts = {fact: {image.header.get(fact, "") for image in (scan, first)} - {""} for fact in SHARED}
    return next((fact for fact, values in facts.items() if len(values) > 1), "")


def stack_slices(positions: Array, axes: Array) -> Stack:
    """Order slices by their positions (n × 3, mm) along the normal of their row and column cosines (6,)."""
    along = positions @ _normal(axes)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    is_apart = steps > MIN_DISTANCE
    if not is_apart.any():
        return Stack(order, 0.0, SAME_PLACE if len(steps) else "")
    irregularities = _irregularities(steps[is_apart], np.diff(positions[order], axis=0)[is_apart], _normal(axes))
    if not is_apart.all():
        irregularities.append(SAME_PLACE)
    regularity = ", ".join(irregularities) or "even"
    step = (positions[order[-1]] - positions[order[0]]) / len(steps) if regularity in geometry.EVEN else None
    return Stack(order, float(np.median(steps[is_apart])), regularity, step)


def _normal(axes: Array) -> Array:
    return np.cross(axes[:3], axes[3:])


def _irregularities(steps: Array, moves: Array, normal: Array) -> list[str]:
    """The irregularities of the steps (mm along the normal) and moves (n × 3, mm) from slice to slice.

    Slices are missing if every irregular step is an integer multiple of the median step. Distances are uneven if a step
    is not such a multiple, or if a slice is shifted sideways against the others.
    """
    irregularities = []
    ratio = steps / np.median(steps)
    sideways = moves / steps[:, None] - normal
    is_shifted = np.linalg.norm(sideways - np.median(sideways, axis=0), axis=1) > DISTANCE_TOLERANCE
    is_irregular = (np.abs(ratio - 1) > DISTANCE_TOLERANCE) | is_shifted
    if is_irregular.any():
        is_multiple = (np.abs(ratio - np.rint(ratio)) <= DISTANCE_TOLERANCE) & ~is_shifted
        irregularities.append(MISSING if (is_multiple & (ratio > 1))[is_irregular].all() else UNEVEN)
    if (np.sqrt(np.maximum((moves**2).sum(1) - steps**2, 0)) > MAX_TILT * np.linalg.norm(moves, axis=1)).any():
        irregularities.append(GANTRY_TILT)
    return irregularities


def _numbers(scan: Scan, fact: str, count: int) -> Array:
    parts = scan.header.get(fact, "").split("\\")
    if len(parts) != count:
        raise Fault(f"{scan.name}: has no image {fact}, so its slices cannot be ordered; upload them one by one")
    numbers = np.array([float(part) for part in parts])
    if not np.isfinite(numbers).all():
        raise Fault(f"{scan.name}: its image {fact} holds a value that is no finite number; export it again")
    return numbers
