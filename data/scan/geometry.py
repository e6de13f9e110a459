"""Where voxels lie in the body: the affine of a scan, how its slices are turned, and masks brought onto its grid.

An affine (4 × 4) takes (slice, row, column, 1) of a scan's pixels to mm in the patient system of DICOM, LPS: x runs to
the patient's left, y to the back, z to the head (PS3.3 C.7.6.2.1.1). NIfTI's RAS is turned into it on reading.
Directions are three letters, for columns, rows and slices: towards which of L R, P A, S I each index rises.

What a network, a viewer and the desk show is one picture. DICOM and pictures have rows and columns: they stay as they
are stored, whatever the patient's position. NIfTI has none: its slices are turned as a radiologist hangs them, which is
how DICOM writes a patient who lies on the back. Slices keep the order and the numbers of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Scan
from lineage.errors import Fault

Affine = NDArray[np.float64]
TOLERANCE = 0.25  # of a voxel, at the grid's corners: rounding of spacings and positions stays below it
LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # of the patient axes x, y, z: falling, rising
UPRIGHT = {"S": "LP", "I": "LP", "P": "LI", "A": "LI", "L": "PI", "R": "PI"}  # columns, rows by direction of slices
LEAST = 1e-6  # mm: what is shorter is no voxel
UNKNOWN = "unknown orientation"  # header["geometry"] of a volume that does not say how it lies
UNUSUAL = "unusual orientation"  # and of a DICOM picture that is prone, on its side or flipped: not as `turn` has it
APART = 0.5  # cosine of an axis of sform and qform: a head registered to an atlas is turned by less than 60 degrees
EVEN = ("even", "gantry tilt")  # how slices lie, where one affine is true of them all (see data/scan/series.py)


@dataclass(frozen=True)
class Turn:
    """How stored slices are turned in their plane: rows and columns exchanged, then their orders reversed."""

    exchanged: bool = False
    rows: bool = False
    columns: bool = False

    def planes(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Slices × rows × columns, turned; a view."""
        turned = stored.swapaxes(1, 2) if self.exchanged else stored
        return turned[:, :: -1 if self.rows else 1, :: -1 if self.columns else 1]

    def affine(self, stored: Affine, shape: Sequence[int]) -> Affine:
        """The affine of the turned planes; `shape` is that of the stored ones (slices, rows, columns)."""
        turned = stored.copy()
        sides = list(shape)
        if self.exchanged:
            turned[:, [1, 2]] = turned[:, [2, 1]]
            sides[1], sides[2] = sides[2], sides[1]
        for axis, reverse in ((1, self.rows), (2, self.columns)):
            if reverse:
                turned[:, 3] += turned[:, axis] * (sides[axis] - 1)
                turned[:, axis] *= -1
        return turned


def directions(affine: Affine) -> str:
    """Towards where columns, rows and slices run, for example "LPS"; each letter pair is used once.

    Of an oblique grid it is the nearest of the 48 orientations.
    """
    a, b, c = (affine[:3, 2::-1] / np.linalg.norm(affine[:3, 2::-1], axis=0)).T.tolist()
    order = max(permutations(range(3)), key=lambda axes: round(abs(a[axes[0]]) + abs(b[axes[1]]) + abs(c[axes[2]]), 6))
    return "".join(LETTERS[axis][int(cosines[axis] > 0)] for axis, cosines in zip(order, (a, b, c), strict=True))


def turn(stored: str) -> Turn:
    """What turns slices of these directions as a radiologist hangs them: the patient's right at the left.

    Axial slices have the front at the top, coronal and sagittal ones the head; sagittal ones the front at the left.
    No turn where nothing is known ("").
    """
    if not stored:
        return Turn()
    columns, rows = tuple(UPRIGHT[stored[2]])
    pair = next(pair for pair in LETTERS if columns in pair)
    exchanged = stored[0] not in pair
    first, second = (stored[1], stored[0]) if exchanged else (stored[0], stored[1])
    return Turn(exchanged, second != rows, first != columns)


def usable(affine: Affine) -> bool:
    """Whether an affine is made of numbers and spans a volume."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((lengths > LEAST).all() and abs(np.linalg.det(affine[:3, :3] / lengths)) > LEAST)


def dicom(
    position: Sequence[float], cosines: Sequence[float], spacing: tuple[float, float, float] | None, step: Any = None
) -> tuple[Affine | None, str]:
    """Affine and directions out of ImagePositionPatient, ImageOrientationPatient and (distance, row, column) in mm.

    `step` (3,) leads from slice to slice in mm; without one the distance is taken along the normal. The affine is None
    without position or spacing, the directions are "" without an orientation.
    """
    if len(cosines) != 6 or not _square(cosines):
        return None, ""
    a, b, c, d, e, f = cosines
    distance, row, column = spacing or (1.0, 1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 1], affine[:3, 2] = (d * row, e * row, f * row), (a * column, b * column, c * column)
    if step is None:
        step = tuple(side * (distance or 1.0) for side in (b * f - c * e, c * d - a * f, a * e - b * d))
    affine[:3, 0] = step
    if not usable(affine):
        return None, ""
    if spacing is None or len(position) != 3 or not all(map(math.isfinite, position)):
        return None, directions(affine)
    affine[:3, 3] = position
    return affine, directions(affine)


def _square(cosines: Sequence[float]) -> bool:
    """Whether six direction cosines are two unit vectors at right angles, but for rounding."""
    a, b, c, d, e, f = cosines
    odd = (a * a + b * b + c * c - 1, d * d + e * e + f * f - 1, a * d + b * e + c * f)
    return all(abs(value) < 0.01 for value in odd)


def nifti(header: Any) -> tuple[Affine | None, str]:
    """Affine and stored directions of a NIfTI volume whose voxels (i, j, k) are read as slices k × rows j × columns i.

    The sform holds if its code is set, else the qform (nibabel's rule). None where neither is set, or where the matrix
    is an identity, as software writes that knows nothing of the patient: the directions are then those that the format
    assumes. Fault where an axis of the sform runs elsewhere than the qform's, or where the matrix spans no volume.
    """
    matrices = [_lps(matrix) for matrix, code in (header.get_sform(coded=True), header.get_qform(coded=True)) if code]
    if not all(map(usable, matrices)):
        raise Fault("its sform or qform is no matrix of a volume; export it again")
    if len(matrices) > 1 and _cosines(*matrices).min() < APART:
        raise Fault("its sform and its qform name different sides of the patient; set one of them to the other")
    affine = matrices[0] if matrices else _lps(header.get_base_affine())
    if not usable(affine):
        raise Fault("its voxels have no size; export it again")
    plain = np.array_equal(np.abs(affine[:3, 2::-1]), np.eye(3)) and not affine[:3, 3].any()
    return (None if plain or not matrices else affine), directions(affine)


def _cosines(one: Affine, other: Affine) -> NDArray[np.float64]:
    """The cosines between the axes of two affines, axis by axis."""
    axes, others = (matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (one, other))
    return np.asarray((axes * others).sum(axis=0))


def _lps(matrix: Any) -> Affine:
    """A matrix of (i, j, k) to RAS as one of (k, j, i) to LPS."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(matrix, float)[:, [2, 1, 0, 3]])


def fact(lie: str, stored: str) -> str:
    """The fact "geometry" of a DICOM scan: how its slices lie to each other, and whether they hang unusually."""
    return ", ".join(filter(None, (lie, UNUSUAL if turn(stored) != Turn() else "")))


def stacked(affines: Sequence[Affine | None], geometry: str) -> Affine | None:
    """The affine of a series out of those of its slices (1 × rows × columns each) in their order.

    None where not one affine is true of all of them.
    """
    first, last = affines[0], affines[-1]
    if first is None or last is None or geometry not in EVEN:
        return None
    affine = first.copy()
    affine[:3, 0] = (last[:3, 3] - first[:3, 3]) / (len(affines) - 1)
    return affine if usable(affine) else None


def on_grid(mask: Scan, scan: Scan) -> NDArray[np.float32]:
    """The mask's values on its scan's grid, slices × rows × columns: one voxel of the mask for each of the scan's.

    With two affines by these alone: axes may be exchanged and reversed, and the mask may reach farther than the scan.
    Without: two files of one format that are stored alike; or one picture for one slice of DICOM or another picture,
    since both are stored by rows and columns. Fault, without the mask's name, where the mask is not on that grid.
    """
    if mask.affine is not None and scan.affine is not None:
        return _by_affine(mask.pixels, mask.affine, scan)
    if mask.pixels.shape != scan.pixels.shape:
        sides = [" × ".join(map(str, each.pixels.shape)) for each in (mask, scan)]
        raise Fault(f"is {sides[0]}, its scan {sides[1]} (slices × rows × columns); draw it on that very scan")
    formats = {mask.header.get("format"), scan.header.get("format")}
    alike = len(formats) == 1 and mask.affine is scan.affine and mask.directions == scan.directions
    if alike or (formats <= {"picture", "dicom"} and len(scan.pixels) == 1):
        return mask.pixels
    odd = scan.header.get("geometry", "").replace(UNUSUAL, "").strip(", ")
    if mask.affine is not None and odd not in ("", UNKNOWN, *EVEN):
        raise Fault(f"lies on a regular grid, and its scan does not ({odd}); give masks and labels slice by slice")
    silent = "it does" if mask.affine is None else "its scan does"
    raise Fault(f"{silent} not say where its voxels lie in the patient; draw it on that very scan, in the same format")


def _by_affine(pixels: NDArray[np.float32], affine: Affine, scan: Scan) -> NDArray[np.float32]:
    assert scan.affine is not None
    exact = np.linalg.inv(affine) @ scan.affine
    sides = scan.pixels.shape
    long = [axis for axis in range(3) if sides[axis] > 1]
    order = max(permutations(range(3)), key=lambda axes: sum(abs(exact[axes[axis], axis]) for axis in long))
    steps = np.zeros((3, 3))
    for axis in long:
        steps[order[axis], axis] = 1.0 if exact[order[axis], axis] > 0 else -1.0
    corners = np.array(list(product(*((0, side - 1) for side in sides)))).T
    start = np.rint(exact[:3, 3])
    away = exact[:3, :3] @ corners + exact[:3, 3:] - (steps @ corners + start[:, None])
    if np.abs(away).max() > TOLERANCE:
        raise Fault(f"{_why(affine, scan.affine, exact, order, long)}; draw it on that very scan, or resample it to it")
    reached = steps @ corners + start[:, None]
    if (reached < 0).any() or (reached.max(axis=1) > np.array(pixels.shape) - 1).any():
        sizes = [" × ".join(map(str, shape)) for shape in (pixels.shape, sides)]
        raise Fault(f"does not cover its scan: it is {sizes[0]}, its scan {sizes[1]} (slices × rows × columns)")
    lines = [np.empty(0, int)] * 3
    for axis, side in enumerate(sides):
        sign = int(steps[order[axis], axis])
        lines[order[axis]] = int(start[order[axis]]) + sign * np.arange(side)
    return np.ascontiguousarray(pixels[np.ix_(*lines)].transpose(order))


def _why(mask: Affine, scan: Affine, exact: Affine, order: Sequence[int], long: Sequence[int]) -> str:
    """What sets a mask's grid apart from its scan's: voxel sizes, an angle, or a shift."""
    sizes = [np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (mask, scan)]
    if any(abs(sizes[0][order[axis]] / sizes[1][axis] - 1) > 0.01 for axis in long):
        mine, its = (" × ".join(f"{size:.2f}" for size in voxel) for voxel in sizes)
        return f"has voxels of {mine} mm, its scan of {its} mm (slices × rows × columns)"
    cosines = [abs(exact[order[axis], axis]) * sizes[0][order[axis]] / sizes[1][axis] for axis in long]
    if min(cosines, default=1.0) < 1 - 1e-5:
        return f"is turned against its scan by {np.degrees(np.arccos(min(1.0, min(cosines)))):.1f} degrees"
    shift = float(np.abs(exact[:3, 3] - np.rint(exact[:3, 3])).max())
    return f"lies {shift:.2f} voxels beside the voxels of its scan"


def outline_doubt(scan: Scan) -> str:
    """Why an outline that was stored before masks were applied by affine may lie wrongly on this scan; "" if it can't.

    `scan` is the stored scan as it is read now. Its mask of then is gone: that a mask's slices ran the other way than
    those of a volume in a usual orientation can't be told from the scan alone.
    """
    turned = turn(scan.directions)
    if scan.header.get("format") == "dicom" and turned != Turn():
        return (
            f"its rows and columns run in the directions {scan.directions}; NIfTI masks were laid on it the usual way"
        )
    if scan.header.get("format") == "nifti" and (turned.exchanged or scan.directions[2] not in "SI"):
        return f"its axes run in the directions {scan.directions}; masks were laid on it by the order of their own axes"
    return ""


def slice_doubt(scan: Scan) -> str:
    """Why the outlines (and labels out of them) of a volume or series from before may be those of other slices.

    This is only possible where the mask's slices ran the other way, which is rare: a hint to look, no finding.
    """
    count = len(scan.pixels)
    return f"its {count} slices and those of its mask were put together by number" if count > 1 else ""
