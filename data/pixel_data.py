"""DICOM pixel data without what hides behind the pixels: bytes after the last, unused bits, comments in frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from data import scrub

FLOATS = {"FloatPixelData": 4, "DoubleFloatPixelData": 8}  # bytes of a pixel
OVERLAYS = range(0x6000, 0x6020, 2)  # PS3.5 section 7.6: repeating groups


def clean(header: Any, keyword: str) -> bytes:
    """One of the three kinds of pixel data of `header`, still encoded, every pixel as it was."""
    stored = bytes(header.get(keyword))
    if keyword != "PixelData":
        pixels = int(header.get("NumberOfFrames") or 1) * int(header.Rows) * int(header.Columns)
        return bytes(stored[: pixels * FLOATS[keyword]])
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated:
        return _encapsulated(header, stored)
    return _without_overlays(header, _cut(header, stored))


def _cut(header: Any, stored: bytes) -> bytes:
    """Native pixel data of the length that the header asks for, padded to an even one."""
    from pydicom.pixels.utils import get_expected_length

    wanted = int(get_expected_length(header, unit="bytes"))
    if len(stored) <= wanted + wanted % 2:
        return stored
    return stored[:wanted] + b"\0" * (wanted % 2)


def _without_overlays(header: Any, stored: bytes) -> bytes:
    """Pixels whose spare bits hold a retired overlay (60xx,0102 not 0) get those bits' plain value: zero, or sign."""
    used = [header.get((group, 0x0102)) for group in OVERLAYS]
    spare = int(header.BitsAllocated) - int(header.BitsStored)
    if spare < 1 or header.BitsAllocated not in (8, 16) or not any(element and element.value for element in used):
        return stored
    order = "<" if header.original_encoding[1] in (True, None) else ">"
    kind = f"{order}{'i' if header.PixelRepresentation else 'u'}{header.BitsAllocated // 8}"
    above = int(header.BitsAllocated) - 1 - int(header.HighBit)
    pixels = np.frombuffer(stored[: len(stored) // int(kind[2]) * int(kind[2])], kind) << above >> (above)
    below = int(header.HighBit) + 1 - int(header.BitsStored)
    return bytes((pixels >> below << below).astype(kind).tobytes()).ljust(len(stored), b"\0")


def _encapsulated(header: Any, stored: bytes) -> bytes:
    """Frames (JPEG, JPEG-LS, JPEG 2000) without comments and application segments; others as they are."""
    from pydicom.encaps import encapsulate, generate_frames

    frames = list(generate_frames(stored, number_of_frames=int(header.get("NumberOfFrames") or 1)))
    cleaned = [scrub.frame(frame) for frame in frames]
    return stored if cleaned == frames else bytes(encapsulate(cleaned))
