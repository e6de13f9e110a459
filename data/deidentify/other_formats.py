"""De-identification of NIfTI, PNG and JPEG: removal of the fields that may hold names; pixels keep their values."""

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
GZIP_LEVEL = 4  # of compression
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS")
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


def clean_nifti(name: str, content: bytes) -> bytes:
    """The file without text fields, extensions and bytes after the voxels; gzip without name and time."""
    plain, header, end = nifti_bytes(name, content)
    clean = bytearray(plain[:end])
    size = 540 if plain[4:7] == b"n+2" else 348
    extensions = (size, int(header.get_data_offset()))
    for start, stop in (*(NIFTI1_TEXT if size == 348 else NIFTI2_TEXT), extensions):
        clean[start:stop] = bytes(stop - start)
    _clear_unused_numbers(np.frombuffer(memoryview(clean)[:size], header.structarr.dtype), header)
    voxel_type = header.get_data_dtype()
    if voxel_type.kind == "f":
        voxels = np.frombuffer(memoryview(clean)[int(header.get_data_offset()) :], voxel_type)
        voxels[np.isnan(voxels)] = np.nan  # the payload bits of a NaN may hold text
    return bytes(clean) if plain is content else gzipped(bytes(clean), GZIP_LEVEL)


def _clear_unused_numbers(fields: NDArray[Any], header: Any) -> None:
    """Zero the numbers that do not describe the voxels, in place: their bytes may be text.

    These are lengths and steps of axes that the volume does not have, and the matrix of a form that is not set. They
    are also the parameters of an intent, and fields for viewers and time series.
    """
    axes = int(fields["dim"][0, 0])
    fields["dim"][0, axes + 1 :], fields["pixdim"][0, axes + 1 :] = 1, 0
    unused = [*NIFTI_UNUSED]
    unused += [] if int(header["qform_code"]) else NIFTI_QFORM
    unused += [] if int(header["sform_code"]) else NIFTI_SFORM
    for name in unused:
        fields[name] = 0


def clean_picture(name: str, content: bytes) -> tuple[str, bytes]:
    """Suffix and bytes of a PNG or JPEG without texts; a picture that its EXIF turns becomes an upright PNG.

    Fault if the picture is damaged.
    """
    upright = upright_png(name, content)
    if upright is not None:
        return ".png", clean_png(name, upright)
    return (".png", clean_png(name, content)) if content.startswith(b"\x89PNG") else (".jpg", clean_jpeg(name, content))


def clean_png(name: str, content: bytes) -> bytes:
    """The file with only its critical chunks and transparency (PNG specification, section 11): no text, EXIF or time.

    Content that no viewer shows is removed too: palettes of pictures without palette colours, and bytes after the last
    pixel. Fault if the picture is damaged or holds more pixels than it declares.
    """
    chunks: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    position = 8
    while position + 12 <= len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4])
        chunk_type = content[position + 4 : position + 8]
        if end > len(content) or (chunk_type == b"IHDR") != (position == 8):
            break
        if chunk_type == b"IDAT":
            pixels.append(content[position + 8 : end - 4])
        elif chunk_type in PNG_CHUNKS:
            chunks.setdefault(chunk_type, content[position + 8 : end - 4])
        if chunk_type == b"IEND" and pixels:
            return _write_png(name, content[:8], chunks, b"".join(pixels))
        position = end
    raise Fault(f"{name}: ends in the middle of a picture; copy it again")


def _write_png(name: str, signature: bytes, source: dict[bytes, bytes], pixels: bytes) -> bytes:
    """A PNG with only the chunks of the source that describe its pixels."""
    colour_type = source[b"IHDR"][9]
    max_transparency = {0: 2, 2: 6, 3: len(source.get(b"PLTE", b"")) // 3}
    chunks = {b"IHDR": source[b"IHDR"][:PNG_HEADER]}
    if colour_type == PNG_PALETTE and b"PLTE" in source:
        chunks[b"PLTE"] = source[b"PLTE"]
    if 0 < len(source.get(b"tRNS", b"")) <= max_transparency.get(colour_type, 0):
        chunks[b"tRNS"] = source[b"tRNS"]
    stream = zlib.decompressobj()
    size = _raw_size(chunks[b"IHDR"])
    try:
        if len(stream.decompress(pixels, size + 1)) > size:
            raise Fault(f"{name}: holds more pixels than it declares; save it again")
    except zlib.error as error:
        raise Fault(f"{name}: is damaged; copy it again") from error
    chunks |= {b"IDAT": pixels.removesuffix(stream.unused_data), b"IEND": b""}
    return signature + b"".join(
        len(data).to_bytes(4) + chunk_type + data + zlib.crc32(chunk_type + data).to_bytes(4)
        for chunk_type, data in chunks.items()
    )


def _raw_size(header: bytes) -> int:
    """The size in bytes of a PNG's rows before compression, with one filter byte per row (sections 7 and 8)."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 4)
    passes = ADAM7 if header[12] else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def clean_jpeg(name: str, content: bytes) -> bytes:
    """The file without comments and application segments (ITU-T T.81, B.2.4), which include EXIF and thumbnails.

    Only a colour transform stays, because decoding needs it. Bytes after the end of the image are removed.
    """
    picture, is_complete = codestream.clean_jpeg(content)
    if not is_complete:
        raise Fault(f"{name}: ends in the middle of a picture; copy it again")
    return picture
