"""Lesion grids: the mask of a unit as lesion shares of a coarse grid over the network input; one file per batch."""

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

from data.core_types import Scan
from data.scan import geometry, preprocess, read, zip_archive
from data.scan.picture_file import WHITE_16_BIT
from lineage.errors import Fault

NAME = "masks.npz"
GRID = 32  # cells per side: finer than the feature maps of any backbone; coarse enough to hold no identity
FULL = 255  # value of a cell that is completely lesion
SEGMENTED = ("SEG", "RTSTRUCT")  # Modality of DICOM objects with outlines and no pixel mask
JPEG, WHITE = b"\xff\xd8\xff", 255.0
WHITES: tuple[set[float], ...] = ({WHITE}, {float(WHITE_16_BIT)})  # white of pictures with 8 and with 16 bits
NOISE = 24.0  # grey levels of JPEG noise around black and white; measured: no 3 × 3 area exceeds it at quality 20
GREY_SIDE = 3  # pixels per side of a grey area that is not noise
ROUNDING = 1e-3  # tolerance of a label that was stored with a slope
MAX_LABEL = 65536
MAX_VALUES = 256  # distinct values of one mask
MAX_NAMED = 5  # values in one message
Grid = NDArray[np.uint8]


@dataclass(frozen=True)
class LesionMask:
    """A mask on the grid of its scan: `lesion` (slices × rows × columns), and the `values` other than 0 in the file.

    `values` is empty if the lesion value was given, because then the meaning of the values is known.
    """

    lesion: NDArray[np.bool_]
    values: frozenset[float]


def read_lesion_mask(name: str, content: bytes, scan: Scan, lesion_values: Collection[float] = ()) -> LesionMask:
    """Read a mask file in any format of data/scan/read.py onto the grid of its `scan` (data/scan/geometry.py).

    The lesion is where the mask has one of `lesion_values`; without those, where it has its only value other than 0.
    Fault if the file cannot be read, is not on that grid, or does not say which of its values is the lesion. Messages
    call the file `name`.
    """
    if content[128:132] == b"DICM" and str(read.dataset(name, content).get("Modality")) in SEGMENTED:
        raise Fault(f"{name}: is a DICOM segmentation, which can't be read yet; convert it to NIfTI on its scan's grid")
    mask = read.read_scan(name, content)
    if mask.padding is not None:  # NaN or declared padding is no label
        mask = replace(mask, pixels=np.where(mask.padding, np.float32(0), mask.pixels))
    if mask.header.get("depth") == "16":
        mask = replace(
            mask, pixels=np.rint(mask.pixels * np.float32(WHITE_16_BIT / WHITE))
        )  # back to the stored labels
    if content.startswith(JPEG):
        mask = replace(mask, pixels=_binarise_jpeg(name, mask.pixels))
    values = _label_values(name, mask.pixels, lesion_values)
    if values in WHITES and mask.header.get("format") == "picture" and not lesion_values:
        values = {1.0}  # white in a picture means the same as 1 in a volume
    try:
        labels = geometry.align_mask_to_scan(mask, scan)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault
    is_lesion = (
        np.isclose(labels[..., None], list(lesion_values), atol=ROUNDING).any(-1) if lesion_values else labels > 0
    )
    lesion = np.asarray(is_lesion, bool)
    if _is_inverted(lesion):
        raise Fault(
            f"{name}: outlines the corners of slices and not their middle, so it may be inverted; save "
            "it with 1 where the lesion is, and 0 elsewhere"
        )
    return LesionMask(lesion, frozenset() if lesion_values else frozenset(values))


def check_one_meaning(masks: Mapping[str, frozenset[float]]) -> None:
    """Fault if the masks of one import or batch, by name, hold different values: the lesion value is then unknown."""
    name_by_value: dict[float, str] = {}
    for name, values in masks.items():
        for value in values:
            name_by_value.setdefault(value, name)
    if len(name_by_value) > 1:
        listed = ", ".join(f"{value:g} (first in {name})" for value, name in sorted(name_by_value.items())[:MAX_NAMED])
        raise Fault(f"the masks hold different values: {listed}; {lesion_value_advice(name_by_value)}")


def lesion_value_advice(values: Collection[float]) -> str:
    """Advice for a message: how to state which value of a mask is the lesion."""
    return (
        f"say which is the lesion, for example with `oncoloop import --lesion-value {max(values):g}`, or in the column "
        "lesion_value of metadata.csv (several: 1,2)"
    )


def lesion_values(text: str) -> tuple[float, ...]:
    """The numbers in a cell or option such as "2" or "1,2"; none if it is empty. Fault for any other text."""
    try:
        values = tuple(float(part) for part in text.replace(";", ",").split(",")) if text else ()
    except ValueError:
        values = (0.0,)
    if not all(0 < abs(value) < MAX_LABEL for value in values):
        raise Fault(f"the lesion value {text[:20]!r} is no number but 0, nor several such as 1,2")
    return values


def _is_inverted(lesion: NDArray[np.bool_]) -> bool:
    """Whether most slices of a lesion are outlined in all four corners, but not everywhere."""
    has_corners = lesion[:, :: lesion.shape[1] - 1 or 1, :: lesion.shape[2] - 1 or 1].all(axis=(1, 2))
    has_outline = lesion.any(axis=(1, 2))
    is_partial = has_corners & ~lesion.all(axis=(1, 2))
    return bool(is_partial.any() and 2 * has_corners.sum() > has_outline.sum())


def _label_values(name: str, pixels: NDArray[np.float32], lesion_values: Collection[float]) -> set[float]:
    """The values of a mask other than 0. Fault if they are no labels, or if the lesion value is ambiguous."""
    low, high = float(pixels.min()), float(pixels.max())
    nonzero = pixels[pixels != 0]
    if not len(nonzero):
        return set()
    if nonzero.min() == nonzero.max():
        values = {float(nonzero.max())}
    elif high - low < MAX_LABEL and np.abs(nonzero - np.rint(nonzero)).max() < ROUNDING:
        values = {float(value + round(low)) for value in np.flatnonzero(_label_counts(nonzero, round(low)))} - {0.0}
    elif low >= 0 and high <= 1:
        raise Fault(f"{name}: contains fractions between 0 and 1, as a probability map does; save it as 0 and 1")
    else:
        raise Fault(
            f"{name}: contains values that are no labels, such as {nonzero.flat[0]:g}; save it with one per region"
        )
    if len(values) > MAX_VALUES:
        raise Fault(f"{name}: holds {len(values)} values, as a scan does and no mask; give the mask in its place")
    if lesion_values:
        return values
    if len(values) > 1 or low < 0:
        listed = ", ".join(f"{value:g}" for value in sorted(values)[:MAX_NAMED])
        raise Fault(f"{name}: holds the values {listed} besides 0; {lesion_value_advice(values)}")
    if low > 0:
        raise Fault(f"{name}: holds the value {low:g} everywhere and has no background; {lesion_value_advice(values)}")
    return values


def _label_counts(values: NDArray[np.float32], low: int) -> NDArray[np.int64]:
    return np.bincount((np.rint(values) - low).astype(np.int64))


def _binarise_jpeg(name: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """A mask saved as JPEG without its noise: 0 or 255. Fault if it has a third grey level, or no white."""
    if pixels.max() > 0 and pixels.max() < WHITE - NOISE:
        raise Fault(f"{name}: is a JPEG whose brightest pixel is {pixels.max():g}, not white; save it as PNG")
    between = (pixels > NOISE) & (pixels < WHITE - NOISE)
    if (
        min(between.shape[1:]) >= GREY_SIDE
        and sliding_window_view(between, (1, GREY_SIDE, GREY_SIDE)).all(axis=(3, 4, 5)).any()
    ):
        raise Fault(f"{name}: is a JPEG with grey areas that are neither black nor white; save it as PNG")
    return np.where(pixels >= WHITE / 2, np.float32(WHITE), np.float32(0))


def lesion_shares(outline: NDArray[np.bool_]) -> Grid:
    """One slice of a mask (rows × columns) -> GRID × GRID lesion shares in 255ths over the square network input.

    Shares are rounded up: a cell that the lesion touches is not 0.
    """
    return np.asarray(np.ceil(preprocess.mask_shares(outline, GRID) * np.float32(FULL)), np.uint8)


def write_grids(path: Path, grids: Mapping[str, Grid]) -> None:
    """Write the grids by unit, with the same bytes for the same grids; no file if there are none.

    Only grids are stored, never the mask file, because its header can name the patient.
    """
    path.unlink(missing_ok=True)
    if grids:  # not numpy.savez: its zip bytes change between patch versions of Python
        arrays = {"units": np.array(list(grids), np.str_), "shares": np.stack(list(grids.values()))}
        path.write_bytes(zip_archive.pack_files({f"{name}.npy": _npy_bytes(array) for name, array in arrays.items()}))


def _npy_bytes(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def read_grids(path: Path) -> dict[str, Grid]:
    """The grids by unit; none if there is no file. Fault if it is damaged."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            units, shares = arrays["units"], arrays["shares"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Fault(f"{path} is damaged ({' '.join(str(error).split())}); restore it with `dvc checkout`") from error
    return {str(unit): share for unit, share in zip(units, shares, strict=True)}


def narrow(source: Path, target: Path, units: Sequence[str]) -> None:
    """Write the masks of the folder `source` into the folder `target`, for these units only."""
    grids = read_grids(source / NAME)
    write_grids(target / NAME, {unit: grids[unit] for unit in units if unit in grids})


def stack_grids(path: Path, units: Sequence[str]) -> NDArray[np.float32] | None:
    """The masks of these units, n × GRID × GRID × 1 in [0, 1].

    NaN for a unit without a mask, None if no unit has one.
    """
    grids = read_grids(path)
    if not grids.keys() & set(units):
        return None
    masks = np.full((len(units), GRID, GRID, 1), np.nan, np.float32)
    for index, unit in enumerate(units):
        if unit in grids:
            masks[index, :, :, 0] = grids[unit] / np.float32(FULL)
    return masks
