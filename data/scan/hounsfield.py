"""Plausibility of Hounsfield units: NIfTI, which states no unit, in a CT task, and CT with 0 in place of air."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data.core_types import Modality, Scan, ValueUnit
from data.scan import padding
from data.scan.preprocess import DISPLAY_WHITE
from data.scan.slice_rules import AIR, AIR_TO_METAL
from lineage.errors import Fault

SAMPLE = 2**20  # voxels, on a regular grid
SOFT_TISSUE = (-200.0, 300.0)  # HU: fat to contrast-enhanced organs
MAX_WATER = 0.05  # share of exact water; a rotated volume or a segmented body is filled with 0
BLANK = 0.98  # of a scan; the slice rules report it for each slice
WATER_STEP = 3  # rows and columns: the grid of pixels that are checked for water
MIN_SPREAD = 0.5  # of the 65,536 greys of 16 bits; 12-bit values use 6 %
MIN_SOFT_TISSUE = 0.02  # share of a body volume


def convert_to_task_units(scan: Scan, modality: Modality | str) -> Scan:
    """The scan in the units of a task of that modality: NIfTI with plausible HU gets the unit HU for CT.

    The padding of such a scan is filled in place, as for other CT. Other formats state their unit themselves. Fault for
    NIfTI that can't be HU in a CT task, or that plainly is HU in another task; for CT with 0 in place of air or
    padding; and for a 16-bit picture that holds scanner values, whose black and white are unknown.
    """
    is_deep = scan.header.get("depth") == "16" and not scan.header["image_type"]
    if is_deep and (spread := float(np.ptp(scan.pixels)) / DISPLAY_WHITE) < MIN_SPREAD:
        raise Fault(
            f"{scan.name}: is a picture of 16 bits that uses {spread:.0%} of its greys, so its black and its "
            "white are unknown; save it in the task's window, from black to white"
        )
    if scan.units is ValueUnit.HU and MAX_WATER < (water_share := _water_share(scan.pixels)) < BLANK:
        raise Fault(
            f"{scan.name}: {water_share:.0%} of it is exactly 0 HU, as where 0 was filled in for air or as padding; "
            "declare it as PixelPaddingValue, or export the scan again without it"
        )
    if scan.header.get("format") != "nifti" or scan.units is not ValueUnit.RAW:
        return scan
    doubt = implausible(scan.pixels)
    if modality != Modality.CT:
        if not doubt:
            raise Fault(f"{scan.name}: its values are Hounsfield units, so it is a CT and no {modality}; leave it out")
        return scan
    water_share = _water_share(scan.pixels)
    if not doubt and water_share > MAX_WATER:
        doubt = f"{water_share:.0%} of it is exactly 0, as where 0 was filled in for air"
    if doubt:
        raise Fault(
            f"{scan.name}: {doubt}, so its values are no Hounsfield units; convert it again from DICOM, with "
            "rescale slope and intercept and without a window or a normalisation"
        )
    return replace(scan, units=ValueUnit.HU, padding=padding.fill_padding(scan.pixels, ValueUnit.HU, scan.padding))


def _water_share(pixels: NDArray[np.float32]) -> float:
    """The share of pixels that are exactly 0."""
    sample = pixels[:, ::WATER_STEP, ::WATER_STEP]
    return float(np.count_nonzero(sample == 0) / sample.size)


def implausible(pixels: NDArray[np.float32]) -> str:
    """Why values can't be the HU of a body with air in it or around it; "" if they can."""
    values = pixels.ravel()
    values = values[:: max(1, values.size // SAMPLE)]
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    if low > AIR:
        return f"its darkest hundredth is {low:.4g} or more, and the air of a CT is about -1000"
    if low < AIR_TO_METAL[0] or high > AIR_TO_METAL[1]:
        return f"its values run from {low:.4g} to {high:.4g}, and a CT's from {AIR_TO_METAL[0]} to {AIR_TO_METAL[1]}"
    soft_tissue = float(((values > SOFT_TISSUE[0]) & (values < SOFT_TISSUE[1])).mean())
    return (
        ""
        if soft_tissue >= MIN_SOFT_TISSUE
        else f"only {soft_tissue:.1%} of it is in the range of soft tissue ({SOFT_TISSUE} HU)"
    )
