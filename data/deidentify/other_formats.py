"""NIfTI, PNG and JPEG without the places where names hide; voxels and pixels keep their bytes."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.compression import gzipped
from data.scan.dicom import codestream
from data.scan.nifti import nifti_bytes
from data.scan.picture_file import upright_png
from lineage.errors import Fault

# Free text and unused numbers of the headers: nifti1.h (data_type, db_name, extents, session_error; glmax, glmin,
# descrip, aux_file; intent_name), nifti2.h (descrip, aux_file; intent_name; unused_str).
NIFTI1_TEXT = ((4, 38), (140, 252), (328, 344))
NIFTI2_TEXT = ((240, 344), (508, 524), (525, 540))
NIFTI_UNUSED = (
    "intent_p1",
    "intent_p2",
    "intent_p3",
    "cal_max",
    "cal_min",
    "slice_duration",
    "toffset",
    "slice_start",
    "slice_end",
)
NIFTI_QFORM = ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
NIFTI_SFORM = ["srow_x", "srow_y", "srow_z"]
LEVEL = 4  # of compression
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS")
PNG_HEADER, PNG_PALETTE = 13, 3  # bytes of IHDR; the colour type of pictures with a palette
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, steps


def nifti(name: str, content: bytes) -> bytes:
    """The file with its text fields, extensions and whatever follows the voxels gone; gzip without name and time."""
    plain, header, end = nifti_bytes(name, content)
    clean = bytearray(plain[:end])
    size = 540 if plain[4:7] == b"n+2" else 348
    gap = (size, int(header.get_data_offset()))
    for start, stop in (*(NIFTI1_TEXT if size == 348 else NIFTI2_TEXT), gap):
        clean[start:stop] = bytes(stop - start)
    _unused_numbers(np.frombuffer(memoryview(clean)[:size], header.structarr.dtype), header)
    kind = header.get_data_dtype()
    if kind.kind == "f":
        voxels = np.frombuffer(memoryview(clean)[int(header.get_data_offset()) :], kind)
        voxels[np.isnan(voxels)] = np.nan  # all bits but a few of a value that is no number are free
    return bytes(clean) if plain is content else gzipped(bytes(clean), LEVEL)


def _unused_numbers(fields: NDArray[Any], header: Any) -> None:
    """Empty the numbers that say nothing of the voxels, in place: their bytes may be text.

    Those are lengths and steps of axes that the volume has not, the matrix of a form that is not set, the parameters of
    an intent, and what viewers and time series use.
    """
    axes = int(fields["dim"][0, 0])
    fields["dim"][0, axes + 1 :], fields["pixdim"][0, axes + 1 :] = 1, 0
    unused = [*NIFTI_UNUSED]
    unused += [] if int(header["qform_code"]) else NIFTI_QFORM
    unused += [] if int(header["sform_code"]) else NIFTI_SFORM
    for name in unused:
        fields[name] = 0


def picture(name: str, content: bytes) -> tuple[str, bytes]:
    """Suffix and bytes of a PNG or JPEG without texts; one that its EXIF turns becomes an upright PNG.

    Fault where the picture is damaged.
    """
    upright = upright_png(name, content)
    if upright is not None:
        return ".png", png(name, upright)
    return (".png", png(name, content)) if content.startswith(b"\x89PNG") else (".jpg", jpeg(name, content))


def png(name: str, content: bytes) -> bytes:
    """The file with its critical chunks and transparency alone (PNG specification, section 11): no text, EXIF, time.

    Of these nothing stays that no viewer shows: palettes of pictures without one, and bytes behind the last pixel.
    Fault where the picture is damaged or holds more pixels than it says.
    """
    chunks: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    at = 8
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        kind = content[at + 4 : at + 8]
        if end > len(content) or (kind == b"IHDR") != (at == 8):
            break
        if kind == b"IDAT":
            pixels.append(content[at + 8 : end - 4])
        elif kind in PNG_KEPT:
            chunks.setdefault(kind, content[at + 8 : end - 4])
        if kind == b"IEND" and pixels:
            return _png(name, content[:8], chunks, b"".join(pixels))
        at = end
    raise Fault(f"{name}: ends in the middle of a picture; copy it again")


def _png(name: str, start: bytes, found: dict[bytes, bytes], pixels: bytes) -> bytes:
    """The chunks of a picture that say something of its pixels."""
    colours = found[b"IHDR"][9]
    longest = {0: 2, 2: 6, 3: len(found.get(b"PLTE", b"")) // 3}
    chunks = {b"IHDR": found[b"IHDR"][:PNG_HEADER]}
    if colours == PNG_PALETTE and b"PLTE" in found:
        chunks[b"PLTE"] = found[b"PLTE"]
    if 0 < len(found.get(b"tRNS", b"")) <= longest.get(colours, 0):
        chunks[b"tRNS"] = found[b"tRNS"]
    stream = zlib.decompressobj()
    size = _raw_size(chunks[b"IHDR"])
    try:
        if len(stream.decompress(pixels, size + 1)) > size:
            raise Fault(f"{name}: holds more pixels than it says; save it again")
    except zlib.error as error:
        raise Fault(f"{name}: is damaged; copy it again") from error
    chunks |= {b"IDAT": pixels.removesuffix(stream.unused_data), b"IEND": b""}
    return start + b"".join(
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks.items()
    )


def _raw_size(header: bytes) -> int:
    """How many bytes the rows of a PNG are before compression, one of each row for its filter (section 7 and 8)."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 4)
    passes = ADAM7 if header[12] else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def jpeg(name: str, content: bytes) -> bytes:
    """The file without comments and application segments (ITU-T T.81, B.2.4), EXIF and thumbnails among them.

    Of these only a colour transform stays, which decoding needs. Bytes after the end of the image are dropped.
    """
    picture, is_complete = codestream.jpeg(content)
    if not is_complete:
        raise Fault(f"{name}: ends in the middle of a picture; copy it again")
    return picture
