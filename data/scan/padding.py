"""Padding: pixels outside the field of view that hold no measurement (PS3.3 C.7.5.1.1.2), and their replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import ValueUnit
from lineage.errors import Fault

Array = NDArray[Any]
Mask = NDArray[np.bool_]
AIR = -1024.0  # HU: the lowest value of a 12-bit CT, which replaces its padding
LOWEST_AIR = -1500.0  # HU; noise of air is not lower. Padding in real files: -2000, -2048, -3024
FLAT = 0.9  # share of such pixels of a slice that must have one value
TISSUE = (-950.0, 3071.0)  # HU; a range of padding must not overlap it
MIN_SIDE_SHARE = {
    ValueUnit.HU: 0.01,
    ValueUnit.RAW: 0.25,
}  # of the other pixels, on both sides of a value of the picture
MAX_LABELS = 16  # values of a mask
DARK_PERCENT = 1.0  # percentile of a slice in arbitrary units, whose value replaces padding
NEIGHBOURS, SPIKE = 8, 4  # stored values on both sides of a padding value; its frequency as a multiple of theirs
KEYWORDS = {
    "PixelData": ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    "FloatPixelData": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "DoubleFloatPixelData": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}


@dataclass(frozen=True)
class DeclaredPadding:
    """Stored values from `low` to `high` are padding; `value` is the declared PixelPaddingValue."""

    value: float
    low: float
    high: float

    def mask(self, stored: Array) -> Mask:
        """The mask of the stored values that are padding."""
        if self.low == self.high:
            return np.asarray(stored == self.value)
        return np.asarray((stored >= self.low) & (stored <= self.high))


def declared_padding(name: str, header: Any) -> DeclaredPadding | None:
    """The padding that the header declares, in any value representation; None if it declares none.

    Colour images have no padding that a picture would not show. The padding of a segmentation is its background.
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
    return DeclaredPadding(value, min(value, limit), max(value, limit))


def _number(name: str, header: Any, keyword: str) -> float | None:
    value = header.get(keyword)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise Fault(f"{name}: {keyword} is not one number; correct it, or export the scan again") from error


def _as_stored(header: Any, number: float) -> int:
    """The number as the pixels store it: the attribute has at most 16 bits, signed if the pixels are signed."""
    bits = min(16, int(header.BitsAllocated))
    wrapped = int(number) % (1 << bits)
    return wrapped - (1 << bits) if header.PixelRepresentation and wrapped >> (bits - 1) else wrapped


def padding_mask(padding: DeclaredPadding, stored: Array) -> Mask | None:
    """The mask of the declared padding in one frame of stored values; None if the frame has none."""
    mask = padding.mask(stored)
    return mask if mask.any() else None


def check_padding(
    name: str, padding: DeclaredPadding, stored: Array, pixels: Array, mask: Mask, units: ValueUnit
) -> None:
    """Fault if the declared padding is part of the picture: values that are common in it, or a range of HU of tissue.

    `pixels` are the `stored` values in their `units`, both of one frame.
    """
    is_range = padding.low < padding.high
    if units == ValueUnit.HU:
        padded_pixels = pixels[mask] if is_range else pixels.ravel()[mask.argmax()]
        if padded_pixels.max() <= TISSUE[0] or padded_pixels.min() >= TISSUE[1]:
            return
    contradicts: bool = is_range and units == ValueUnit.HU
    if not is_range:
        contradicts = _is_common(stored, padding.value, int(mask.sum()), MIN_SIDE_SHARE[units])
    if contradicts:
        values = f"{padding.low:g}" + (f" to {padding.high:g}" if is_range else "")
        raise Fault(
            f"{name}: declares the stored value {values} as padding (0028,0120), but the picture itself is made of "
            f"such values; correct that attribute, or export it again"
        )


def _is_common(stored: Array, value: float, count: int, min_side_share: float) -> bool:
    """Whether a value lies among those of the picture and is hardly more frequent than its neighbours."""
    other_count = stored.size - count
    below, above = int((stored < value).sum()), int((stored > value).sum())
    if other_count == 0 or min(below, above) < min_side_share * other_count:
        return False
    neighbour_count = int(((stored >= value - NEIGHBOURS) & (stored <= value + NEIGHBOURS)).sum()) - count
    return count <= SPIKE * neighbour_count / (2 * NEIGHBOURS)


def undeclared_padding(plane: Array, mask: Mask | None = None) -> Mask | None:
    """The mask of undeclared padding in one slice in HU: below any noise of air, and almost all of one value.

    Beside declared padding of that kind (`mask`) every value as low is padding, because lossy compression blurs it.
    Values that vary are no padding: slope or intercept may be wrong.
    """
    low = np.asarray(plane < LOWEST_AIR)
    low_count = count = int(np.count_nonzero(low))
    if mask is not None:
        np.greater(low, mask, out=low)  # low, and not in the mask
        count = int(np.count_nonzero(low))
    if not count:
        return None
    is_declared = count < low_count
    first = plane.ravel()[low.argmax()]
    is_flat = is_declared or np.count_nonzero(plane == first) >= FLAT * count
    return low if is_flat or np.count_nonzero(plane == np.median(plane[low])) >= FLAT * count else None


def has_several_values(stored: Array, mask: Mask) -> bool:
    """Whether padding holds several stored values; these must not occur outside of the mask."""
    return int(np.count_nonzero(stored == stored.ravel()[mask.argmax()])) != int(np.count_nonzero(mask))


def fill_padding(pixels: NDArray[np.float32], units: ValueUnit, mask: Mask | None) -> Mask | None:
    """Fill padding in place with the value of what surrounds a body; returns the mask of all padding, None if none.

    `pixels` and `mask` are slices × rows × columns. In HU padding becomes `AIR`. Otherwise it becomes the
    `DARK_PERCENT` percentile of the other pixels of the slice, or of the scan if the slice has no others. Values that
    are no number must be padding.
    """
    if mask is not None:
        _fill(pixels, units, mask)
    undeclared_mask = _undeclared_mask(pixels, units)
    if undeclared_mask is None:
        return mask
    if mask is not None:
        undeclared_mask |= mask
    _fill(pixels, units, undeclared_mask)
    return undeclared_mask


def _fill(pixels: NDArray[np.float32], units: ValueUnit, mask: Mask) -> None:
    for plane, where in zip(pixels, mask, strict=True):
        if where.any():
            np.copyto(
                plane,
                np.float32(AIR if units == ValueUnit.HU else _dark_value(plane, where, pixels, mask)),
                where=where,
            )


def _dark_value(plane: Array, where: Mask, pixels: Array, mask: Mask) -> float:
    unpadded = plane[~where]
    if not unpadded.size:
        unpadded = pixels[~mask]
    if not unpadded.size:
        return 0.0
    rank = round(DARK_PERCENT / 100 * (unpadded.size - 1))
    return float(np.partition(unpadded, rank)[rank])


def _undeclared_mask(pixels: NDArray[np.float32], units: ValueUnit) -> Mask | None:
    """Undeclared padding: see `undeclared`; in scanner units the single value that stands alone below zero."""
    least = float(pixels.min())
    if units == ValueUnit.DISPLAY or least >= (LOWEST_AIR if units == ValueUnit.HU else 0):
        return None
    if units == ValueUnit.RAW:
        return pixels == least if _stands_alone(pixels, least) else None
    mask = np.zeros(pixels.shape, bool)
    for number, plane in enumerate(pixels):
        low = undeclared_padding(plane)
        if low is not None:
            mask[number] = low
    return mask if mask.any() else None


def _stands_alone(pixels: NDArray[np.float32], least: float) -> bool:
    """Whether all values above the least are non-negative, or nearer to each other than to the least value.

    They must be values of a picture, not a few labels.
    """
    higher = pixels[pixels > least]
    if not higher.size:
        return False
    low, high = float(higher.min()), float(higher.max())
    return (low >= 0 or low - least > high - low) and len(np.unique(higher)) > MAX_LABELS
