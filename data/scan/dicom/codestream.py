"""Cleaning of compressed frames: comments, application segments and trailing bytes, which decoders ignore."""

from __future__ import annotations

import re
import struct

# FF00 and restart markers are entropy-coded data. So is FF before a byte below 80 in JPEG-LS (T.87, A.1).
MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")
KEPT_SEGMENTS = {(0xEE, b"Adob"): 14, (0xE8, b"mrfx"): 7}  # colour transforms of JPEG and JPEG-LS, and their lengths
JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"  # T.81, B.1.1.3: SOI; T.800, A.4: SOC and SIZ
SOT, SOD, EOC, COMMENT = b"\xff\x90", b"\xff\x93", b"\xff\xd9", b"\xff\x64"  # T.800, A.4 and A.9.2
RLE_HEADER = 64  # bytes (PS3.5 section G.5): the number of segments and 15 offsets


def clean_frame(content: bytes) -> bytes:
    """A cleaned frame of JPEG, JPEG-LS or JPEG 2000; a truncated one only loses comments. Others are unchanged."""
    if content.startswith(JPEG):
        return clean_jpeg(content)[0]
    start = content.find(JPEG_2000, 0, 256) if content[4:8] == b"jP  " else 0
    return clean_jpeg_2000(content[start:]) if content.startswith(JPEG_2000, max(start, 0)) else content


def clean_jpeg(content: bytes) -> tuple[bytes, bool]:
    """The marker segments of a JPEG that carry its picture, and whether the file has an end marker."""
    segments, position = [content[:2]], 2
    while (match := MARKER.match(content, position)) is not None:
        marker, start = match.group(1)[0], match.end()
        if marker == 0xD9:
            return b"".join([*segments, b"\xff\xd9"]), True
        stop = start + int.from_bytes(content[start : start + 2])
        segment = content[start:stop]
        if marker == 0xDA:
            following = MARKER.search(content, stop)
            if following is None:
                return b"".join([*segments, b"\xff\xda", content[start:]]), False
            segment, stop = content[start : following.start()], following.start()
        if length := KEPT_SEGMENTS.get((marker, segment[2:6])):
            segments.append(bytes([0xFF, marker]) + segment[:length])
        elif not (marker == 0xFE or 0xE0 <= marker <= 0xEF):
            segments.append(bytes([0xFF, marker]) + segment)
        position = stop
    return b"".join([*segments, content[position:]]), False


def clean_jpeg_2000(content: bytes) -> bytes:
    """A codestream without comments in its main header, with zeroed ones in tile headers and no trailing bytes."""
    segments, position = [content[:2]], 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position : position + 2] != SOT:
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4])
        if content[position : position + 2] != COMMENT:
            segments.append(content[position:end])
        position = end
    while content[position : position + 2] == SOT and position + 12 <= len(content):
        length = int.from_bytes(content[position + 6 : position + 10])  # of the tile part; 0: up to the end
        end = position + length if length else content.rfind(EOC)
        if end < position + 12 or end > len(content):
            break
        segments.append(_clean_tile_part(content[position:end]))
        position = end
    if content[position : position + 2] == EOC:
        return b"".join([*segments, EOC])
    return b"".join([*segments, content[position:]])


def _clean_tile_part(content: bytes) -> bytes:
    """A tile part of the same length, with zeroed comments."""
    clean, position = bytearray(content), 12
    while position + 4 <= len(content) and content[position] == 0xFF and content[position : position + 2] != SOD:
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4])
        if content[position : position + 2] == COMMENT:
            clean[position + 4 : end] = bytes(len(clean[position + 4 : end]))
        position = end
    return bytes(clean)


def clean_rle(content: bytes, pixels: int) -> bytes:
    """A frame of RLE Lossless (PS3.5 annex G) whose segments end with their last pixel.

    A segment decodes to `pixels` bytes. A frame that only holds zeros elsewhere is unchanged, and so is a damaged one.
    """
    if len(content) < RLE_HEADER:
        return content
    count, *offsets = struct.unpack("<16L", content[:RLE_HEADER])
    starts = offsets[:count]
    if not 0 < count <= 15 or sorted(starts) != starts or starts[0] < RLE_HEADER or starts[-1] > len(content):
        return content
    stops = [*starts[1:], len(content)]
    segments = [_cut_runs(content[start:stop], pixels) for start, stop in zip(starts, stops, strict=True)]
    gaps = [content[4 + 4 * count : starts[0]]]
    gaps += [content[start + len(segment) : stop] for segment, start, stop in zip(segments, starts, stops, strict=True)]
    is_same = all(content.startswith(segment, start) for segment, start in zip(segments, starts, strict=True))
    if is_same and not any(any(part) for part in gaps):
        return content
    padded = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    new_starts = [RLE_HEADER + sum(map(len, padded[:number])) for number in range(count)]
    return struct.pack("<16L", count, *new_starts, *[0] * (15 - count)) + b"".join(padded)


def _cut_runs(segment: bytes, limit: int) -> bytes:
    """The runs of a segment that decode to the first `limit` bytes; the last run is cut to that length."""
    position = decoded = 0
    while decoded < limit and position < len(segment):
        head = segment[position]
        length = 0 if head == 128 else head + 1 if head < 128 else 257 - head
        if decoded + length > limit:
            length = limit - decoded
            last = bytes([length - 1]) + segment[position + 1 : position + 1 + length]
            if head > 128:
                last = bytes([257 - length if length > 1 else 0]) + segment[position + 1 : position + 2]
            return segment[:position] + last
        decoded += length
        position += 1 + (0 if head == 128 else length if head < 128 else 1)
    return segment[:position]
