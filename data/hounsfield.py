"""NIfTI names no unit: for a CT task its values are Hounsfield units where they can be, else the scan is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data import padding
from data.pixels import DISPLAY_WHITE
from data.record import Modality, Scan, Units
from data.rules import AIR, AIR_TO_METAL
from lineage.fault import Fault

SAMPLE = 2**20  # voxels, on a regular grid
SOFT_TISSUE = (-200.0, 300.0)  # HU: fat to contrast-enhanced organs
MOST_WATER = 0.05  # of a volume that is exactly water; filled with 0 are a turned volume and a cut-out body
LEAST_SPREAD = 0.5  # of the 65,536 greys of 16 bits: numbers of 12 bits use 6 %
LEAST_SOFT = 0.02  # of a volume of a body


def in_units_of(scan: Scan, modality: Modality | str) -> Scan:
    """The scan as a task of that modality reads it: NIfTI with plausible HU has the unit HU for CT, and its padding is
    filled in place as that of other CT.

    Other formats say their unit themselves. Fault for NIfTI that can't be HU in a CT task, or that plainly is HU in
    another one, and for a picture of 16 bits that holds a scanner's numbers: its black and white are unknown.
    """
    is_deep = scan.header.get("depth") == "16" and not scan.header["image_type"]
    if is_deep and (spread := float(np.ptp(scan.pixels)) / DISPLAY_WHITE) < LEAST_SPREAD:
        raise Fault(f"{scan.name}: is a picture of 16 bits that uses {spread:.0%} of its greys, so its black and its "
                    "white are unknown; save it in the task's window, from black to white")  # fmt: skip
    if scan.header.get("format") != "nifti" or scan.units is not Units.RAW:
        return scan
    doubt = implausible(scan.pixels)
    if modality != Modality.CT:
        if not doubt:
            raise Fault(f"{scan.name}: its values are Hounsfield units, so it is a CT and no {modality}; leave it out")
        return scan
    water = float((scan.pixels == 0).mean())
    if not doubt and water > MOST_WATER:
        doubt = f"{water:.0%} of it is exactly 0, as where 0 was filled in for air"
    if doubt:
        raise Fault(f"{scan.name}: {doubt}, so its values are no Hounsfield units; convert it again from DICOM, with "
                    "rescale slope and intercept and without a window or a normalisation")  # fmt: skip
    return replace(scan, units=Units.HU, padding=padding.filled(scan.pixels, Units.HU, scan.padding))


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
