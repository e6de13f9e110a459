"""PNG and JPEG, upright as every viewer shows them: as a scan, and as a file without EXIF."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from data import limits
from data.image_type import COLOURS
from data.record import Scan, Units
from lineage.fault import Fault

ORIENTATION = 0x0112  # EXIF (CIPA DC-008)
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
DEEP_MODES = ("I;16", "I;16B", "I", "F")
TINT, FEW = 32, 0.001  # by which channels of 0 to 255 differ in a coloured pixel; share of pixels that may


def read_picture(name: str, content: bytes) -> Scan:
    """One slice of grey, 0 to 255. Fault for an animated picture."""
    picture, turn = _opened(name, content)
    if getattr(picture, "n_frames", 1) != 1:
        raise Fault(f"{name}: is animated; give one picture per file")
    if picture.mode in DEEP_MODES:
        grey = np.asarray(_turned(picture, turn), dtype=np.float32) * np.float32(255 / 65535)
    else:
        grey = np.asarray(_turned(picture.convert("L"), turn), dtype=np.float32)
    facts = {"format": "picture", "modality": "", "image_type": COLOURS if _coloured(picture) else ""}
    return Scan(name, grey[None], Units.DISPLAY, None, None, facts)


def _coloured(picture: Any) -> bool:
    """Whether some of the picture is in colours: a map, a screenshot, a mark. JPEG alone tints grey by a little."""
    if picture.mode in (*DEEP_MODES, "1", "L", "LA"):
        return False
    colours = np.asarray(picture.convert("RGB"))[::2, ::2].astype(np.int16)
    return bool((np.ptp(colours, axis=2) > TINT).mean() > FEW)


def upright_png(name: str, content: bytes) -> bytes | None:
    """The picture turned as its EXIF asks, as PNG without loss; None where it is upright as it is stored.

    Fault where it can't be decoded.
    """
    try:
        picture, turn = _opened(name, content)
        if not turn:
            return None
        stream = io.BytesIO()
        _turned(picture if picture.mode in PNG_MODES else picture.convert("L"), turn).save(stream, "PNG")
        return stream.getvalue()
    except Fault:
        raise
    except Exception as error:  # Pillow raises as many kinds as there are formats
        raise Fault(f"{name}: cannot be de-identified ({type(error).__name__}); export it again") from error


def _opened(name: str, content: bytes) -> tuple[Any, str]:
    """The picture, and the name of the turn that puts it upright, empty where it is. The EXIF of a PNG may follow its
    pixels."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    limits.permit(name, picture.height, picture.width, len(picture.getbands()))
    if content.startswith(b"\x89PNG") and b"eXIf" in content:
        picture.load()
    exif = Image.Exif()
    try:
        exif.load(picture.info.get("exif") or b"")
        turn = UPRIGHT.get(exif.get(ORIENTATION, 1), "")
    except (SyntaxError, ValueError, TypeError, struct.error):  # no viewer turns a picture by EXIF that is damaged
        turn = ""
    return picture, turn


def _turned(picture: Any, turn: str) -> Any:
    from PIL import Image

    return picture.transpose(Image.Transpose[turn]) if turn else picture
