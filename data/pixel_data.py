"""DICOM pixel data without what hides behind the pixels: bytes after the last, spare bits, comments in frames."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from data import dicom_pixels, padding, scrub, stored_bits

Array = NDArray[Any]
FLOATS = {"FloatPixelData": 4, "DoubleFloatPixelData": 8}  # bytes of a pixel


def clean(header: Any, keyword: str) -> bytes:
    """One of the three kinds of pixel data of `header`, still encoded, every pixel as it was."""
    stored = bytes(header.get(keyword))
    if keyword != "PixelData":
        pixels = int(header.get("NumberOfFrames") or 1) * int(header.Rows) * int(header.Columns)
        return bytes(stored[: pixels * FLOATS[keyword]])
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated:
        return _encapsulated(header, stored)
    return _cut(header, stored)


def rewrite(name: str, header: Any) -> None:
    """Give a data set uncompressed pixel data of the values alone: spare bits empty, padding of one value, in place.

    The transfer syntax stays where it was uncompressed, else it becomes explicit little endian.
    """
    from pydicom.uid import ExplicitVRLittleEndian

    syntax = header.file_meta.TransferSyntaxUID
    keyword = next(keyword for keyword in dicom_pixels.KEYWORDS if keyword in header)
    place, declared = stored_bits.layout(name, header), padding.declared(name, header)
    is_little = syntax.is_encapsulated or syntax.is_little_endian
    written = []
    for frame in dicom_pixels.frames(name, header):
        values = frame.stored.copy()
        if frame.padding is not None:
            values[frame.padding] = _padding_value(declared, values[frame.padding])
        values = values << place.below if place is not None else values
        written.append(values.astype(values.dtype.newbyteorder("<" if is_little else ">")).tobytes())
    content = b"".join(written)
    representation = {"PixelData": "OB" if header.BitsAllocated <= 8 else "OW", "FloatPixelData": "OF"}
    if int(header.get("SamplesPerPixel") or 1) > 1:
        header.PlanarConfiguration, header.PhotometricInterpretation = 0, "RGB"
    if syntax.is_encapsulated:
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for offsets in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            header.pop(offsets, None)
    header.add_new(keyword, representation.get(keyword, "OD"), content + b"\0" * (len(content) % 2))


def _padding_value(declared: padding.Declared | None, padded: Array) -> Any:
    return padded.min() if declared is None or declared.value not in padded else declared.value


def _cut(header: Any, stored: bytes) -> bytes:
    """Native pixel data of the length that the header asks for, padded to an even one."""
    from pydicom.pixels.utils import get_expected_length

    wanted = int(get_expected_length(header, unit="bytes"))
    if len(stored) <= wanted + wanted % 2:
        return stored
    return stored[:wanted] + b"\0" * (wanted % 2)


def _encapsulated(header: Any, stored: bytes) -> bytes:
    """Frames (JPEG, JPEG-LS, JPEG 2000) without comments and application segments; others as they are."""
    from pydicom.encaps import encapsulate, generate_frames

    frames = list(generate_frames(stored, number_of_frames=int(header.get("NumberOfFrames") or 1)))
    cleaned = [scrub.frame(frame) for frame in frames]
    return stored if cleaned == frames else bytes(encapsulate(cleaned))
