"""Hounsfield units: what NIfTI, which names no unit, may hold for a CT task, and CT with 0 in place of its air."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data.record import Modality, Scan, Units
from data.scan import padding
from data.scan.preprocess import DISPLAY_WHITE
from data.scan.slice_rules import AIR, AIR_TO_METAL
from lineage.errors import Fault

SAMPLE = 2**20  # voxels, on a regular grid
SOFT_TISSUE = (-200.0, 300.0)  # HU: fat to contrast-enhanced organs
MOST_WATER = 0.05  # of a scan that is exactly water; filled with 0 are a turned volume and a cut-out body
BLANK = 0.98  # of a scan: the rules say so of each slice
EVERY = 3  # rows and columns: the pixels that are looked at for water
LEAST_SPREAD = 0.5  # of the 65,536 greys of 16 bits: numbers of 12 bits use 6 %
LEAST_SOFT = 0.02  # of a volume of a body


def in_units_of(scan: Scan, modality: Modality | str) -> Scan:
    """The scan as a task of that modality reads it: NIfTI with plausible HU has the unit HU for CT, and its padding is
    filled in place as that of other CT.

    Other formats say their unit themselves. Fault for NIfTI that can't be HU in a CT task, or that plainly is HU in
    another one, for CT with 0 in place of its air or its padding, and for a picture of 16 bits that holds a scanner's
    numbers: its black and white are unknown.
    """
    is_deep = scan.header.get("depth") == "16" and not scan.header["image_type"]
    if is_deep and (spread := float(np.ptp(scan.pixels)) / DISPLAY_WHITE) < LEAST_SPREAD:
        raise Fault(
            f"{scan.name}: is a picture of 16 bits that uses {spread:.0%} of its greys, so its black and its "
            "white are unknown; save it in the task's window, from black to white"
        )
    if scan.units is Units.HU and MOST_WATER < (water := _water(scan.pixels)) < BLANK:
        raise Fault(
            f"{scan.name}: {water:.0%} of it is exactly 0 HU, as where 0 was filled in for air or as padding; "
            "declare it as PixelPaddingValue, or export the scan again without it"
        )
    if scan.header.get("format") != "nifti" or scan.units is not Units.RAW:
        return scan
    doubt = implausible(scan.pixels)
    if modality != Modality.CT:
        if not doubt:
            raise Fault(f"{scan.name}: its values are Hounsfield units, so it is a CT and no {modality}; leave it out")
        return scan
    water = _water(scan.pixels)
    if not doubt and water > MOST_WATER:
        doubt = f"{water:.0%} of it is exactly 0, as where 0 was filled in for air"
    if doubt:
        raise Fault(
            f"{scan.name}: {doubt}, so its values are no Hounsfield units; convert it again from DICOM, with "
            "rescale slope and intercept and without a window or a normalisation"
        )
    return replace(scan, units=Units.HU, padding=padding.filled(scan.pixels, Units.HU, scan.padding))


def _water(pixels: NDArray[np.float32]) -> float:
    """The share of exact zeros."""
    sample = pixels[:, ::EVERY, ::EVERY]
    return float(np.count_nonzero(sample == 0) / sample.size)


def implausible(pixels: NDArray[np.float32]) -> str:
    """Why values can't be the HU of a body with air in or around it; "" if they can."""
    values = pixels.ravel()
    values = values[:: max(1, values.size // SAMPLE)]
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    if low > AIR:
        return f"its darkest hundredth is {low:.4g} or more, and the air of a CT is about -1000"
    if low < AIR_TO_METAL[0] or high > AIR_TO_METAL[1]:
        return f"its values run from {low:.4g} to {high:.4g}, and a CT's from {AIR_TO_METAL[0]} to {AIR_TO_METAL[1]}"
    soft = float(((values > SOFT_TISSUE[0]) & (values < SOFT_TISSUE[1])).mean())
    return "" if soft >= LEAST_SOFT else f"only {soft:.1%} of it is in the range of soft tissue ({SOFT_TISSUE} HU)"
