"""The bits of a stored pixel: which are its value, and what lies outside of BitsStored (PS3.5 section 8.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineage.errors import Fault

Array = NDArray[Any]
SPARSE = 0.5  # share of a frame that an overlay which nobody declared may cover
ANATOMY = 90  # percentile of the steps from pixel to pixel: where an overlay begins or ends, values step no further
SAMPLE = 2**18  # pixels in whose rows the sign is looked at
POPULATED = 0.002  # share of a frame at each end of the range
LEAST_BITS, SEVERAL = 9, 8  # of a value; values on the wrong side, since one alone is padding, writing or saturation
LARGEST_STEP = 32  # or than this part of the range of values


@dataclass(frozen=True)
class Layout:
    """`bits` of a sample are its value, above `below` others; `overlays` is the mask of bits that overlays declare."""

    bits: int
    below: int
    overlays: int

    def covers(self, value: float, signed: bool) -> bool:
        """Whether the value can be written in these bits."""
        low, high = self.extremes(signed)
        return low <= value <= high

    def extremes(self, signed: bool) -> tuple[int, int]:
        """The least and the greatest value."""
        return (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if signed else (0, (1 << self.bits) - 1)


def layout(name: str, header: Any) -> Layout | None:
    """Where the value lies in a stored sample; None where all of its bits are the value.

    Fault where an overlay is declared in a bit of the value (60xx,0102).
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
    return None if bits == allocated else Layout(bits, below, overlays)


def _overlays(header: Any) -> int:
    """The mask of the bits in which overlays lie (retired in PS3.3-2004): those of groups without OverlayData."""
    mask = 0
    for tag in header.keys():  # noqa: SIM118  iterating parses the values
        if tag >> 24 == 0x60 and tag & 0xFFFF == 0x0102 and (tag & 0xFFFF0000) + 0x3000 not in header:
            position, allocated = header[tag].value, header.get((tag >> 16, 0x0100))
            if position or (allocated is not None and (allocated.value or 1) > 1):
                mask |= 1 << int(position or 0)
    return mask


def values(name: str, layout: Layout, stored: Array) -> tuple[Array, bool]:
    """The values of one frame (rows × columns, or with samples), and whether its spare bits hold anything.

    Spare bits of declared overlays are cut off, and so are others that look like an overlay. Fault where they look
    like a part of the values: BitsStored or HighBit is wrong then, and the values are uncertain.
    """
    low, high = layout.extremes(stored.dtype.kind == "i")
    if layout.below == 0 and low <= stored.min() and stored.max() <= high:
        return stored, False
    width = 8 * stored.dtype.itemsize
    above = width - layout.bits - layout.below
    cut = np.asarray(stored << above >> (above + layout.below))
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    raw, sound = stored.view(unsigned), np.asarray(cut << layout.below).view(unsigned)
    undeclared = ~unsigned.type(layout.overlays & ((1 << width) - 1))
    outside = unsigned.type((1 << width) - 1 ^ (((1 << layout.bits) - 1) << layout.below))
    drawn, unextended = (raw ^ sound) & undeclared, raw & outside & undeclared
    is_extended = np.count_nonzero(drawn) <= np.count_nonzero(unextended)
    if is_extended or _is_sign(cut, layout.bits):
        drawn = drawn if is_extended else unextended
        if not drawn.any() or _is_overlay(cut, drawn, layout.bits):
            return cut, bool((raw & outside).any() and (raw != sound).any())
    raise Fault(
        f"{name}: BitsStored and HighBit give a pixel {layout.bits} bits, but the pixels use others as well, so their "
        f"values are uncertain; correct these attributes, or export it again"
    )


def _is_sign(cut: Array, bits: int) -> bool:
    """Whether the highest bit of values is a sign that was not extended: without it they would step further."""
    step, change = _steps(cut, cut < 0)
    return not change.any() or bool(np.median(step[change]) < 1 << (bits - 1))


def check_sign(name: str, stored: Array, bits: int) -> None:
    """Fault where one frame of stored values is read with a sign that it does not have, or without its own.

    Neighbours then step from one end of the range to the other. Of unsigned values that are signed, noise around zero
    lies at both ends; of signed ones that are unsigned, the picture runs over both ends.
    """
    if not LEAST_BITS <= bits <= 16 or stored.dtype.kind == "f" or stored.ndim > 2:
        return
    half, is_signed = 1 << (bits - 1), stored.dtype.kind == "i"
    start = -half if is_signed else 0
    if stored.min() >= start + half // 2 or stored.max() < start + half * 3 // 2:
        return
    values = stored[:: max(1, stored.size // SAMPLE)].astype(np.int32)
    upper = values < 0 if is_signed else values >= half
    step, change = np.abs(np.diff(values, axis=1)), np.diff(upper, axis=1)
    if not change.any() or np.median(step[change]) < half or len(np.unique(values[upper])) < SEVERAL:
        return
    if is_signed:
        ends = (values < start + half // 4, values >= start + half * 7 // 4)
        is_wrong = min(float(end.mean()) for end in ends) > POPULATED
    else:
        usual = float(np.percentile(step[~change], ANATOMY)) if not change.all() else 0.0
        is_wrong = 2 * half - float(np.median(step[change])) <= max(usual, 2 * half / LARGEST_STEP)
    if is_wrong:
        raise Fault(
            f"{name}: its pixels are {'un' if is_signed else ''}signed, and its header says the opposite; "
            f"correct PixelRepresentation, or export it again"
        )


def _is_overlay(cut: Array, drawn: Array, bits: int) -> bool:
    """Whether what lies in spare bits is drawn over a picture, not a part of it.

    Where it changes from one pixel to the next, the values must not step further than elsewhere: values that need more
    bits than are theirs jump there.
    """
    if np.unique(drawn, return_counts=True)[1].max() < SPARSE * drawn.size:
        return False
    step, change = _steps(cut, drawn)
    if not change.any():
        return True
    usual = float(np.percentile(step[~change], ANATOMY)) if not change.all() else 0.0
    return float(np.median(step[change])) <= max(usual, (1 << bits) / LARGEST_STEP)


def _steps(cut: Array, marks: Array) -> tuple[Array, Array]:
    """How far the values step between neighbours along both axes, and where their marks differ."""
    steps = [np.abs(np.diff(cut.astype(np.float64), axis=axis)).ravel() for axis in (0, 1)]
    changes = [(np.diff(marks, axis=axis) != 0).ravel() for axis in (0, 1)]
    return np.concatenate(steps), np.concatenate(changes)
