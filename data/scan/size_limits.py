"""Limits on the size that a file declares, checked before anything is decoded."""

from __future__ import annotations

import struct
import zlib

from lineage.errors import Fault

DECODED_BYTES = 512 * 1024**2  # of one scan as float32
PIXEL_BYTES = 4
LONGEST_SERIES = 10_000  # files of one folder, archive or upload
MAX_SEGMENTS = 10_000  # marker segments before the frame header of a JPEG; no real file has a hundred


def check_decoded_size(name: str, *shape: int) -> None:
    """Fault unless an array of `shape` as float32 is non-empty and at most `DECODED_BYTES`."""
    size = PIXEL_BYTES
    for length in shape:
        if length < 1:
            declared = "×".join(map(str, shape))
            raise Fault(f"{name}: the header declares the shape {declared}, which holds no pixel; export it again")
        size *= length
    if size > DECODED_BYTES:
        raise Fault(
            f"{name}: the header declares {'×'.join(map(str, shape))} pixels, {size / 1024**2:,.0f} MiB decoded; "
            f"at most {DECODED_BYTES // 1024**2} MiB are read, so split or reduce the scan"
        )


def check_codestream_size(name: str, frame: bytes) -> None:
    """Fault if a compressed frame (JPEG, JPEG-LS, JPEG 2000) declares more pixels than are read.

    A DICOM header and its codestream may disagree, and decoders allocate the size that the codestream declares.
    """
    if frame[:2] == b"\xff\xd8":
        rows, columns = _jpeg_size(frame)
    elif frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:
        right, bottom, left, top = struct.unpack(">IIII", frame[8:24])
        rows, columns = bottom - top, right - left
    else:
        return
    if rows and columns:
        check_decoded_size(name, rows, columns)


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """Rows and columns of the first frame header (ITU-T T.81 B.2.2, JPEG-LS T.87: SOF55); 0, 0 if there is none."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        if position + 9 > len(frame) or frame[position] != 0xFF:
            break
        marker = frame[position + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack(">HH", frame[position + 5 : position + 9])
            return rows, columns
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            position += 2 + int.from_bytes(frame[position + 2 : position + 4])
    return 0, 0


def inflate(name: str, content: bytes, limit: int, wbits: int) -> bytes:
    """Decompress at most `limit` bytes (`wbits` as in zlib: 31 gzip, -15 raw). Fault where the stream is broken."""
    try:
        return zlib.decompressobj(wbits).decompress(content, limit)
    except zlib.error as error:
        raise Fault(f"{name}: the compressed data are damaged ({error}); export the file again") from error
