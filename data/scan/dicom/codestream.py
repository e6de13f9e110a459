"""Compressed frames without what a decoder passes over: comments, application segments, bytes behind the picture."""

from __future__ import annotations

import re
import struct

# FF00 and restart markers are entropy-coded data; so is FF before anything under 80 in JPEG-LS (T.87, A.1).
MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")
KEPT_SEGMENTS = {(0xEE, b"Adob"): 14, (0xE8, b"mrfx"): 7}  # colour transforms of JPEG and JPEG-LS, and their lengths
JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"  # T.81, B.1.1.3: SOI; T.800, A.4: SOC and SIZ
SOT, SOD, EOC, COMMENT = b"\xff\x90", b"\xff\x93", b"\xff\xd9", b"\xff\x64"  # T.800, A.4 and A.9.2
RLE_HEADER = 64  # bytes (PS3.5 section G.5): the number of segments and 15 offsets


def frame(content: bytes) -> bytes:
    """A frame of JPEG, JPEG-LS or JPEG 2000; one that ends too early loses its comments alone. Others stay."""
    if content.startswith(JPEG):
        return jpeg(content)[0]
    start = content.find(JPEG_2000, 0, 256) if content[4:8] == b"jP  " else 0
    return jpeg_2000(content[start:]) if content.startswith(JPEG_2000, max(start, 0)) else content


def jpeg(content: bytes) -> tuple[bytes, bool]:
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


def jpeg_2000(content: bytes) -> bytes:
    """A codestream without comments in its main header, with zeros for those in tile headers, and nothing behind it."""
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at : at + 2] != SOT:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if content[at : at + 2] != COMMENT:
            kept.append(content[at:end])
        at = end
    while content[at : at + 2] == SOT and at + 12 <= len(content):
        length = int.from_bytes(content[at + 6 : at + 10])  # of the tile part; 0: it reaches to the end
        end = at + length if length else content.rfind(EOC)
        if end < at + 12 or end > len(content):
            break
        kept.append(_tile_part(content[at:end]))
        at = end
    if content[at : at + 2] == EOC:
        return b"".join([*kept, EOC])
    return b"".join([*kept, content[at:]])


def _tile_part(content: bytes) -> bytes:
    """A tile part of the same length, its comments zeroed."""
    cleaned, at = bytearray(content), 12
    while at + 4 <= len(content) and content[at] == 0xFF and content[at : at + 2] != SOD:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if content[at : at + 2] == COMMENT:
            cleaned[at + 4 : end] = bytes(len(cleaned[at + 4 : end]))
        at = end
    return bytes(cleaned)


def rle(content: bytes, pixels: int) -> bytes:
    """A frame of RLE Lossless (PS3.5 annex G) whose segments end with their last pixel, `pixels` bytes each decoded.

    One that has nothing but zeros elsewhere stays byte by byte, and so does one that is damaged.
    """
    if len(content) < RLE_HEADER:
        return content
    count, *offsets = struct.unpack("<16L", content[:RLE_HEADER])
    starts = offsets[:count]
    if not 0 < count <= 15 or sorted(starts) != starts or starts[0] < RLE_HEADER or starts[-1] > len(content):
        return content
    stops = [*starts[1:], len(content)]
    segments = [_runs(content[start:stop], pixels) for start, stop in zip(starts, stops, strict=True)]
    spare = [content[4 + 4 * count : starts[0]]]
    spare += [
        content[start + len(segment) : stop] for segment, start, stop in zip(segments, starts, stops, strict=True)
    ]
    is_same = all(content.startswith(segment, start) for segment, start in zip(segments, starts, strict=True))
    if is_same and not any(any(part) for part in spare):
        return content
    padded = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    moved = [RLE_HEADER + sum(map(len, padded[:number])) for number in range(count)]
    return struct.pack("<16L", count, *moved, *[0] * (15 - count)) + b"".join(padded)


def _runs(segment: bytes, wanted: int) -> bytes:
    """The runs of a segment that give the first `wanted` bytes, the last one cut to that length."""
    at = decoded = 0
    while decoded < wanted and at < len(segment):
        head = segment[at]
        length = 0 if head == 128 else head + 1 if head < 128 else 257 - head
        if decoded + length > wanted:
            length = wanted - decoded
            last = bytes([length - 1]) + segment[at + 1 : at + 1 + length]
            if head > 128:
                last = bytes([257 - length if length > 1 else 0]) + segment[at + 1 : at + 2]
            return segment[:at] + last
        decoded += length
        at += 1 + (0 if head == 128 else length if head < 128 else 1)
    return segment[:at]
