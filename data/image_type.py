"""What kind of image a DICOM object is: a slice of the scanner, or a localizer, a projection, a capture, a map."""

from __future__ import annotations

import re
from typing import Any

LOCALIZER = "a localizer, not a slice"
PROJECTION = "a projection of several slices"
CURVED = "a curved reformat"
CAPTURE = "a secondary capture, not the scanner's image"
MAP = "a computed map or a segmentation, not a scan"
COLOURS = "a picture in colours"
REFORMAT = "a reformat of other slices"
DERIVED = "derived from other images"
LATER = "made after the examination"
FOREIGN = (LOCALIZER, PROJECTION, CURVED, CAPTURE, MAP, COLOURS)  # pixels that mean something else than a slice's
ODD = (REFORMAT, DERIVED, LATER)

# Words of ImageType from its third value on (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1, C.8.3.1.1.1, C.8.16.1, and what Siemens,
# GE, Philips and Canon write); of a name such as MAX_IP or SCREEN SAVE also all its words as one.
WORDS = {
    LOCALIZER: {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM", "SURVEY"},
    PROJECTION: {"MIP", "MINIP", "MAXIP", "MPVR", "MAXIMUM", "MINIMUM", "PROJECTION", "VOLUMERENDER", "VOLREN", "VRT",
                 "SURFACERENDER", "SSD", "RAYSUM", "3DRENDERING"},
    CURVED: {"CURVEDMPR", "CURVED", "CPR"},
    CAPTURE: {"SCREENSAVE", "SCREENCAPTURE", "SCREENSHOT", "SECONDARYCAPTURE", "CAPTURE"},
    MAP: {"ADC", "EADC", "FA", "PERFUSION", "SUBTRACT", "SUBTRACTION", "SUB", "DIVISION", "QUANTITY", "STDDEVIATION",
          "FUSED", "FUSION", "CBF", "CBV", "MTT", "TTP", "RCBF", "RCBV", "RMTT", "TMAX", "T1MAP", "T2MAP", "T2STARMAP"},
    REFORMAT: {"MPR", "REFORMAT", "REFORMATTED", "RESAMPLED", "CSARESAMPLED"},
}  # fmt: skip
SLABS = {"AVERAGE", "AVERAGEIP", "AVG", "AVEIP", "AIP", "MEAN"}  # a projection, but a usual name of plain acquisitions
# VolumeBasedCalculationTechnique (PS3.3 C.8.16.2.1.6)
TECHNIQUES = {"MAX_IP": PROJECTION, "MIN_IP": PROJECTION, "VOLUME_RENDER": PROJECTION, "SURFACE_RENDER": PROJECTION,
              "CURVED_MPR": CURVED, "MPR": REFORMAT}  # fmt: skip
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # the SOP classes of secondary capture
MAPS = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("30", "66.4", "66.7", "481.2")}  # parametric, SEG, RT dose


def image_type(header: Any) -> str:
    """What a DICOM data set (its top level) says of the kind of its image: texts of `FOREIGN` and `ODD`, "; " between.

    Empty for an image as the scanner made it, and where the file says nothing.
    """
    values = [str(value).strip().upper() for value in _several(header.get("ImageType"))]
    pixels, examination = [*values, "", ""][:2]
    words = {
        word for value in values[2:] for word in (*re.split(r"[^A-Z0-9]+", value), re.sub(r"[^A-Z0-9]", "", value))
    }
    kinds = {
        kind for kind, names in WORDS.items() if words & names and (pixels == "DERIVED" or kind not in (MAP, REFORMAT))
    }
    technique = str(header.get("VolumeBasedCalculationTechnique") or "").strip().upper()
    kinds |= {TECHNIQUES[technique]} if technique in TECHNIQUES else set()
    kinds |= {PROJECTION} if pixels == "DERIVED" and words & SLABS else set()
    sop_class = str(header.get("SOPClassUID") or "")
    kinds |= {CAPTURE} if sop_class == CAPTURES or sop_class.startswith(f"{CAPTURES}.") else set()
    kinds |= {MAP} if sop_class in MAPS else set()
    photometric = str(header.get("PhotometricInterpretation") or "")
    kinds |= {COLOURS} if photometric and not photometric.startswith("MONOCHROME") else set()
    if not kinds:
        kinds = {DERIVED} if pixels == "DERIVED" else {LATER} if examination == "SECONDARY" else set()
    return "; ".join(kind for kind in (*FOREIGN, *ODD) if kind in kinds)


def foreign(text: str) -> str:
    """The part of an image type that is no slice of a scanner; empty if it is one."""
    return "; ".join(kind for kind in text.split("; ") if kind in FOREIGN)


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
