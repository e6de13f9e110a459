"""Reading a DICOM file, single or multi-frame, plain or compressed, into a Scan: pixels, spacing, header facts."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import HeaderIdentity, Modality, Scan, ValueUnit
from data.scan import geometry, size_limits
from data.scan.dicom import closed_terms, decode_pixels
from data.scan.dicom.frames import functional_group, stack_frames
from data.scan.dicom.header_identity import read_identity
from data.scan.dicom.image_type import declared_image_type
from lineage.errors import Fault

DEFLATED = b"1.2.840.10008.1.2.1.99"
PREAMBLE = 128  # bytes, before the prefix DICM (PS3.10 section 7.1)
FIRST_GROUPS = (b"\x08\0", b"\0\x08", b"\x02\0")
META_BYTES = 4096  # of a file, in which its meta information names the transfer syntax
UNDEFINED_LENGTH = 0xFFFFFFFF  # length of encapsulated pixel data (PS3.5 section A.4)
FACT_KEYWORDS = {
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
CLOSED_FACTS = {"modality": "Modality", "laterality": "Laterality", "burned_in": "BurnedInAnnotation"}


def is_dicom(content: bytes) -> bool:
    """Whether the bytes begin like a DICOM file, or like a data set without preamble or file meta information.

    A bare data set begins with group 0008, in either byte order, or with group 0002 of the meta information.
    """
    if content[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return True
    start = PREAMBLE if not any(content[:PREAMBLE]) else 0
    return content[start : start + 2] in FIRST_GROUPS and len(content) - start > PREAMBLE


class NoImage(Fault):
    """A DICOM object without an image: a report, a presentation state. `kind` is the name of its SOP class."""

    def __init__(self, sentence: str, kind: str, identity: HeaderIdentity) -> None:
        super().__init__(sentence)
        self.kind, self.identity = kind, identity


def dataset(name: str, content: bytes) -> Any:
    """The parsed DICOM data set with its pixel data still encoded. Its file meta names a transfer syntax.

    Fault if it is no data set, inflates beyond the limits, or does not say how its pixel data are encoded.
    """
    import pydicom

    has_prefix = content[PREAMBLE : PREAMBLE + 4] == b"DICM"
    if not has_prefix and not any(content[:PREAMBLE]):
        content = content[PREAMBLE:]
    _check_deflated_size(name, content, PREAMBLE + 4 if has_prefix else 0)
    header = pydicom.dcmread(io.BytesIO(content), force=not has_prefix)
    if not has_prefix and "SOPClassUID" not in header:
        raise Fault(f"{name}: looks like DICOM but names no SOP class; export it again")
    if "TransferSyntaxUID" not in header.file_meta:
        header.file_meta.TransferSyntaxUID = _native_syntax(name, header)
    return header


def _check_deflated_size(name: str, content: bytes, start: int) -> None:
    """Fault if a deflated data set inflates beyond the limits.

    The meta information begins at `start` (PS3.10 section 7.1); its first element is its length.
    """
    if DEFLATED not in content[start : start + META_BYTES]:
        return
    if content[start : start + 4] != b"\x02\0\0\0":
        raise Fault(f"{name}: its meta information does not begin with its length; export it again")
    end = start + 12 + int.from_bytes(content[start + 8 : start + 12], "little")
    if DEFLATED not in content[start:end]:
        return
    size = len(size_limits.inflate(name, content[end:], size_limits.DECODED_BYTES + 1, -15))
    if size > size_limits.DECODED_BYTES:
        raise Fault(f"{name}: inflates beyond {size_limits.DECODED_BYTES // 1024**2} MiB; store it without compression")


def _native_syntax(name: str, header: Any) -> Any:
    """The transfer syntax of a data set that names none, by the encoding of its elements."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    stored = header.get_item("PixelData") if "PixelData" in header else None
    if stored is not None and stored.length == UNDEFINED_LENGTH:
        raise Fault(f"{name}: holds compressed pixels but no transfer syntax to decode them; export it again")
    is_implicit, is_little = header.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian


def scan_from_dataset(name: str, header: Any) -> Scan:
    """The scan of a parsed data set, its frames in anatomical order if the file gives their positions.

    Pixels are HU for CT with a rescale, grey of 0 to 255 for colours, else scanner units; MONOCHROME1 is inverted.
    Padding still has its declared value. `header["geometry"]` is the regularity of the frames, see `series`.
    """
    if not any(keyword in header for keyword in decode_pixels.KEYWORDS):
        raise _no_image(name, header)
    frames = int(header.get("NumberOfFrames") or 1)
    samples = int(header.get("SamplesPerPixel") or 1)
    size_limits.check_decoded_size(name, frames, int(header.Rows), int(header.Columns), samples)
    _check_codestreams(name, header)
    frame_stack = stack_frames(name, header, frames)
    unit = decode_pixels.pixel_units(header)
    pixels, padding, has_hidden_data = _pixels(name, header, frames, unit)
    order: tuple[int, ...] = ()
    if frame_stack is not None and (np.diff(frame_stack.order) != 1).any():
        order = tuple(frame_stack.order.tolist())
        pixels = pixels[frame_stack.order]
        padding = padding[frame_stack.order] if padding is not None else None
    modality = str(header.get("Modality") or "")
    first = int(frame_stack.order[0]) if frame_stack is not None else 0
    facts = _facts(header, modality, first)
    spacing = _spacing(header, frame_stack.distance if frame_stack is not None else 0.0)
    affine, directions = geometry.dicom_affine(
        _numbers(facts["position"]), _numbers(facts["orientation"]), spacing, frame_stack.step if frame_stack else None
    )
    facts["geometry"] = geometry.geometry_fact(frame_stack.geometry if frame_stack is not None else "", directions)
    return Scan(
        name=name,
        pixels=pixels,
        units=unit,
        modality=Modality(modality) if modality in list(Modality) else None,
        spacing=spacing,
        header=facts,
        patient_id=str(header.get("PatientID") or ""),
        identity=read_identity(header),
        scanner=" ".join(filter(None, (facts["manufacturer"], facts["model"]))),
        affine=affine if frames == 1 or (frame_stack and frame_stack.step is not None) else None,
        directions=directions,
        padding=padding,
        hides=has_hidden_data,
        order=order,
    )


def _no_image(name: str, header: Any) -> Fault:
    """`NoImage` for a known kind of object that never holds an image; a Fault for an image without its pixels."""
    from pydicom.uid import UID

    uid = UID(str(header.get("SOPClassUID") or ""))
    kind = uid.name if uid.name != uid else "of an unknown kind"
    sentence = f"{name}: holds no image, it is {kind}; leave it out of the folder"
    if kind == "of an unknown kind" or "Image" in kind:
        return Fault(sentence)
    return NoImage(sentence, kind, read_identity(header))


def _check_codestreams(name: str, header: Any) -> None:
    from pydicom.encaps import generate_frames

    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_transfer_syntax and syntax.is_encapsulated:
        frames = int(header.get("NumberOfFrames") or 1)
        for frame in generate_frames(header.PixelData, number_of_frames=frames):
            size_limits.check_codestream_size(name, frame)


def _pixels(
    name: str, header: Any, count: int, unit: ValueUnit
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, bool]:
    """Pixels of all frames (float32, frames × rows × columns), the mask of their padding, and `has_hidden_data`.

    `has_hidden_data` (see `decode_pixels.Frame`) says whether the stored bytes of any frame hold more than its pixels.
    """
    shape = (count, int(header.Rows), int(header.Columns))
    pixels: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None
    has_hidden_data = False
    for number, frame in enumerate(decode_pixels.decode_frames(name, header, unit)):
        has_hidden_data = has_hidden_data or frame.has_hidden_data
        if pixels is None:
            pixels = np.empty(shape, np.float32) if count > 1 else frame.pixels.reshape(shape)
        if count > 1:
            pixels[number] = frame.pixels
        if frame.padding is not None and count == 1:
            mask = frame.padding.reshape(shape)
        elif frame.padding is not None:
            mask = np.zeros(shape, bool) if mask is None else mask
            mask[number] = frame.padding
    assert pixels is not None
    if header.get("PhotometricInterpretation") == "MONOCHROME1" and unit == ValueUnit.RAW:
        _invert(pixels, mask)
    return pixels, mask, has_hidden_data


def _invert(pixels: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> None:
    """Invert bright and dark, in place, within the range of the pixels that are no padding."""
    if mask is None:
        total = pixels.max() + pixels.min()
    else:
        total = pixels.max(initial=-np.inf, where=~mask) + pixels.min(initial=np.inf, where=~mask)
    np.subtract(total, pixels, out=pixels)


def _spacing(header: Any, distance: float) -> tuple[float, float, float] | None:
    """(slice distance, row, column) in mm; the distance comes from the frame positions, else from the header."""
    group = functional_group(header, 0, "PixelMeasuresSequence") or header
    pixel_spacing = group.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if not pixel_spacing or len(pixel_spacing) != 2:
        return None
    header_distance = group.get("SpacingBetweenSlices") or group.get("SliceThickness") or 0
    return distance or abs(float(header_distance)), float(pixel_spacing[0]), float(pixel_spacing[1])


def _facts(header: Any, modality: str, first: int) -> dict[str, str]:
    """The header facts; position and orientation are those of the frame that is anatomically first."""
    facts = {"format": "dicom", "modality": modality, "image_type": declared_image_type(header)}
    facts |= {fact: _text(header.get(keyword)) for fact, keyword in FACT_KEYWORDS.items()}
    for fact, keyword in CLOSED_FACTS.items():  # a closed list of terms; any other text may be a name
        terms, substitute = closed_terms.CLOSED[keyword]
        facts[fact] = facts[fact] if facts[fact].upper() in terms else (facts[fact] and substitute) or ""
    position_item = functional_group(header, first, "PlanePositionSequence") or header
    orientation_item = functional_group(header, first, "PlaneOrientationSequence") or header
    facts["position"] = _text(position_item.get("ImagePositionPatient"))
    facts["orientation"] = _text(orientation_item.get("ImageOrientationPatient"))
    series = _text(header.get("SeriesInstanceUID"))
    facts["series"] = hashlib.sha256(series.encode()).hexdigest()[:16] if series else ""
    return facts


def _numbers(text: str) -> list[float]:
    """The numbers of a fact with several values; empty if one of them is no number."""
    try:
        return [float(part) for part in text.split("\\")] if text else []
    except ValueError:
        return []


def _text(value: Any) -> str:
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return "\\".join("" if part is None else str(part).strip() for part in parts)[:128]
