"""NIfTI, PNG and JPEG without the places where names hide; voxels and pixels keep their bytes."""

from __future__ import annotations

import gzip
import re

from data.read import nifti_bytes
from lineage.fault import Fault

# Free text of the headers: nifti1.h (data_type, db_name, descrip, aux_file, intent_name), nifti2.h.
NIFTI1_TEXT = ((4, 14), (14, 32), (148, 228), (228, 252), (328, 344))
NIFTI2_TEXT = ((240, 320), (320, 344), (508, 524))
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # PS: FF00 and restart markers are entropy-coded data


def nifti(name: str, content: bytes) -> bytes:
    """The file with its text fields, extensions and whatever follows the voxels gone; gzip without name and time."""
    plain, header, end = nifti_bytes(name, content)
    clean = bytearray(plain[:end])
    size = 540 if plain[4:7] == b"n+2" else 348
    gap = (size, int(header.get_data_offset()))
    for start, stop in (*(NIFTI1_TEXT if size == 348 else NIFTI2_TEXT), gap):
        clean[start:stop] = bytes(stop - start)
    return bytes(clean) if plain is content else gzip.compress(bytes(clean), compresslevel=4, mtime=0)


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

    Of these only Adobe's colour transform stays, which decoding needs. Bytes after the end of the image are dropped.
    """
    kept, at = [content[:2]], 2
    while (found := MARKER.match(content, at)) is not None:
        marker, start = found.group(1)[0], found.end()
        if marker == 0xD9:
            return b"".join([*kept, b"\xff\xd9"])
        stop = start + int.from_bytes(content[start : start + 2])
        segment = content[start:stop]
        if marker == 0xDA:
            following = MARKER.search(content, stop)
            if following is None:
                break
            segment, stop = content[start : following.start()], following.start()
        if not (marker == 0xFE or 0xE0 <= marker <= 0xEF) or (marker == 0xEE and segment[2:7] == b"Adobe"):
            kept.append(bytes([0xFF, marker]) + (segment[:14] if marker == 0xEE else segment))
        at = stop
    raise Fault(f"{name}: ends in the middle of a picture; copy it again")
