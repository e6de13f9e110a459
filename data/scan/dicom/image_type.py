"""The kind of image in a DICOM object: a slice of the scanner, or a localizer, a projection, a capture, a map."""

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
SECONDARY = "made after the examination"
FOREIGN = (LOCALIZER, PROJECTION, CURVED, CAPTURE, MAP, COLOURS, PHASE)  # no slices of a scanner
UNUSUAL = (REFORMAT, DERIVED, SECONDARY)
MAX_LABELS, SAMPLE = 16, 4096  # values of a mask at most; pixels that are checked first

# Words of ImageType from its third value on (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1, C.8.3.1.1.1, C.8.16.1, and values of
# Siemens, GE, Philips and Canon). The words of a name such as MAX_IP or SCREEN SAVE also count joined into one.
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
SLAB_WORDS = {
    "AVERAGE",
    "AVERAGEIP",
    "AVG",
    "AVEIP",
    "AIP",
    "MEAN",
}  # a projection, but also a usual name for plain acquisitions
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
CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"  # the SOP classes of secondary capture
MAP_CLASSES = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("30", "66.4", "66.7", "481.2")}  # parametric, SEG, RT dose


def declared_image_type(header: Any) -> str:
    """The kinds of image that a DICOM data set declares: texts of `FOREIGN` and `UNUSUAL`, joined by "; ".

    Empty for an original image of the scanner, and for a file without a declaration.
    """
    descriptions = [
        (header, header.get("ImageType")),
        *((frame, frame.get("FrameType")) for frame in _frame_types(header)),
    ]
    kinds = {kind for item, values in descriptions for kind in _kinds(item, _as_list(values))}
    sop_class = str(header.get("SOPClassUID") or "")
    kinds |= {CAPTURE} if sop_class == CAPTURE_CLASS or sop_class.startswith(f"{CAPTURE_CLASS}.") else set()
    kinds |= {MAP} if sop_class in MAP_CLASSES else set()
    photometric = str(header.get("PhotometricInterpretation") or "")
    kinds |= {COLOURS} if photometric and not photometric.startswith("MONOCHROME") else set()
    if kinds - {DERIVED, SECONDARY}:
        kinds -= {DERIVED, SECONDARY}
    return "; ".join(kind for kind in (*FOREIGN, *UNUSUAL) if kind in kinds)


def _frame_types(header: Any) -> Iterator[Any]:
    """The frame type items of an enhanced object, first the shared one, then each frame's (PS3.3 C.8.15.3.1)."""
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in header.get(sequence) or []:
            for keyword in FRAME_TYPES:
                yield from group.get(keyword) or []


def _kinds(item: Any, image_type_values: list[Any]) -> set[str]:
    """The kinds that the values of ImageType or FrameType and the related attributes of `item` name."""
    values = [str(value).strip().upper() for value in image_type_values]
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
    kinds |= {PROJECTION} if pixels == "DERIVED" and words & SLAB_WORDS else set()
    kinds |= {PHASE} if component == "PHASE" or "P" in values[2:] else set()  # Siemens and Philips write P
    if not kinds:
        kinds = {DERIVED} if pixels == "DERIVED" else {SECONDARY} if examination == "SECONDARY" else set()
    return kinds


@lru_cache(maxsize=1024)
def _words(value: str) -> tuple[str, ...]:
    """The words of one value, and all of them joined."""
    return (*re.split(r"[^A-Z0-9]+", value), re.sub(r"[^A-Z0-9]", "", value))


def non_slice_kinds(text: str) -> str:
    """The kinds in an image type that are no slice of a scanner; empty for a slice."""
    return "; ".join(kind for kind in text.split("; ") if kind in FOREIGN)


def mask_kind(pixels: NDArray[np.float32]) -> str:
    """`MAP` if pixels have few distinct values, like the labels of a mask; "" for a picture or a single value."""
    sample = pixels.ravel()[:: max(1, pixels.size // SAMPLE)]
    if len(np.unique(sample)) > MAX_LABELS:
        return ""
    return MAP if 1 < len(np.unique(pixels)) <= MAX_LABELS else ""


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
