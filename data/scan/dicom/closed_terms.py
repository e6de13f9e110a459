"""Coded fields of a DICOM header with enumerated values (PS3.3), and the replacement of any other value."""

from __future__ import annotations

IMAGES = frozenset(
    [
        "CR",
        "CT",
        "DX",
        "ES",
        "GM",
        "IO",
        "IVOCT",
        "IVUS",
        "MG",
        "MR",
        "NM",
        "OCT",
        "OP",
        "OPT",
        "PT",
        "PX",
        "RF",
        "RG",
        "RTIMAGE",
        "SEG",
        "SM",
        "US",
        "XA",
        "XC",
    ]
)


COLOURS = frozenset(
    [
        "MONOCHROME1",
        "MONOCHROME2",
        "RGB",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_ICT",
        "YBR_RCT",
        "YBR_PARTIAL_420",
        "YBR_PARTIAL_422",
    ]
) | {"PALETTE COLOR"}


YES_NO = frozenset({"YES", "NO"})


SIDES = frozenset({"R", "L", "U", "B"})


POSITIONS = frozenset(
    [
        "HFP",
        "HFS",
        "HFDR",
        "HFDL",
        "FFDR",
        "FFDL",
        "FFP",
        "FFS",
        "LFP",
        "LFS",
        "RFP",
        "RFS",
        "AFDR",
        "AFDL",
        "PFDR",
        "PFDL",
    ]
)


# Coded fields with enumerated values (PS3.3), and the replacement of any other value, which may be a name
CLOSED: dict[str, tuple[frozenset[str], str | None]] = {
    "Modality": (IMAGES, "OT"),
    "PhotometricInterpretation": (COLOURS, None),
    "PatientSex": (frozenset("MFO"), ""),
    "BurnedInAnnotation": (YES_NO, ""),
    "RecognizableVisualFeatures": (YES_NO, ""),
    "Laterality": (SIDES, ""),
    "ImageLaterality": (SIDES, ""),
    "FrameLaterality": (SIDES, "U"),
    "PatientPosition": (POSITIONS, ""),
    "RotationDirection": (frozenset({"CW", "CC"}), ""),
    "MRAcquisitionType": (frozenset({"1D", "2D", "3D"}), ""),
    "LossyImageCompression": (frozenset({"00", "01"}), ""),
    "PresentationLUTShape": (frozenset({"IDENTITY", "INVERSE"}), ""),
    "VOILUTFunction": (frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"}), ""),
}
