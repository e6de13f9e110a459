"""DICOM pixel data, native or compressed, frame by frame: stored values, what they mean, and where padding lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Units
from data.scan import padding
from data.scan.dicom import stored_bits
from data.scan.dicom.frames import functional
from lineage.errors import Fault

Array = NDArray[Any]
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 203)}  # PS3.6, annex A: they blur padding
KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class Frame:
    """One frame: its `stored` values without spare bits (rows × columns, or with samples), `pixels` (rows × columns,
    float32) after rescale or LUT, and the mask of its `padding` (None where it has none).

    `hides` says whether the file holds what these values don't: spare bits, or padding of several values.
    """

    stored: Array
    pixels: NDArray[np.float32]
    padding: padding.Mask | None
    hides: bool


def frames(name: str, header: Any, unit: Units) -> Iterator[Frame]:
    """Every frame in its `unit`, one decoded at a time. Fault where header and pixels contradict each other."""
    from pydicom.pixels import iter_pixels, pixel_array

    place, declared = stored_bits.layout(name, header), padding.declared(name, header)
    is_lossy = str(header.file_meta.get("TransferSyntaxUID")) in LOSSY
    options = {"view_only": True, "correct_unused_bits": False}
    if int(header.get("NumberOfFrames") or 1) > 1:
        decoded = iter_pixels(header, **options)
    else:
        decoded = iter([pixel_array(header, **options)])
    count, shape = int(header.get("NumberOfFrames") or 1), (int(header.Rows), int(header.Columns))
    first = rescale_rule(header, 0)
    for number, raw in enumerate(decoded):
        if raw.shape[:2] != shape or number >= count:
            raise Fault(
                f"{name}: holds more frames than the {count} of its header; correct NumberOfFrames, or export it again"
            )
        stored, hides = _stored(name, raw.astype(raw.dtype.newbyteorder("="), copy=False), place, declared)
        stored_bits.check_sign(name, stored, 8 * stored.dtype.itemsize if place is None else place.bits)
        rule = rescale_rule(header, number) if number else first
        if (rule is None) != (first is None):
            raise Fault(f"{name}: frame {number + 1} and frame 1 do not both have a rescale slope; export it again")
        pixels = _rescaled(_grey_values(header, stored), rule)
        mask = padding.places(declared, stored) if declared else None
        if declared and mask is not None:
            padding.check(name, declared, stored, pixels, mask, unit)
        low = padding.undeclared(pixels, mask) if unit == Units.HU and pixels.min() < padding.LOWEST else None
        if low is not None:
            mask = low if mask is None else np.logical_or(mask, low, out=mask)
        may_vary = low is not None or (declared is not None and declared.low < declared.high)
        if mask is not None and may_vary and not is_lossy:
            hides = hides or padding.varies(stored, mask)
        yield Frame(stored, pixels, mask, hides)


def _stored(
    name: str, raw: Array, place: stored_bits.Layout | None, declared: padding.Declared | None
) -> tuple[Array, bool]:
    """The values of a frame without spare bits; padding that does not fit into BitsStored stays as it is.

    No bits of a float that is no number are its value.
    """
    if raw.dtype.kind == "f" and (nothing := np.isnan(raw)).any():
        return np.where(nothing, raw.dtype.type(np.nan), raw), True
    if place is None:
        return raw, False
    if declared is None or place.covers(declared.value, raw.dtype.kind == "i"):
        return stored_bits.values(name, place, raw)
    mask = declared.mask(raw)
    stored, hides = stored_bits.values(name, place, np.where(mask, raw.dtype.type(0), raw))
    return np.where(mask, raw, stored), hides


def units(header: Any) -> Units:
    """HU for CT with a rescale; grey of 0 to 255 for colours; else scanner units."""
    if int(header.get("SamplesPerPixel") or 1) > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return Units.DISPLAY
    if header.get("Modality") != "CT":
        return Units.RAW
    scaled = "ModalityLUTSequence" in header or rescale_rule(header, 0) is not None
    return Units.HU if scaled and _rescale_types(header) <= {"", "HU", "US"} else Units.RAW


def _rescale_types(header: Any) -> set[str]:
    """What the rescale of every frame leads to, in the words of the header."""
    count = int(header.get("NumberOfFrames") or 1)
    groups = (functional(header, frame, "PixelValueTransformationSequence") or header for frame in range(count))
    return {str(group.get("RescaleType") or "") for group in groups}


def rescale_rule(header: Any, frame: int) -> tuple[float, float] | None:
    """Slope and intercept of a frame; None where there is none, or where values are no plain grey."""
    if "ModalityLUTSequence" in header or int(header.get("SamplesPerPixel") or 1) > 1:
        return None
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return None
    group = functional(header, frame, "PixelValueTransformationSequence") or header
    if group.get("RescaleSlope") is None:
        return None
    return float(group.RescaleSlope), float(group.get("RescaleIntercept") or 0)


def _grey_values(header: Any, stored: Array) -> Array:
    """One frame before its rescale: stored values, values of the modality LUT, or the grey of colours."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return _grey(apply_color_lut(stored, header))
    if stored.ndim > 2:
        return _grey(stored)
    return apply_modality_lut(stored, header) if "ModalityLUTSequence" in header else stored


def _grey(colours: Array) -> NDArray[np.float32]:
    """Luminance of red, green and blue of any depth (rows × columns × 3), 0 to 255."""
    scale = 255 / np.iinfo(colours.dtype).max if colours.dtype.itemsize > 1 else 1
    return np.asarray(colours[..., :3].astype(np.float32) @ (LUMINANCE * np.float32(scale)), np.float32)


def _rescaled(values: Array, rule: tuple[float, float] | None) -> NDArray[np.float32]:
    """A new array of the values times slope plus intercept."""
    pixels = values.astype(np.float32)
    if rule is not None and rule != (1.0, 0.0):
        pixels *= np.float32(rule[0])
        pixels += np.float32(rule[1])
    return pixels
