"""What kind of image a DICOM object is: a slice of the scanner, or a localizer, a projection, a capture, a map."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOCALIZER = "a localizer, not a slice"
PROJECTION = "a projection of several slices"
CURVED = "a curved reformat"
CAPTURE = "a secondary capture, not the scanner's image"
MAP = "a computed map or a segmentation, not a scan"
COLOURS = "a picture in colours"
PHASE = "a picture of phases, not of magnitudes"
REFORMAT = "a reformat of other slices"
DERIVED = "derived from other images"
LATER = "made after the examination"
FOREIGN = (
    LOCALIZER,
    PROJECTION,
    CURVED,
    CAPTURE,
    MAP,
    COLOURS,
    PHASE,
)  # no pixels of a slice
ODD = (REFORMAT, DERIVED, LATER)
LABELS, SAMPLE = 16, 4096  # values of a mask at most; pixels that are looked at first

# Words of ImageType from its third value on (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1, C.8.3.1.1.1, C.8.16.1, and what Siemens,
# GE, Philips and Canon write); of a name such as MAX_IP or SCREEN SAVE also all its words as one.
WORDS = {
    LOCALIZER: {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM", "SURVEY"},
    PROJECTION: {
        "MIP",
        "MINIP",
        "MAXIP",
        "MPVR",
        "MAXIMUM",
        "MINIMUM",
        "PROJECTION",
        "VOLUMERENDER",
        "VOLREN",
        "VRT",
        "SURFACERENDER",
        "SSD",
        "RAYSUM",
        "3DRENDERING",
    },
    CURVED: {"CURVEDMPR", "CURVED", "CPR"},
    CAPTURE: {
        "SCREENSAVE",
        "SCREENCAPTURE",
        "SCREENSHOT",
        "SECONDARYCAPTURE",
        "CAPTURE",
        "PROT",
        "DOSEREPORT",
        "DOSEINFO",
    },
    MAP: {
        "ADC",
        "EADC",
        "FA",
        "PERFUSION",
        "SUBTRACT",
        "SUBTRACTION",
        "SUB",
        "DIVISION",
        "QUANTITY",
        "STDDEVIATION",
        "FUSED",
        "FUSION",
        "CBF",
        "CBV",
        "MTT",
        "TTP",
        "RCBF",
        "RCBV",
        "RMTT",
        "TMAX",
        "T1MAP",
        "T2MAP",
        "T2STARMAP",
    },
    PHASE: {"PHASE", "PHASEMAP", "VELOCITYMAP"},
    REFORMAT: {"MPR", "REFORMAT", "REFORMATTED", "RESAMPLED", "CSARESAMPLED"},
}
SLABS = {"AVERAGE", "AVERAGEIP", "AVG", "AVEIP", "AIP", "MEAN"}  # a projection, but a usual name of plain acquisitions
# VolumeBasedCalculationTechnique (PS3.3 C.8.16.2.1.6)
TECHNIQUES = {
    "MAX_IP": PROJECTION,
    "MIN_IP": PROJECTION,
    "VOLUME_RENDER": PROJECTION,
    "SURFACE_RENDER": PROJECTION,
    "CURVED_MPR": CURVED,
    "MPR": REFORMAT,
}
FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # the SOP classes of secondary capture
MAPS = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("30", "66.4", "66.7", "481.2")}  # parametric, SEG, RT dose


def image_type(header: Any) -> str:
    """What a DICOM data set and its frames say of the kind of their image: texts of `FOREIGN` and `ODD`, "; " between.

    Empty for an image as the scanner made it, and where the file says nothing.
    """
    descriptions = [
        (header, header.get("ImageType")),
        *((frame, frame.get("FrameType")) for frame in _frame_types(header)),
    ]
    kinds = {kind for item, values in descriptions for kind in _kinds(item, _several(values))}
    sop_class = str(header.get("SOPClassUID") or "")
    kinds |= {CAPTURE} if sop_class == CAPTURES or sop_class.startswith(f"{CAPTURES}.") else set()
    kinds |= {MAP} if sop_class in MAPS else set()
    photometric = str(header.get("PhotometricInterpretation") or "")
    kinds |= {COLOURS} if photometric and not photometric.startswith("MONOCHROME") else set()
    if kinds - {DERIVED, LATER}:
        kinds -= {DERIVED, LATER}
    return "; ".join(kind for kind in (*FOREIGN, *ODD) if kind in kinds)


def _frame_types(header: Any) -> Iterator[Any]:
    """What each frame of an enhanced object says of itself, all frames together before (PS3.3 C.8.15.3.1)."""
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in header.get(sequence) or []:
            for keyword in FRAME_TYPES:
                yield from group.get(keyword) or []


def _kinds(item: Any, several: list[Any]) -> set[str]:
    """The kinds that ImageType or FrameType (`several` values) and what stands beside them name."""
    values = [str(value).strip().upper() for value in several]
    pixels, examination = [*values, "", ""][:2]
    words = {word for value in values[2:] for word in _words(value)}
    kinds = {
        kind for kind, names in WORDS.items() if words & names and (pixels == "DERIVED" or kind not in (MAP, REFORMAT))
    }
    technique, component = (
        str(item.get(keyword) or "").strip().upper()
        for keyword in ("VolumeBasedCalculationTechnique", "ComplexImageComponent")
    )
    kinds |= {TECHNIQUES[technique]} if technique in TECHNIQUES else set()
    kinds |= {PROJECTION} if pixels == "DERIVED" and words & SLABS else set()
    kinds |= {PHASE} if component == "PHASE" or "P" in values[2:] else set()  # Siemens and Philips write P
    if not kinds:
        kinds = {DERIVED} if pixels == "DERIVED" else {LATER} if examination == "SECONDARY" else set()
    return kinds


@lru_cache(maxsize=1024)
def _words(value: str) -> tuple[str, ...]:
    """The parts of one value, and all of it without what divides them."""
    return (*re.split(r"[^A-Z0-9]+", value), re.sub(r"[^A-Z0-9]", "", value))


def foreign(text: str) -> str:
    """The part of an image type that is no slice of a scanner; empty if it is one."""
    return "; ".join(kind for kind in text.split("; ") if kind in FOREIGN)


def labels(pixels: NDArray[np.float32]) -> str:
    """`MAP` where pixels hold but a few values, as labels of a mask are; "" for a picture or a single value."""
    sample = pixels.ravel()[:: max(1, pixels.size // SAMPLE)]
    if len(np.unique(sample)) > LABELS:
        return ""
    return MAP if 1 < len(np.unique(pixels)) <= LABELS else ""


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
