"""Padding: pixels that nobody measured, around the field of view (PS3.3 C.7.5.1.1.2), and what they become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Units
from lineage.errors import Fault

Array = NDArray[Any]
Mask = NDArray[np.bool_]
AIR = -1024.0  # HU: the lowest number of a 12-bit CT, which its padding becomes
LOWEST = -1500.0  # HU: lower is no noise of air; padding seen: -2000, -2048, -3024
FLAT = 0.9  # share of such pixels of a slice that have one value
TISSUE = (-950.0, 3071.0)  # HU: no range of padding reaches into it
INSIDE = {Units.HU: 0.01, Units.RAW: 0.25}  # share of the others on both sides of a value that is no padding
LABELS = 16  # values of a mask at most
DARK = 1.0  # percent: of a slice in arbitrary units, the value that padding becomes
NEAR, SPIKE = 8, 4  # stored values on both sides of a padding value; how many times as frequent as they it is
KEYWORDS = {
    "PixelData": ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    "FloatPixelData": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "DoubleFloatPixelData": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}


@dataclass(frozen=True)
class Declared:
    """The stored values from `low` to `high` are padding; `value` is the one at the dark end."""

    value: float
    low: float
    high: float

    def mask(self, stored: Array) -> Mask:
        """Where stored values are padding."""
        if self.low == self.high:
            return np.asarray(stored == self.value)
        return np.asarray((stored >= self.low) & (stored <= self.high))


def declared(name: str, header: Any) -> Declared | None:
    """What the header declares as padding, whatever value representation it chose; None where it declares none.

    Colours have none that a picture would not show, and a segmentation's is its background.
    """
    colours = int(header.get("SamplesPerPixel") or 1) > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if colours or header.get("Modality") == "SEG":
        return None
    keyword = next(keyword for keyword in KEYWORDS if keyword in header)
    value, limit = (_number(name, header, attribute) for attribute in KEYWORDS[keyword])
    if value is None:
        return None
    if keyword == "PixelData":
        value, limit = (None if number is None else _as_stored(header, number) for number in (value, limit))
    assert value is not None
    limit = value if limit is None else limit
    return Declared(value, min(value, limit), max(value, limit))


def _number(name: str, header: Any, keyword: str) -> float | None:
    value = header.get(keyword)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise Fault(f"{name}: {keyword} is not one number; correct it, or export the scan again") from error


def _as_stored(header: Any, number: float) -> int:
    """The number as the pixels would hold it: the attribute has 16 bits at most, with a sign where the pixels have."""
    bits = min(16, int(header.BitsAllocated))
    wrapped = int(number) % (1 << bits)
    return wrapped - (1 << bits) if header.PixelRepresentation and wrapped >> (bits - 1) else wrapped


def places(padding: Declared, stored: Array) -> Mask | None:
    """Where the declared padding lies in one frame of stored values; None where there is none."""
    mask = padding.mask(stored)
    return mask if mask.any() else None


def check(name: str, padding: Declared, stored: Array, pixels: Array, mask: Mask, units: Units) -> None:
    """Fault where declared padding is a part of the picture: it covers values that are common in it, or a range of HU
    that bodies are made of. `pixels` are the `stored` values in their `units`, both of one frame."""
    is_range = padding.low < padding.high
    if units == Units.HU:
        padded = pixels[mask] if is_range else pixels.ravel()[mask.argmax()]
        if padded.max() <= TISSUE[0] or padded.min() >= TISSUE[1]:
            return
    contradicts: bool = is_range and units == Units.HU
    if not is_range:
        contradicts = _is_common(stored, padding.value, int(mask.sum()), INSIDE[units])
    if contradicts:
        values = f"{padding.low:g}" + (f" to {padding.high:g}" if is_range else "")
        raise Fault(
            f"{name}: declares the stored value {values} as padding (0028,0120), but the picture itself is made of "
            f"such values; correct that attribute, or export it again"
        )


def _is_common(stored: Array, value: float, count: int, inside: float) -> bool:
    """Whether a value lies among those of the picture and is hardly more frequent than its neighbours."""
    others = stored.size - count
    below, above = int((stored < value).sum()), int((stored > value).sum())
    if others == 0 or min(below, above) < inside * others:
        return False
    beside = int(((stored >= value - NEAR) & (stored <= value + NEAR)).sum()) - count
    return count <= SPIKE * beside / (2 * NEAR)


def undeclared(plane: Array, mask: Mask | None = None) -> Mask | None:
    """Where one slice in HU has padding that nobody declared: lower than any noise of air, and of one value nearly.

    Beside declared padding of that kind (`mask`) everything as low is padding, as lossy compression blurs it. Values
    that vary are none: then slope or intercept may be wrong.
    """
    low = np.asarray(plane < LOWEST)
    lowest = count = int(np.count_nonzero(low))
    if mask is not None:
        np.greater(low, mask, out=low)  # low, and not in the mask
        count = int(np.count_nonzero(low))
    if not count:
        return None
    is_declared = count < lowest
    first = plane.ravel()[low.argmax()]
    is_flat = is_declared or np.count_nonzero(plane == first) >= FLAT * count
    return low if is_flat or np.count_nonzero(plane == np.median(plane[low])) >= FLAT * count else None


def varies(stored: Array, mask: Mask) -> bool:
    """Whether padding holds several values; none of them is found elsewhere."""
    return int(np.count_nonzero(stored == stored.ravel()[mask.argmax()])) != int(np.count_nonzero(mask))


def filled(pixels: NDArray[np.float32], units: Units, mask: Mask | None) -> Mask | None:
    """Give padding the value of what is around a body, in place; returns where all padding lies, None where nowhere.

    `pixels` and `mask` are slices × rows × columns. In HU padding becomes `AIR`; otherwise the value below which `DARK`
    percent of the other pixels of the slice lie, or of the scan where the slice has no others. Values that are no
    number must be padding.
    """
    if mask is not None:
        _fill(pixels, units, mask)
    lowest = _lowest(pixels, units)
    if lowest is None:
        return mask
    if mask is not None:
        lowest |= mask
    _fill(pixels, units, lowest)
    return lowest


def _fill(pixels: NDArray[np.float32], units: Units, mask: Mask) -> None:
    for plane, where in zip(pixels, mask, strict=True):
        if where.any():
            np.copyto(plane, np.float32(AIR if units == Units.HU else _dark(plane, where, pixels, mask)), where=where)


def _dark(plane: Array, where: Mask, pixels: Array, mask: Mask) -> float:
    others = plane[~where]
    if not others.size:
        others = pixels[~mask]
    if not others.size:
        return 0.0
    rank = round(DARK / 100 * (others.size - 1))
    return float(np.partition(others, rank)[rank])


def _lowest(pixels: NDArray[np.float32], units: Units) -> Mask | None:
    """Padding that nobody declared: see `undeclared`; in scanner units the one value that is alone below zero."""
    least = float(pixels.min())
    if units == Units.DISPLAY or least >= (LOWEST if units == Units.HU else 0):
        return None
    if units == Units.RAW:
        return pixels == least if _stands_alone(pixels, least) else None
    found = np.zeros(pixels.shape, bool)
    for number, plane in enumerate(pixels):
        low = undeclared(plane)
        if low is not None:
            found[number] = low
    return found if found.any() else None


def _stands_alone(pixels: NDArray[np.float32], least: float) -> bool:
    """Whether all values above the least one are no negative ones, or lie nearer to each other than to it.

    They must be those of a picture, not a few labels.
    """
    others = pixels[pixels > least]
    if not others.size:
        return False
    low, high = float(others.min()), float(others.max())
    return (low >= 0 or low - least > high - low) and len(np.unique(others)) > LABELS
