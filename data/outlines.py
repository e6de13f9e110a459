"""Where the lesion of a unit is: its mask as shares of a coarse grid over what a network sees, one file for a batch.

Only the grid is kept, never the mask itself: no name, no header, and too coarse for anything but "here, not there".
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data import pixels, read
from data.record import Scan
from lineage.fault import Fault

NAME = "masks.npz"
GRID = 32  # cells along a side: finer than the feature maps of any backbone at its usual size
WHOLE = 255  # of a cell that lies in the lesion
Grid = NDArray[np.uint8]


def drawn(name: str, content: bytes, scan: Scan) -> NDArray[np.bool_]:
    """A mask file in any format of data/read.py: slices × rows × columns of its `scan`, true where it is above 0.

    Fault where it can't be read or has another shape than its scan; `name` stands for the file in the message.
    """
    mask = read.read(name, content).pixels
    if mask.shape != scan.pixels.shape:
        sides = [" × ".join(map(str, shape)) for shape in (mask.shape, scan.pixels.shape)]
        raise Fault(f"{name}: is {sides[0]}, its scan {sides[1]} (slices × rows × columns); draw it on that very scan")
    return np.asarray(mask > 0)


def grid(outline: NDArray[np.bool_]) -> Grid:
    """One slice of a mask (rows × columns) -> GRID × GRID shares in 255ths over the square that a network sees.

    Rounded up: a cell that the lesion touches at all is not 0.
    """
    return np.asarray(np.ceil(pixels.shares(outline, GRID) * np.float32(WHOLE)), np.uint8)


def write(path: Path, grids: Mapping[str, Grid]) -> None:
    """Write the grids by unit, the same bytes for the same grids; no file where there are none."""
    path.unlink(missing_ok=True)
    if grids:
        np.savez(path, units=np.array(list(grids), np.str_), shares=np.stack(list(grids.values())))


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
