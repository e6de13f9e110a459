"""Position of voxels in the patient: affines, the orientation of slices, and masks brought onto a scan's grid.

An affine (4 × 4) maps (slice, row, column, 1) of a scan's pixels to mm in the patient system of DICOM, LPS: x runs to
the patient's left, y to the back, z to the head (PS3.3 C.7.6.2.1.1). NIfTI uses RAS, which is converted on reading.
Directions are three letters, for columns, rows and slices: towards which of L R, P A, S I each index increases.

The network, a viewer and the desk show the same picture. DICOM and pictures define rows and columns, so they keep them,
whatever the patient's position. NIfTI does not, so its slices are turned to the radiological display convention, which
is how DICOM stores a patient who lies on the back. Slices keep the order and the numbers of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Scan
from lineage.errors import Fault

Affine = NDArray[np.float64]
TOLERANCE = 0.25  # of a voxel, at the grid's corners; rounding of spacings and positions is below it
LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # of the patient axes x, y, z: decreasing, increasing
UPRIGHT = {"S": "LP", "I": "LP", "P": "LI", "A": "LI", "L": "PI", "R": "PI"}  # columns, rows by direction of slices
MIN_LENGTH = 1e-6  # mm; a shorter side is no voxel
UNKNOWN = "unknown orientation"  # header["geometry"] of a volume without an orientation
UNUSUAL = "unusual orientation"  # and of a DICOM picture that is prone, on its side or flipped
MIN_AXIS_COSINE = 0.5  # between sform and qform; a head registered to an atlas is turned by less than 60 degrees
EVEN = ("even", "gantry tilt")  # geometry of slices that share one affine (see data/scan/series.py)


@dataclass(frozen=True)
class Turn:
    """How stored slices are turned in their plane: rows and columns are exchanged, then their orders reversed."""

    exchanged: bool = False
    rows: bool = False
    columns: bool = False

    def planes(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The turned slices × rows × columns, as a view."""
        exchanged = stored.swapaxes(1, 2) if self.exchanged else stored
        return exchanged[:, :: -1 if self.rows else 1, :: -1 if self.columns else 1]

    def affine(self, stored: Affine, shape: Sequence[int]) -> Affine:
        """The affine of the turned planes; `shape` is that of the stored planes (slices, rows, columns)."""
        result = stored.copy()
        sides = list(shape)
        if self.exchanged:
            result[:, [1, 2]] = result[:, [2, 1]]
            sides[1], sides[2] = sides[2], sides[1]
        for axis, reverse in ((1, self.rows), (2, self.columns)):
            if reverse:
                result[:, 3] += result[:, axis] * (sides[axis] - 1)
                result[:, axis] *= -1
        return result


def axis_directions(affine: Affine) -> str:
    """The directions of columns, rows and slices, for example "LPS"; each letter pair is used once.

    For an oblique grid it is the nearest of the 48 orientations.
    """
    a, b, c = (affine[:3, 2::-1] / np.linalg.norm(affine[:3, 2::-1], axis=0)).T.tolist()
    order = max(permutations(range(3)), key=lambda axes: round(abs(a[axes[0]]) + abs(b[axes[1]]) + abs(c[axes[2]]), 6))
    return "".join(LETTERS[axis][int(cosines[axis] > 0)] for axis, cosines in zip(order, (a, b, c), strict=True))


def turn_to_upright(stored: str) -> Turn:
    """The turn of slices with these directions to radiological display: the patient's right is at the left.

    Axial slices have the front at the top, coronal and sagittal slices the head. Sagittal slices have the front at the
    left. Unknown directions ("") give no turn.
    """
    if not stored:
        return Turn()
    columns, rows = tuple(UPRIGHT[stored[2]])
    pair = next(pair for pair in LETTERS if columns in pair)
    exchanged = stored[0] not in pair
    first, second = (stored[1], stored[0]) if exchanged else (stored[0], stored[1])
    return Turn(exchanged, second != rows, first != columns)


def is_usable(affine: Affine) -> bool:
    """Whether an affine has finite numbers and spans a volume."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((lengths > MIN_LENGTH).all() and abs(np.linalg.det(affine[:3, :3] / lengths)) > MIN_LENGTH)


def dicom_affine(
    position: Sequence[float], cosines: Sequence[float], spacing: tuple[float, float, float] | None, step: Any = None
) -> tuple[Affine | None, str]:
    """Affine and directions from ImagePositionPatient, ImageOrientationPatient and (distance, row, column) in mm.

    `step` (3,) is the vector from slice to slice in mm; without it the distance runs along the normal. The affine is
    None without position or spacing. The directions are "" without an orientation.
    """
    if len(cosines) != 6 or not _are_orthonormal(cosines):
        return None, ""
    a, b, c, d, e, f = cosines
    distance, row, column = spacing or (1.0, 1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 1], affine[:3, 2] = (d * row, e * row, f * row), (a * column, b * column, c * column)
    if step is None:
        step = tuple(side * (distance or 1.0) for side in (b * f - c * e, c * d - a * f, a * e - b * d))
    affine[:3, 0] = step
    if not is_usable(affine):
        return None, ""
    if spacing is None or len(position) != 3 or not all(map(math.isfinite, position)):
        return None, axis_directions(affine)
    affine[:3, 3] = position
    return affine, axis_directions(affine)


def _are_orthonormal(cosines: Sequence[float]) -> bool:
    """Whether six direction cosines are two unit vectors at right angles, within rounding."""
    a, b, c, d, e, f = cosines
    errors = (a * a + b * b + c * c - 1, d * d + e * e + f * f - 1, a * d + b * e + c * f)
    return all(abs(error) < 0.01 for error in errors)


def nifti_affine(header: Any) -> tuple[Affine | None, str]:
    """Affine and stored directions of a NIfTI volume whose voxels (i, j, k) are read as slices k × rows j × columns i.

    The sform counts if its code is set, else the qform (nibabel's rule). The affine is None if neither is set, or if
    the matrix is an identity, which software without patient coordinates writes. The directions are then those that
    the format assumes. Fault if an axis of the sform runs elsewhere than the qform's, or if the matrix spans no volume.
    """
    matrices = [_lps(matrix) for matrix, code in (header.get_sform(coded=True), header.get_qform(coded=True)) if code]
    if not all(map(is_usable, matrices)):
        raise Fault("its sform or qform spans no volume; export it again")
    if len(matrices) > 1 and _axis_cosines(*matrices).min() < MIN_AXIS_COSINE:
        raise Fault("its sform and its qform name different sides of the patient; set one to the other")
    affine = matrices[0] if matrices else _lps(header.get_base_affine())
    if not is_usable(affine):
        raise Fault("its voxels have no size; export it again")
    is_identity = np.array_equal(np.abs(affine[:3, 2::-1]), np.eye(3)) and not affine[:3, 3].any()
    return (None if is_identity or not matrices else affine), axis_directions(affine)


def _axis_cosines(first: Affine, second: Affine) -> NDArray[np.float64]:
    """The cosines between the axes of two affines, axis by axis."""
    first_axes, second_axes = (matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (first, second))
    return np.asarray((first_axes * second_axes).sum(axis=0))


def _lps(matrix: Any) -> Affine:
    """A matrix from (i, j, k) to RAS, converted to one from (k, j, i) to LPS."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(matrix, float)[:, [2, 1, 0, 3]])


def geometry_fact(stack_geometry: str, stored: str) -> str:
    """The fact "geometry" of a DICOM scan: the regularity of its stack, and whether its orientation is unusual."""
    return ", ".join(filter(None, (stack_geometry, UNUSUAL if turn_to_upright(stored) != Turn() else "")))


def series_affine(affines: Sequence[Affine | None], geometry: str) -> Affine | None:
    """The affine of a series, from those of its slices (1 × rows × columns) in their order.

    None if the slices do not share one affine.
    """
    first, last = affines[0], affines[-1]
    if first is None or last is None or geometry not in EVEN:
        return None
    affine = first.copy()
    affine[:3, 0] = (last[:3, 3] - first[:3, 3]) / (len(affines) - 1)
    return affine if is_usable(affine) else None


def align_mask_to_scan(mask: Scan, scan: Scan) -> NDArray[np.float32]:
    """The mask's values on its scan's grid, slices × rows × columns: one voxel of the mask for each of the scan.

    With two affines, only these count: axes may be exchanged and reversed, and the mask may be larger than the scan.
    Without them, two files of one format must be stored alike. A picture also fits one slice of DICOM or another
    picture, because both are stored by rows and columns. Fault, without the mask's name, if the mask is off that grid.
    """
    if mask.affine is not None and scan.affine is not None:
        return _index_by_affine(mask.pixels, mask.affine, scan)
    if mask.pixels.shape != scan.pixels.shape:
        sides = [" × ".join(map(str, volume.pixels.shape)) for volume in (mask, scan)]
        raise Fault(f"is {sides[0]}, its scan {sides[1]} (slices × rows × columns); draw it on that very scan")
    formats = {mask.header.get("format"), scan.header.get("format")}
    is_stored_alike = len(formats) == 1 and mask.affine is scan.affine and mask.directions == scan.directions
    if is_stored_alike or (formats <= {"picture", "dicom"} and len(scan.pixels) == 1):
        return mask.pixels
    irregularity = scan.header.get("geometry", "").replace(UNUSUAL, "").strip(", ")
    if mask.affine is not None and irregularity not in ("", UNKNOWN, *EVEN):
        raise Fault(f"is on a regular grid, and its scan is not ({irregularity}); give masks and labels slice by slice")
    subject = "it does" if mask.affine is None else "its scan does"
    raise Fault(f"{subject} not say where its voxels are in the patient; draw it on that very scan, in the same format")


def _index_by_affine(pixels: NDArray[np.float32], affine: Affine, scan: Scan) -> NDArray[np.float32]:
    assert scan.affine is not None
    exact = np.linalg.inv(affine) @ scan.affine
    shape = scan.pixels.shape
    long_axes = [axis for axis in range(3) if shape[axis] > 1]
    order = max(permutations(range(3)), key=lambda axes: sum(abs(exact[axes[axis], axis]) for axis in long_axes))
    steps = np.zeros((3, 3))
    for axis in long_axes:
        steps[order[axis], axis] = 1.0 if exact[order[axis], axis] > 0 else -1.0
    corners = np.array(list(product(*((0, side - 1) for side in shape)))).T
    start = np.rint(exact[:3, 3])
    deviation = exact[:3, :3] @ corners + exact[:3, 3:] - (steps @ corners + start[:, None])
    if np.abs(deviation).max() > TOLERANCE:
        difference = _grid_difference(affine, scan.affine, exact, order, long_axes)
        raise Fault(f"{difference}; draw it on that very scan, or resample it to it")
    mask_corners = steps @ corners + start[:, None]
    if (mask_corners < 0).any() or (mask_corners.max(axis=1) > np.array(pixels.shape) - 1).any():
        sizes = [" × ".join(map(str, volume_shape)) for volume_shape in (pixels.shape, shape)]
        raise Fault(f"does not cover its scan: it is {sizes[0]}, its scan {sizes[1]} (slices × rows × columns)")
    indices = [np.empty(0, int)] * 3
    for axis, side in enumerate(shape):
        sign = int(steps[order[axis], axis])
        indices[order[axis]] = int(start[order[axis]]) + sign * np.arange(side)
    return np.ascontiguousarray(pixels[np.ix_(*indices)].transpose(order))


def _grid_difference(mask: Affine, scan: Affine, exact: Affine, order: Sequence[int], long_axes: Sequence[int]) -> str:
    """How a mask's grid differs from its scan's: voxel sizes, an angle, or a shift."""
    sizes = [np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (mask, scan)]
    if any(abs(sizes[0][order[axis]] / sizes[1][axis] - 1) > 0.01 for axis in long_axes):
        mask_size, scan_size = (" × ".join(f"{size:.2f}" for size in voxel) for voxel in sizes)
        return f"has voxels of {mask_size} mm, its scan of {scan_size} mm (slices × rows × columns)"
    cosines = [abs(exact[order[axis], axis]) * sizes[0][order[axis]] / sizes[1][axis] for axis in long_axes]
    if min(cosines, default=1.0) < 1 - 1e-5:
        return f"is turned against its scan by {np.degrees(np.arccos(min(1.0, min(cosines)))):.1f} degrees"
    shift = float(np.abs(exact[:3, 3] - np.rint(exact[:3, 3])).max())
    return f"is shifted by {shift:.2f} voxels against its scan"


def outline_doubt(scan: Scan) -> str:
    """Why an outline stored before masks were applied by affine may be misplaced on this scan; "" if it can't be.

    `scan` is the stored scan as it is read now; its mask is no longer stored. For a volume in a usual orientation the
    scan alone does not show whether the mask's slices ran in the other direction.
    """
    upright_turn = turn_to_upright(scan.directions)
    if scan.header.get("format") == "dicom" and upright_turn != Turn():
        return (
            f"its rows and columns run in the directions {scan.directions}; "
            "NIfTI masks were applied in the usual directions"
        )
    if scan.header.get("format") == "nifti" and (upright_turn.exchanged or scan.directions[2] not in "SI"):
        return f"its axes run in the directions {scan.directions}; masks were applied in the order of their own axes"
    return ""


def slice_doubt(scan: Scan) -> str:
    """Why the outlines (and labels derived from them) of an older volume or series may belong to other slices.

    That is only possible if the mask's slices ran in the other direction, which is rare: a hint, not a finding.
    """
    count = len(scan.pixels)
    return f"its {count} slices and those of its mask were matched by number" if count > 1 else ""
