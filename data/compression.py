"""Compressed bytes that are equal on every Python: by the compressor of a locked package, or by none."""

from __future__ import annotations

import zlib

BLOCK = 65535  # bytes of a stored block at most (RFC 1951, section 3.2.4)


def gzipped(content: bytes, level: int) -> bytes:
    """`content` as a gzip stream (RFC 1952) without name and time.

    Python's own zlib is that of its distribution, zlib or zlib-ng, and writes other bytes there. Arrow's wheels bring
    one of their own. Read it with zlib, `wbits` 31.
    """
    import pyarrow

    return bytes(pyarrow.Codec("gzip", compression_level=level).compress(content, asbytes=True))


def stored(content: bytes) -> bytes:
    """`content` as a zlib stream (RFC 1950) that is not compressed; for what is small anyway."""
    pieces = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)] or [b""]
    ends = [place == len(pieces) - 1 for place in range(len(pieces))]
    blocks = [
        bytes([last]) + len(piece).to_bytes(2, "little") + (BLOCK - len(piece)).to_bytes(2, "little") + piece
        for last, piece in zip(ends, pieces, strict=True)
    ]
    return b"\x78\x01" + b"".join(blocks) + zlib.adler32(content).to_bytes(4)
