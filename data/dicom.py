"""DICOM, single or multi-frame, plain or compressed -> Scan: pixels in their unit, spacing and facts of the header."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import geometry, limits
from data.frames import functional, stack
from data.header_identity import of_header
from data.record import Modality, Scan, Units
from lineage.fault import Fault

Array = NDArray[Any]
DEFLATED = b"1.2.840.10008.1.2.1.99"
FACTS = {
    "body_part": "BodyPartExamined",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "kernel": "ConvolutionKernel",
    "laterality": "Laterality",
    "burned_in": "BurnedInAnnotation",
    "photometric": "PhotometricInterpretation",
    "sex": "PatientSex",
    "age": "PatientAge",
}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def dataset(name: str, content: bytes) -> Any:
    """The parsed DICOM data set with its pixel data still encoded. Fault if it is none or inflates beyond limits."""
    import pydicom

    has_meta = content[128:132] == b"DICM"
    start = _meta_end(content)
    if DEFLATED in content[132:start]:
        size = len(limits.inflate(name, content[start:], limits.DECODED_BYTES + 1, -15))
        if size > limits.DECODED_BYTES:
            raise Fault(f"{name}: inflates beyond {limits.DECODED_BYTES // 1024**2} MiB; store it without compression")
    header = pydicom.dcmread(io.BytesIO(content), force=not has_meta)
    if not has_meta and "SOPClassUID" not in header:
        raise Fault(f"{name}: looks like DICOM but names no SOP class; export it again")
    return header


def _meta_end(content: bytes) -> int:
    """Where the file meta information ends (PS3.10 section 7.1): its first element is its length."""
    if content[128:136] != b"DICM\x02\x00\x00\x00":
        return 0
    return 144 + int.from_bytes(content[140:144], "little")


def scan_of(name: str, header: Any) -> Scan:
    """The scan of a parsed data set, its frames in the order of the body where the file says where they lie.

    HU for CT with a rescale; grey of 0 to 255 for colours; else scanner units, MONOCHROME1 turned so that bright is
    bright. `header["geometry"]` says how frames or slices lie, see `series`.
    """
    if not any(keyword in header for keyword in PIXELS):
        from pydicom._uid_dict import UID_dictionary

        uid = str(header.get("SOPClassUID") or "")
        kind = UID_dictionary[uid][0] if uid in UID_dictionary else "of an unknown kind"
        raise Fault(f"{name}: holds no image, it is {kind}; leave it out of the folder")
    frames = int(header.get("NumberOfFrames") or 1)
    colours = int(header.get("SamplesPerPixel") or 1)
    limits.permit(name, frames, int(header.Rows), int(header.Columns), colours)
    _permit_frames(name, header)
    stacked = stack(name, header, frames)
    pixels, units = _pixels(header, frames)
    if stacked is not None and (np.diff(stacked.order) != 1).any():
        pixels = pixels[stacked.order]
    modality = str(header.get("Modality") or "")
    first = int(stacked.order[0]) if stacked is not None else 0
    facts = _facts(header, modality, first)
    spacing = _spacing(header, stacked.distance if stacked is not None else 0.0)
    affine, directions = geometry.dicom(
        _numbers(facts["position"]), _numbers(facts["orientation"]), spacing, stacked.step if stacked else None
    )
    facts["geometry"] = geometry.fact(stacked.geometry if stacked is not None else "", directions)
    return Scan(
        name=name,
        pixels=pixels,
        units=units,
        modality=Modality(modality) if modality in list(Modality) else None,
        spacing=spacing,
        header=facts,
        patient_id=str(header.get("PatientID") or ""),
        identity=of_header(header),
        affine=affine if frames == 1 or (stacked and stacked.step is not None) else None,
        directions=directions,
    )


def _permit_frames(name: str, header: Any) -> None:
    from pydicom.encaps import generate_frames
    from pydicom.uid import UID

    syntax = UID(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else UID("")
    if syntax and syntax.is_transfer_syntax and syntax.is_encapsulated:
        frames = int(header.get("NumberOfFrames") or 1)
        for frame in generate_frames(header.PixelData, number_of_frames=frames):
            limits.permit_codestream(name, frame)


def _pixels(header: Any, frames: int) -> tuple[NDArray[np.float32], Units]:
    """Frames × rows × columns in float32, and their unit. Frame by frame, so that one alone lies decoded in memory."""
    from pydicom.pixels import iter_pixels, pixel_array

    pixels = np.empty((frames, int(header.Rows), int(header.Columns)), np.float32)
    stored = iter_pixels(header, view_only=True) if frames > 1 else [pixel_array(header, view_only=True)]
    for number, (plane, values) in enumerate(zip(pixels, stored, strict=True)):
        plane[...] = _values(header, values)
        _rescale(plane, _frame_rule(header, number))
    if int(header.get("SamplesPerPixel") or 1) > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return pixels, Units.DISPLAY
    scaled = "ModalityLUTSequence" in header or _frame_rule(header, 0) is not None
    if header.get("Modality") == "CT" and scaled and _rescale_type(header) in ("", "HU", "US"):
        return pixels, Units.HU
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        turn = pixels.max() + pixels.min()
        np.subtract(turn, pixels, out=pixels)
    return pixels, Units.RAW


def _values(header: Any, stored: Array) -> Array:
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


def _rescale(plane: NDArray[np.float32], rule: tuple[float, float] | None) -> None:
    """Values times slope plus intercept, in place."""
    if rule is not None and rule != (1.0, 0.0):
        plane *= np.float32(rule[0])
        plane += np.float32(rule[1])


def _frame_rule(header: Any, frame: int) -> tuple[float, float] | None:
    """Slope and intercept of a frame; None where there is none, or where values are no plain grey."""
    if "ModalityLUTSequence" in header or int(header.get("SamplesPerPixel") or 1) > 1:
        return None
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return None
    group = functional(header, frame, "PixelValueTransformationSequence") or header
    if group.get("RescaleSlope") is None:
        return None
    return float(group.RescaleSlope), float(group.get("RescaleIntercept") or 0)


def _rescale_type(header: Any) -> str:
    group = functional(header, 0, "PixelValueTransformationSequence") or header
    return str(group.get("RescaleType") or "")


def _spacing(header: Any, distance: float) -> tuple[float, float, float] | None:
    """(slice distance, row, column) in mm; the distance as the frames lie, else as the header says."""
    group = functional(header, 0, "PixelMeasuresSequence") or header
    plane = group.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if not plane or len(plane) != 2:
        return None
    told = group.get("SpacingBetweenSlices") or group.get("SliceThickness") or 0
    return distance or abs(float(told)), float(plane[0]), float(plane[1])


def _facts(header: Any, modality: str, first: int) -> dict[str, str]:
    """Plain facts; position and orientation are those of the frame that comes first in the body."""
    facts = {"format": "dicom", "modality": modality}
    facts |= {fact: _text(header.get(keyword)) for fact, keyword in FACTS.items()}
    place = functional(header, first, "PlanePositionSequence") or header
    plane = functional(header, first, "PlaneOrientationSequence") or header
    facts["position"] = _text(place.get("ImagePositionPatient"))
    facts["orientation"] = _text(plane.get("ImageOrientationPatient"))
    series = _text(header.get("SeriesInstanceUID"))
    facts["series"] = hashlib.sha256(series.encode()).hexdigest()[:16] if series else ""
    return facts


def _numbers(text: str) -> list[float]:
    """The numbers of a fact with several values; none where it has no plain ones."""
    try:
        return [float(part) for part in text.split("\\")] if text else []
    except ValueError:
        return []


def _text(value: Any) -> str:
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return "\\".join("" if part is None else str(part).strip() for part in parts)[:128]
