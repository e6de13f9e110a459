"""NIfTI, PNG and JPEG without the places where names hide; voxels and pixels keep their bytes."""

from __future__ import annotations

import re

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
# FF00 and restart markers are entropy-coded data; so is FF before anything under 80 in JPEG-LS (T.87, A.1).
MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")
KEPT_SEGMENTS = {(0xEE, b"Adob"): 14, (0xE8, b"mrfx"): 7}  # colour transforms of JPEG and JPEG-LS, and their lengths
CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000 (T.800, A.4): SOC and SIZ


def nifti(name: str, content: bytes) -> bytes:
    """The file with its text fields, extensions and whatever follows the voxels gone; gzip without name and time."""
    plain, header, end = nifti_bytes(name, content)
    clean = bytearray(plain[:end])
    size = 540 if plain[4:7] == b"n+2" else 348
    gap = (size, int(header.get_data_offset()))
    for start, stop in (*(NIFTI1_TEXT if size == 348 else NIFTI2_TEXT), gap):
        clean[start:stop] = bytes(stop - start)
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
    kept, whole = _segments(content)
    if not whole:
        raise Fault(f"{name}: ends in the middle of a picture; copy it again")
    return kept


def frame(content: bytes) -> bytes:
    """One compressed frame of a DICOM file as `jpeg` leaves it; one that ends too early stays without its comments."""
    if content.startswith(b"\xff\xd8"):
        kept, _ = _segments(content)
        return kept
    start = content.find(CODESTREAM, 0, 256) if content[4:8] == b"jP  " else 0
    return _codestream(content[start:]) if content.startswith(CODESTREAM, max(start, 0)) else content


def _segments(content: bytes) -> tuple[bytes, bool]:
    """The marker segments of a JPEG that carry its picture, and whether its end was found."""
    kept, at = [content[:2]], 2
    while (found := MARKER.match(content, at)) is not None:
        marker, start = found.group(1)[0], found.end()
        if marker == 0xD9:
            return b"".join([*kept, b"\xff\xd9"]), True
        stop = start + int.from_bytes(content[start : start + 2])
        segment = content[start:stop]
        if marker == 0xDA:
            following = MARKER.search(content, stop)
            if following is None:
                return b"".join([*kept, b"\xff\xda", content[start:]]), False
            segment, stop = content[start : following.start()], following.start()
        if length := KEPT_SEGMENTS.get((marker, segment[2:6])):
            kept.append(bytes([0xFF, marker]) + segment[:length])
        elif not (marker == 0xFE or 0xE0 <= marker <= 0xEF):
            kept.append(bytes([0xFF, marker]) + segment)
        at = stop
    return b"".join([*kept, content[at:]]), False


def _codestream(content: bytes) -> bytes:
    """A JPEG 2000 codestream without the comments of its main header (T.800, A.9.2); the tiles stay as they are."""
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0x90:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if content[at + 1] != 0x64:
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]])
