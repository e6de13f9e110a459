"""Compressed bytes that are the same on every Python: with the compressor of a locked package, or uncompressed."""

from __future__ import annotations

import zlib

BLOCK = 65535  # maximum bytes of a stored block (RFC 1951, section 3.2.4)


def gzipped(content: bytes, level: int) -> bytes:
    """`content` as a gzip stream (RFC 1952) without name and time. Read it with zlib, `wbits` 31.

    Python distributions use zlib or zlib-ng, which write different bytes. The wheels of Arrow contain their own zlib.
    """
    import pyarrow

    return bytes(pyarrow.Codec("gzip", compression_level=level).compress(content, asbytes=True))


def uncompressed_zlib(content: bytes) -> bytes:
    """`content` as an uncompressed zlib stream (RFC 1950), for small contents."""
    pieces = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)] or [b""]
    is_last = [index == len(pieces) - 1 for index in range(len(pieces))]
    blocks = [
        bytes([final]) + len(piece).to_bytes(2, "little") + (BLOCK - len(piece)).to_bytes(2, "little") + piece
        for final, piece in zip(is_last, pieces, strict=True)
    ]
    return b"\x78\x01" + b"".join(blocks) + zlib.adler32(content).to_bytes(4)
