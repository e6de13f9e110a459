"""Decoding of DICOM pixel data, native or compressed, frame by frame: stored values, pixels in units, padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import ValueUnit
from data.scan import padding
from data.scan.dicom import stored_bits
from data.scan.dicom.frames import functional_group
from lineage.errors import Fault

Array = NDArray[Any]
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
LOSSY = {
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 203)
}  # PS3.6 annex A; lossy compression blurs padding
KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class Frame:
    """One frame: `stored` values, `pixels` and the mask of its `padding` (None if it has none).

    `stored` values have no spare bits (rows × columns, or with samples). `pixels` (rows × columns, float32) are after
    rescale or LUT. `has_hidden_data` is True if the file holds more than these values: spare bits, or
    padding of several values.
    """

    stored: Array
    pixels: NDArray[np.float32]
    padding: padding.Mask | None
    has_hidden_data: bool


def decode_frames(name: str, header: Any, unit: ValueUnit) -> Iterator[Frame]:
    """Every frame in its `unit`, decoded one at a time. Fault if header and pixels contradict each other."""
    from pydicom.pixels import iter_pixels, pixel_array

    layout, declared = stored_bits.bit_layout(name, header), padding.declared_padding(name, header)
    is_lossy = str(header.file_meta.get("TransferSyntaxUID")) in LOSSY
    options = {"view_only": True, "correct_unused_bits": False}
    if int(header.get("NumberOfFrames") or 1) > 1:
        decoded = iter_pixels(header, **options)
    else:
        decoded = iter([pixel_array(header, **options)])
    count, shape = int(header.get("NumberOfFrames") or 1), (int(header.Rows), int(header.Columns))
    first = rescale_rule(header, 0)
    for index, raw in enumerate(decoded):
        if raw.shape[:2] != shape or index >= count:
            raise Fault(
                f"{name}: holds more frames than the {count} of its header; correct NumberOfFrames, or export it again"
            )
        stored, has_hidden_data = _remove_spare_bits(
            name, raw.astype(raw.dtype.newbyteorder("="), copy=False), layout, declared
        )
        stored_bits.check_sign(name, stored, 8 * stored.dtype.itemsize if layout is None else layout.bits)
        rule = rescale_rule(header, index) if index else first
        if (rule is None) != (first is None):
            raise Fault(f"{name}: frame {index + 1} and frame 1 do not both have a rescale slope; export it again")
        pixels = _rescale(_grey_values(header, stored), rule)
        mask = padding.padding_mask(declared, stored) if declared else None
        if declared and mask is not None:
            padding.check_padding(name, declared, stored, pixels, mask, unit)
        undeclared = (
            padding.undeclared_padding(pixels, mask)
            if unit == ValueUnit.HU and pixels.min() < padding.LOWEST_AIR
            else None
        )
        if undeclared is not None:
            mask = undeclared if mask is None else np.logical_or(mask, undeclared, out=mask)
        may_vary = undeclared is not None or (declared is not None and declared.low < declared.high)
        if mask is not None and may_vary and not is_lossy:
            has_hidden_data = has_hidden_data or padding.has_several_values(stored, mask)
        yield Frame(stored, pixels, mask, has_hidden_data)


def _remove_spare_bits(
    name: str, raw: Array, layout: stored_bits.BitLayout | None, declared: padding.DeclaredPadding | None
) -> tuple[Array, bool]:
    """The values of a frame without spare bits; padding that does not fit into BitsStored is unchanged.

    A float NaN gets one bit pattern, because its payload bits may hold text. The second value says whether the
    frame held more than these values.
    """
    if raw.dtype.kind == "f" and (is_nan := np.isnan(raw)).any():
        return np.where(is_nan, raw.dtype.type(np.nan), raw), True
    if layout is None:
        return raw, False
    if declared is None or layout.covers(declared.value, raw.dtype.kind == "i"):
        return stored_bits.extract_values(name, layout, raw)
    mask = declared.mask(raw)
    stored, has_hidden_data = stored_bits.extract_values(name, layout, np.where(mask, raw.dtype.type(0), raw))
    return np.where(mask, raw, stored), has_hidden_data


def pixel_units(header: Any) -> ValueUnit:
    """HU for CT with a rescale, grey of 0 to 255 for colours, else scanner units."""
    if int(header.get("SamplesPerPixel") or 1) > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return ValueUnit.DISPLAY
    if header.get("Modality") != "CT":
        return ValueUnit.RAW
    is_rescaled = "ModalityLUTSequence" in header or rescale_rule(header, 0) is not None
    return ValueUnit.HU if is_rescaled and _rescale_types(header) <= {"", "HU", "US"} else ValueUnit.RAW


def _rescale_types(header: Any) -> set[str]:
    """The RescaleType values of all frames, as the header writes them."""
    count = int(header.get("NumberOfFrames") or 1)
    groups = (functional_group(header, frame, "PixelValueTransformationSequence") or header for frame in range(count))
    return {str(group.get("RescaleType") or "") for group in groups}


def rescale_rule(header: Any, frame: int) -> tuple[float, float] | None:
    """Slope and intercept of a frame; None without a rescale, or if values are colours or have a modality LUT."""
    if "ModalityLUTSequence" in header or int(header.get("SamplesPerPixel") or 1) > 1:
        return None
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return None
    group = functional_group(header, frame, "PixelValueTransformationSequence") or header
    if group.get("RescaleSlope") is None:
        return None
    return float(group.RescaleSlope), float(group.get("RescaleIntercept") or 0)


def _grey_values(header: Any, stored: Array) -> Array:
    """One frame before its rescale: stored values, values of the modality LUT, or the grey values of colours."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return _luminance(apply_color_lut(stored, header))
    if stored.ndim > 2:
        return _luminance(stored)
    return apply_modality_lut(stored, header) if "ModalityLUTSequence" in header else stored


def _luminance(rgb: Array) -> NDArray[np.float32]:
    """Luminance (0 to 255) of red, green and blue of any bit depth (rows × columns × 3)."""
    scale = 255 / np.iinfo(rgb.dtype).max if rgb.dtype.itemsize > 1 else 1
    return np.asarray(rgb[..., :3].astype(np.float32) @ (LUMINANCE * np.float32(scale)), np.float32)


def _rescale(values: Array, rule: tuple[float, float] | None) -> NDArray[np.float32]:
    """The values times slope plus intercept, as a new float32 array."""
    pixels = values.astype(np.float32)
    if rule is not None and rule != (1.0, 0.0):
        pixels *= np.float32(rule[0])
        pixels += np.float32(rule[1])
    return pixels
