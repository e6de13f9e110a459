"""Where the lesion of a unit is: its mask as shares of a coarse grid over what a network sees, one file for a batch.

Only the grid is kept, never the mask itself: no name, no header, and too coarse for anything but "here, not there".
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data.record import Scan
from data.scan import geometry, preprocess, read, zip_archive
from data.scan.picture_file import DEEPEST
from lineage.errors import Fault

NAME = "masks.npz"
GRID = 32  # cells along a side: finer than the feature maps of any backbone at its usual size
WHOLE = 255  # of a cell that lies in the lesion
SEGMENTED = ("SEG", "RTSTRUCT")  # Modality of DICOM objects that hold outlines, but no picture of them
JPEG, WHITE = b"\xff\xd8\xff", 255.0
WHITES: tuple[set[float], ...] = ({WHITE}, {float(DEEPEST)})  # of pictures of 8 and of 16 bits
NOISE = 24.0  # greys by which compression moves black and white; no 3 × 3 area of it was wider at quality 20
AREA = 3  # pixels along a side of a grey that is no noise
ROUNDING = 1e-3  # of a label that was stored with a slope
MANY = 65536  # labels of one mask
REGIONS = 256  # that a mask tells apart
NAMED = 5
Grid = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """A mask on the grid of its scan: `lesion` (slices × rows × columns), and the `values` but 0 that the file holds.

    `values` is empty where the lesion's was named, since then nothing is left to ask.
    """

    lesion: NDArray[np.bool_]
    values: frozenset[float]


def drawn(name: str, content: bytes, scan: Scan, lesion_values: Collection[float] = ()) -> Drawn:
    """A mask file in any format of data/scan/read.py, brought onto the grid of its `scan` (data/scan/geometry.py).

    The lesion is where the mask has one of `lesion_values`, or without those its only value but 0. Fault where the
    file can't be read, is not on that grid, or does not say which of its values is the lesion; `name` stands for the
    file in the message.
    """
    if content[128:132] == b"DICM" and str(read.dataset(name, content).get("Modality")) in SEGMENTED:
        raise Fault(f"{name}: is a DICOM segmentation, which can't be read yet; convert it to NIfTI on its scan's grid")
    mask = read.read(name, content)
    if mask.padding is not None:  # no number, or declared: no label
        mask = replace(mask, pixels=np.where(mask.padding, np.float32(0), mask.pixels))
    if mask.header.get("depth") == "16":
        mask = replace(mask, pixels=np.rint(mask.pixels * np.float32(DEEPEST / WHITE)))  # labels as they are stored
    if content.startswith(JPEG):
        mask = replace(mask, pixels=_two_greys(name, mask.pixels))
    values = _values(name, mask.pixels, lesion_values)
    if values in WHITES and mask.header.get("format") == "picture" and not lesion_values:
        values = {1.0}  # white of a picture and 1 of a volume are both "yes"
    try:
        placed = geometry.on_grid(mask, scan)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault
    chosen = np.isclose(placed[..., None], list(lesion_values), atol=ROUNDING).any(-1) if lesion_values else placed > 0
    lesion = np.asarray(chosen, bool)
    if _is_inverted(lesion):
        raise Fault(
            f"{name}: outlines the corners of slices and not what lies between, so it may be inverted; save "
            "it with 1 where the lesion is, and 0 elsewhere"
        )
    return Drawn(lesion, frozenset() if lesion_values else frozenset(values))


def meaning(masks: Mapping[str, frozenset[float]]) -> None:
    """Fault where masks of one import or batch, by name, hold different values: nobody says which is a lesion."""
    holders: dict[float, str] = {}
    for name, values in masks.items():
        for value in values:
            holders.setdefault(value, name)
    if len(holders) > 1:
        some = ", ".join(f"{value:g} (first in {name})" for value, name in sorted(holders.items())[:NAMED])
        raise Fault(f"the masks hold different values: {some}; {ask(holders)}")


def ask(values: Collection[float]) -> str:
    """How to say which value of a mask is the lesion."""
    return (
        f"say which is the lesion, for example with `oncoloop import --lesion-value {max(values):g}`, or in the column "
        "lesion_value of metadata.csv (several: 1,2)"
    )


def lesion_values(text: str) -> tuple[float, ...]:
    """The numbers of a cell or option such as "2" or "1,2"; none of an empty one. Fault for anything else."""
    try:
        values = tuple(float(part) for part in text.replace(";", ",").split(",")) if text else ()
    except ValueError:
        values = (0.0,)
    if not all(0 < abs(value) < MANY for value in values):
        raise Fault(f"the lesion value {text[:20]!r} is no number but 0, nor several such as 1,2")
    return values


def _is_inverted(lesion: NDArray[np.bool_]) -> bool:
    """Whether most slices of a lesion are outlined in all four corners, and not everywhere."""
    corners = lesion[:, :: lesion.shape[1] - 1 or 1, :: lesion.shape[2] - 1 or 1].all(axis=(1, 2))
    outlined = lesion.any(axis=(1, 2))
    partly = corners & ~lesion.all(axis=(1, 2))
    return bool(partly.any() and 2 * corners.sum() > outlined.sum())


def _values(name: str, pixels: NDArray[np.float32], lesion_values: Collection[float]) -> set[float]:
    """The values of a mask but 0. Fault where they are no labels, or where no one of them is plainly the lesion."""
    low, high = float(pixels.min()), float(pixels.max())
    other = pixels[pixels != 0]
    if not len(other):
        return set()
    if other.min() == other.max():
        values = {float(other.max())}
    elif high - low < MANY and np.abs(other - np.rint(other)).max() < ROUNDING:
        values = {float(value + round(low)) for value in np.flatnonzero(_counts(other, round(low)))} - {0.0}
    elif low >= 0 and high <= 1:
        raise Fault(f"{name}: holds fractions between 0 and 1, as a map of probabilities does; save it as 0 and 1")
    else:
        raise Fault(f"{name}: holds values that are no labels, such as {other.flat[0]:g}; save it with one per region")
    if len(values) > REGIONS:
        raise Fault(f"{name}: holds {len(values)} values, as a scan does and no mask; name the mask in its place")
    if lesion_values:
        return values
    if len(values) > 1 or low < 0:
        listed = ", ".join(f"{value:g}" for value in sorted(values)[:NAMED])
        raise Fault(f"{name}: holds the values {listed} besides 0; {ask(values)}")
    if low > 0:
        raise Fault(f"{name}: holds the value {low:g} everywhere and no background; {ask(values)}")
    return values


def _counts(values: NDArray[np.float32], low: int) -> NDArray[np.int64]:
    return np.bincount((np.rint(values) - low).astype(np.int64))


def _two_greys(name: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """A mask that was saved as JPEG, its noise taken away: 0 or 255. Fault where it has a third grey, or no white."""
    if pixels.max() > 0 and pixels.max() < WHITE - NOISE:
        raise Fault(f"{name}: is a JPEG whose brightest pixel is {pixels.max():g}, not white; save it as PNG")
    between = (pixels > NOISE) & (pixels < WHITE - NOISE)
    if min(between.shape[1:]) >= AREA and sliding_window_view(between, (1, AREA, AREA)).all(axis=(3, 4, 5)).any():
        raise Fault(f"{name}: is a JPEG with grey areas that are neither black nor white; save it as PNG")
    return np.where(pixels >= WHITE / 2, np.float32(WHITE), np.float32(0))


def grid(outline: NDArray[np.bool_]) -> Grid:
    """One slice of a mask (rows × columns) -> GRID × GRID shares in 255ths over the square that a network sees.

    Rounded up: a cell that the lesion touches at all is not 0.
    """
    return np.asarray(np.ceil(preprocess.shares(outline, GRID) * np.float32(WHOLE)), np.uint8)


def write(path: Path, grids: Mapping[str, Grid]) -> None:
    """Write the grids by unit, the same bytes for the same grids; no file where there are none."""
    path.unlink(missing_ok=True)
    if grids:  # as numpy.savez, whose zip has other bytes from one patch of Python to the next
        arrays = {"units": np.array(list(grids), np.str_), "shares": np.stack(list(grids.values()))}
        path.write_bytes(zip_archive.packed({f"{name}.npy": _npy(array) for name, array in arrays.items()}))


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def read_grids(path: Path) -> dict[str, Grid]:
    """The grids by unit; none where there is no file. Fault where it is damaged."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as kept:
            units, shares = kept["units"], kept["shares"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Fault(f"{path} is damaged ({' '.join(str(error).split())}); restore it with `dvc checkout`") from error
    return {str(unit): share for unit, share in zip(units, shares, strict=True)}


def narrow(source: Path, target: Path, units: Sequence[str]) -> None:
    """Write into the folder `target` the masks of the folder `source` for these units alone."""
    grids = read_grids(source / NAME)
    write(target / NAME, {unit: grids[unit] for unit in units if unit in grids})


def stacked(path: Path, units: Sequence[str]) -> NDArray[np.float32] | None:
    """The masks of these units, n × GRID × GRID × 1 in [0, 1], NaN for a unit without one; None where none has one."""
    grids = read_grids(path)
    if not grids.keys() & set(units):
        return None
    found = np.full((len(units), GRID, GRID, 1), np.nan, np.float32)
    for place, unit in enumerate(units):
        if unit in grids:
            found[place, :, :, 0] = grids[unit] / np.float32(WHOLE)
    return found
