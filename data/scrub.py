"""NIfTI, PNG and JPEG without the places where names hide; voxels and pixels keep their bytes."""

from __future__ import annotations

import numpy as np

from data import codestream
from data.compression import gzipped
from data.nifti import nifti_bytes
from data.picture_file import upright_png
from lineage.fault import Fault

# Free text and unused numbers of the headers: nifti1.h (data_type, db_name, extents, session_error; glmax, glmin,
# descrip, aux_file; intent_name), nifti2.h (descrip, aux_file; intent_name; unused_str).
NIFTI1_TEXT = ((4, 38), (140, 252), (328, 344))
NIFTI2_TEXT = ((240, 344), (508, 524), (525, 540))
LEVEL = 4  # of compression
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def nifti(name: str, content: bytes) -> bytes:
    """The file with its text fields, extensions and whatever follows the voxels gone; gzip without name and time."""
    plain, header, end = nifti_bytes(name, content)
    clean = bytearray(plain[:end])
    size = 540 if plain[4:7] == b"n+2" else 348
    gap = (size, int(header.get_data_offset()))
    for start, stop in (*(NIFTI1_TEXT if size == 348 else NIFTI2_TEXT), gap):
        clean[start:stop] = bytes(stop - start)
    kind = header.get_data_dtype()
    if kind.kind == "f":
        voxels = np.frombuffer(memoryview(clean)[int(header.get_data_offset()) :], kind)
        voxels[np.isnan(voxels)] = np.nan  # all bits but a few of a value that is no number are free
    return bytes(clean) if plain is content else gzipped(bytes(clean), LEVEL)


def picture(name: str, content: bytes) -> tuple[str, bytes]:
    """Suffix and bytes of a PNG or JPEG without texts; one that its EXIF turns becomes an upright PNG.

    Fault where the picture is damaged.
    """
    upright = upright_png(name, content)
    if upright is not None:
        return ".png", png(name, upright)
    return (".png", png(name, content)) if content.startswith(b"\x89PNG") else (".jpg", jpeg(name, content))


def png(name: str, content: bytes) -> bytes:
    """The file with its critical chunks and transparency alone (PNG specification, section 11): no text, EXIF, time."""
    kept, at = [content[:8]], 8
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        kind = content[at + 4 : at + 8]
        if end > len(content):
            break
        if kind in PNG_KEPT:
            kept.append(content[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    raise Fault(f"{name}: ends in the middle of a picture; copy it again")


def jpeg(name: str, content: bytes) -> bytes:
    """The file without comments and application segments (ITU-T T.81, B.2.4), EXIF and thumbnails among them.

    Of these only a colour transform stays, which decoding needs. Bytes after the end of the image are dropped.
    """
    picture, is_complete = codestream.jpeg(content)
    if not is_complete:
        raise Fault(f"{name}: ends in the middle of a picture; copy it again")
    return picture
