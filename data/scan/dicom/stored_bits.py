"""The bits of a stored pixel: those of its value, and those outside of BitsStored (PS3.5 section 8.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineage.errors import Fault

Array = NDArray[Any]
MAX_OVERLAY = 0.5  # share of a frame that an undeclared overlay may cover
USUAL_STEP = 90  # percentile of the steps from pixel to pixel; at the edges of an overlay, values step no further
SAMPLE = 2**18  # pixels whose rows are checked for the sign
END_SHARE = 0.002  # of a frame's pixels, at each end of the range
MIN_BITS, MIN_VALUES = 9, 8  # of a value; distinct values in the upper half: one may be padding, text or saturation
MAX_STEP_DIVISOR = 32  # a usual step may reach 1/32 of the range of values


@dataclass(frozen=True)
class BitLayout:
    """Position of a value in a sample: `bits` bits above `below` others; `overlays` masks the bits of overlays."""

    bits: int
    below: int
    overlays: int

    def covers(self, value: float, signed: bool) -> bool:
        """Whether the value can be written in these bits."""
        low, high = self.extremes(signed)
        return low <= value <= high

    def extremes(self, signed: bool) -> tuple[int, int]:
        """The least and the greatest value that the bits can hold."""
        return (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if signed else (0, (1 << self.bits) - 1)


def bit_layout(name: str, header: Any) -> BitLayout | None:
    """The position of the value in a stored sample; None if all of its bits are the value.

    Fault if an overlay is declared in a bit of the value (60xx,0102).
    """
    if "PixelData" not in header:
        return None
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    high = stored - 1 if header.get("HighBit") is None else int(header.HighBit)
    overlays = _overlays(header)
    bits, below = min(stored, high + 1), max(high + 1 - stored, 0)
    if overlays >> below & ((1 << bits) - 1):
        raise Fault(f"{name}: declares an overlay in a bit that BitsStored gives to the pixels; export it again")
    if not 0 < bits <= bits + below <= allocated:
        raise Fault(f"{name}: BitsAllocated, BitsStored and HighBit contradict each other; export it again")
    return None if bits == allocated else BitLayout(bits, below, overlays)


def _overlays(header: Any) -> int:
    """The mask of the bits that hold overlays (retired in PS3.3-2004): those of groups without OverlayData."""
    mask = 0
    for tag in header.keys():  # noqa: SIM118  iterating parses the values
        if tag >> 24 == 0x60 and tag & 0xFFFF == 0x0102 and (tag & 0xFFFF0000) + 0x3000 not in header:
            position, allocated = header[tag].value, header.get((tag >> 16, 0x0100))
            if position or (allocated is not None and (allocated.value or 1) > 1):
                mask |= 1 << int(position or 0)
    return mask


def extract_values(name: str, layout: BitLayout, stored: Array) -> tuple[Array, bool]:
    """The values of one frame (rows × columns, or with samples), and whether its spare bits hold anything.

    Spare bits of declared overlays are removed, and so are others that look like an overlay. Fault if they look like
    part of the values: then BitsStored or HighBit is wrong, and the values are uncertain.
    """
    low, high = layout.extremes(stored.dtype.kind == "i")
    if layout.below == 0 and low <= stored.min() and stored.max() <= high:
        return stored, False
    width = 8 * stored.dtype.itemsize
    above = width - layout.bits - layout.below
    value = np.asarray(stored << above >> (above + layout.below))
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    raw, expected = stored.view(unsigned), np.asarray(value << layout.below).view(unsigned)
    undeclared = ~unsigned.type(layout.overlays & ((1 << width) - 1))
    outside = unsigned.type((1 << width) - 1 ^ (((1 << layout.bits) - 1) << layout.below))
    spare, unextended = (raw ^ expected) & undeclared, raw & outside & undeclared
    is_extended = np.count_nonzero(spare) <= np.count_nonzero(unextended)
    if is_extended or _is_sign(value, layout.bits):
        spare = spare if is_extended else unextended
        if not spare.any() or _is_overlay(value, spare, layout.bits):
            return value, bool((raw & outside).any() and (raw != expected).any())
    raise Fault(
        f"{name}: BitsStored and HighBit give a pixel {layout.bits} bits, but the pixels use others as well, so their "
        f"values are uncertain; correct these attributes, or export it again"
    )


def _is_sign(values: Array, bits: int) -> bool:
    """Whether the highest bit of the values is a sign that was not extended: without it they would step further."""
    step, change = _steps(values, values < 0)
    return not change.any() or bool(np.median(step[change]) < 1 << (bits - 1))


def check_sign(name: str, stored: Array, bits: int) -> None:
    """Fault if one frame of stored values is read as signed and is unsigned, or the reverse.

    Neighbours then step from one end of the range to the other. If signed values are read as unsigned, noise around
    zero is at both ends. If unsigned values are read as signed, the picture wraps over both ends.
    """
    if not MIN_BITS <= bits <= 16 or stored.dtype.kind == "f" or stored.ndim > 2:
        return
    half, is_signed = 1 << (bits - 1), stored.dtype.kind == "i"
    start = -half if is_signed else 0
    if stored.min() >= start + half // 2 or stored.max() < start + half * 3 // 2:
        return
    values = stored[:: max(1, stored.size // SAMPLE)].astype(np.int32)
    upper = values < 0 if is_signed else values >= half
    step, change = np.abs(np.diff(values, axis=1)), np.diff(upper, axis=1)
    if not change.any() or np.median(step[change]) < half or len(np.unique(values[upper])) < MIN_VALUES:
        return
    if is_signed:
        ends = (values < start + half // 4, values >= start + half * 7 // 4)
        is_wrong = min(float(end.mean()) for end in ends) > END_SHARE
    else:
        usual = float(np.percentile(step[~change], USUAL_STEP)) if not change.all() else 0.0
        is_wrong = 2 * half - float(np.median(step[change])) <= max(usual, 2 * half / MAX_STEP_DIVISOR)
    if is_wrong:
        raise Fault(
            f"{name}: its pixels are {'un' if is_signed else ''}signed, and its header says the opposite; "
            f"correct PixelRepresentation, or export it again"
        )


def _is_overlay(values: Array, spare: Array, bits: int) -> bool:
    """Whether the content of the spare bits is an overlay on the picture, not part of its values.

    Where the spare bits change from one pixel to the next, the values must not step further than elsewhere: values
    that need more bits than they have would jump there.
    """
    if np.unique(spare, return_counts=True)[1].max() < MAX_OVERLAY * spare.size:
        return False
    step, change = _steps(values, spare)
    if not change.any():
        return True
    usual = float(np.percentile(step[~change], USUAL_STEP)) if not change.all() else 0.0
    return float(np.median(step[change])) <= max(usual, (1 << bits) / MAX_STEP_DIVISOR)


def _steps(values: Array, marks: Array) -> tuple[Array, Array]:
    """The steps of the values between neighbours along both axes, and where the neighbours' marks differ."""
    steps = [np.abs(np.diff(values.astype(np.float64), axis=axis)).ravel() for axis in (0, 1)]
    changes = [(np.diff(marks, axis=axis) != 0).ravel() for axis in (0, 1)]
    return np.concatenate(steps), np.concatenate(changes)
