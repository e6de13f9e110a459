"""Heat maps: class activation maps, which are exact for a network that ends in pooling and one linear layer."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from data.compression import uncompressed_zlib

MAP_COLOUR = (255, 72, 0)  # the opacity shows the amount of evidence


def class_activation_map(
    features: NDArray[np.float32], kernel: NDArray[np.float32], class_index: int
) -> NDArray[np.float32]:
    """Class activation map, height × width in [0, 1], of one slice's features (height, width, channels).

    `kernel` is the linear layer (channels, classes). The map is the class's weighted sum of the feature maps, positive
    evidence only, divided by its largest value. It is all zero if there is no positive evidence. For this architecture
    Grad-CAM gives the same map (Zhou et al., CVPR 2016; Selvaraju et al., ICCV 2017).
    """
    evidence = np.maximum(features @ kernel[:, class_index], 0.0)
    peak = float(evidence.max(initial=0.0))
    return np.asarray(evidence / peak if peak > 0 else np.zeros_like(evidence), np.float32)


def png(heat_map: NDArray[np.float32]) -> bytes:
    """A small RGBA picture of a map (height × width), one pixel per position: opaque for evidence, else transparent."""
    height, width = heat_map.shape
    rgba = np.empty((height, width, 4), np.uint8)
    rgba[..., :3] = MAP_COLOUR
    rgba[..., 3] = np.rint(np.clip(heat_map, 0, 1) * 255)
    rows = b"".join(b"\0" + row.tobytes() for row in rgba)  # filter type 0 before each row: PNG 1.2, section 6
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", uncompressed_zlib(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def base64_png(heat_map: NDArray[np.float32]) -> str:
    """The picture as base64 text, for JSON and the journal."""
    return base64.b64encode(png(heat_map)).decode("ascii")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
