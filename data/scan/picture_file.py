"""Reading PNG and JPEG upright, as a scan and as a file without EXIF and hidden pixels."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Scan, ValueUnit
from data.scan import size_limits
from data.scan.dicom.image_type import COLOURS, mask_kind
from lineage.errors import Fault

ORIENTATION = 0x0112  # EXIF (CIPA DC-008)
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
DEEP_MODES = ("I;16", "I;16B", "I", "F")
JPEG, NOISE = b"\xff\xd8\xff", 24  # greys by which compression changes black and white
SAMPLE = 128 * 128  # pixels, or up to four times as many, on a regular grid
WHITE_16_BIT = 65535  # white in 16 bits
TINT, MAX_COLOURED = 32, 0.001  # channel difference (0 to 255) of a coloured pixel; share of them in a grey picture


def read_picture(name: str, content: bytes) -> Scan:
    """One slice of grey, 0 to 255, with transparent parts on black. Fault for a file of several pictures.

    `header["depth"]` is "16" if the file has 16 bits, which may be more than its values use.
    """
    picture, turn = _open_picture(name, content)
    if getattr(picture, "n_frames", 1) != 1:
        raise Fault(f"{name}: is animated or holds several pictures; give one picture per file")
    picture = _composite_on_black(picture)
    is_deep = picture.mode in DEEP_MODES
    if is_deep:
        grey = np.asarray(_turn_picture(picture, turn), dtype=np.float32) * np.float32(255 / WHITE_16_BIT)
    else:
        grey = np.asarray(_turn_picture(picture.convert("L"), turn), dtype=np.float32)
    image_type = (
        COLOURS if _is_coloured(picture) else mask_kind(_without_noise(grey) if content.startswith(JPEG) else grey)
    )
    facts = {"format": "picture", "modality": "", "image_type": image_type}
    return Scan(name, grey[None], ValueUnit.DISPLAY, None, None, facts | ({"depth": "16"} if is_deep else {}))


def _without_noise(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """A JPEG that is almost black and white, reduced to these two; others unchanged. Compression changes edge greys."""
    step = max(1, int(np.sqrt(grey.size / SAMPLE)))
    sample = grey[::step, ::step]
    between = np.count_nonzero((sample > NOISE) & (sample < 255 - NOISE))
    white = np.count_nonzero(sample >= 255 - NOISE)
    return np.where(grey > 127, np.float32(255), np.float32(0)) if 4 * between < white else grey


def _is_coloured(picture: Any) -> bool:
    """Whether the picture has coloured pixels (a map, a screenshot, a mark); JPEG itself tints grey slightly."""
    if picture.mode in (*DEEP_MODES, "1", "L", "LA"):
        return False
    colours = np.asarray(picture.convert("RGB"))[::2, ::2].astype(np.int16)
    return bool((np.ptp(colours, axis=2) > TINT).mean() > MAX_COLOURED)


def upright_png(name: str, content: bytes) -> bytes | None:
    """The picture as a lossless PNG, turned upright by its EXIF, with transparent parts on black.

    None if the stored picture is already upright and opaque. Fault if it can't be decoded.
    """
    try:
        stored, turn = _open_picture(name, content)
        picture = _composite_on_black(stored)
        if not turn and picture is stored:
            return None
        stream = io.BytesIO()
        _turn_picture(picture if picture.mode in PNG_MODES else picture.convert("L"), turn).save(stream, "PNG")
        return stream.getvalue()
    except Fault:
        raise
    except Exception as error:  # Pillow raises as many kinds as there are formats
        raise Fault(f"{name}: cannot be de-identified ({type(error).__name__}); export it again") from error


def _open_picture(name: str, content: bytes) -> tuple[Any, str]:
    """The picture, and the name of the turn that makes it upright, empty if it is upright.

    The EXIF of a PNG may follow its pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except UnidentifiedImageError as error:
        raise Fault(f"{name}: cannot be decoded as PNG or JPEG; copy it again") from error
    size_limits.check_decoded_size(name, picture.height, picture.width, len(picture.getbands()))
    if content.startswith(b"\x89PNG") and b"eXIf" in content:
        picture.load()
    exif = Image.Exif()
    try:
        exif.load(picture.info.get("exif") or b"")
        turn = UPRIGHT.get(exif.get(ORIENTATION, 1), "")
    except (SyntaxError, ValueError, TypeError, struct.error):  # no viewer turns a picture by EXIF that is damaged
        turn = ""
    return picture, turn


def _composite_on_black(picture: Any) -> Any:
    """The picture without the pixels hidden under its transparent parts; the same object if it is opaque."""
    from PIL import Image

    if picture.mode in DEEP_MODES or not picture.has_transparency_data:
        return picture
    layered = picture.convert("RGBA")
    if layered.getextrema()[3][0] == 255:
        return picture
    black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, layered).convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def _turn_picture(picture: Any, turn: str) -> Any:
    from PIL import Image

    return picture.transpose(Image.Transpose[turn]) if turn else picture
