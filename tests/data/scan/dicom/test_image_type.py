"""Recognition of scanner slices and other images by ImageType, SOP class and colours."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from data.scan.dicom import image_type
from data.scan.dicom.image_type import non_slice_kinds


def kind(*values: str, **attributes: Any) -> str:
    """The declared kinds of a CT image with these values of ImageType and these attributes."""
    header = Dataset()
    header.SOPClassUID, header.PhotometricInterpretation = CTImageStorage, "MONOCHROME2"
    if values:
        header.ImageType = list(values)
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return image_type.declared_image_type(header)


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("ORIGINAL", "PRIMARY"),
        ("ORIGINAL", "PRIMARY", "AXIAL"),
        ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"),
        ("ORIGINAL", "PRIMARY", "M", "ND", "NORM"),
        ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"),
        ("ORIGINAL", "PRIMARY", "MPR"),
        ("ORIGINAL", "PRIMARY", "PERFUSION", "NONE"),
        ("ORIGINAL", "PRIMARY", "VOLUME"),
        ("ORIGINAL",),
        ("original", "primary", "axial"),
    ],
)
def test_an_original_slice_has_no_kind(values: tuple[str, ...]) -> None:
    assert kind(*values) == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("ORIGINAL", "PRIMARY", "LOCALIZER"), image_type.LOCALIZER),
        (("ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"), image_type.LOCALIZER),
        (("original", "primary", "scout"), image_type.LOCALIZER),
        (("DERIVED", "SECONDARY", "AXIAL", "MIP"), image_type.PROJECTION),
        (("DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIN_IP"), image_type.PROJECTION),
        (("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"), image_type.PROJECTION),
        (("DERIVED", "PRIMARY", "AXIAL", "MEAN"), image_type.PROJECTION),
        (("DERIVED", "SECONDARY", "CURVED_MPR"), image_type.CURVED),
        (("DERIVED", "SECONDARY", "SCREEN SAVE"), image_type.CAPTURE),
        (("DERIVED", "PRIMARY", "PERFUSION", "RCBF"), image_type.MAP),
        (("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), image_type.MAP),
        (("DERIVED", "SECONDARY", "SUBTRACTION"), image_type.MAP),
        (("DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"), image_type.CAPTURE),
        (("ORIGINAL", "SECONDARY", "DOSE_INFO"), image_type.CAPTURE),
        (("ORIGINAL", "PRIMARY", "P", "ND"), image_type.PHASE),
        (("ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"), image_type.PHASE),
    ],
)
def test_images_that_are_no_slices_are_foreign(values: tuple[str, ...], expected: str) -> None:
    assert expected in kind(*values).split("; ") and non_slice_kinds(kind(*values)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("DERIVED", "SECONDARY", "MPR", "CSA MPR"), image_type.REFORMAT),
        (("DERIVED", "PRIMARY", "AXIAL", "RESAMPLED"), image_type.REFORMAT),
        (("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 SPI"), image_type.DERIVED),
        (("ORIGINAL", "SECONDARY", "AXIAL"), image_type.SECONDARY),
    ],
)
def test_unusual_slices_are_named_and_not_foreign(values: tuple[str, ...], expected: str) -> None:
    assert kind(*values) == expected and non_slice_kinds(expected) == ""


def test_captures_maps_and_colours_are_recognised_by_other_attributes() -> None:
    for uid in (SecondaryCaptureImageStorage, MultiFrameTrueColorSecondaryCaptureImageStorage):
        assert kind("ORIGINAL", "PRIMARY", "AXIAL", SOPClassUID=uid) == image_type.CAPTURE
    for uid in (SegmentationStorage, ParametricMapStorage):
        assert kind(SOPClassUID=uid) == image_type.MAP
    for colours in ("RGB", "YBR_FULL_422", "PALETTE COLOR"):
        assert kind(PhotometricInterpretation=colours) == image_type.COLOURS
    assert kind(PhotometricInterpretation="MONOCHROME1") == ""
    assert kind("DERIVED", "PRIMARY", VolumeBasedCalculationTechnique="MAX_IP") == image_type.PROJECTION
    two_kinds = kind("DERIVED", "SECONDARY", "MIP", SOPClassUID=SecondaryCaptureImageStorage)
    assert two_kinds == f"{image_type.PROJECTION}; {image_type.CAPTURE}"


def test_a_phase_image_is_recognised_by_its_component() -> None:
    assert kind("ORIGINAL", "PRIMARY", "OTHER", ComplexImageComponent="PHASE") == image_type.PHASE
    assert kind("ORIGINAL", "PRIMARY", "OTHER", ComplexImageComponent="MAGNITUDE") == ""


@pytest.mark.parametrize("sequence", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_frame_types_of_an_enhanced_object_count(sequence: str) -> None:
    def functional_groups(*types: list[str], **attributes: str) -> list[Dataset]:
        groups = []
        for frame_type in types:
            group, item = Dataset(), Dataset()
            item.FrameType = frame_type
            for keyword, value in attributes.items():
                setattr(item, keyword, value)
            group.MRImageFrameTypeSequence = [item]
            groups.append(group)
        return groups

    plain, map_type = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
    assert kind("ORIGINAL", "PRIMARY", "VOLUME", "MIXED", **{sequence: functional_groups(plain, plain)}) == ""
    assert (
        kind("ORIGINAL", "PRIMARY", "VOLUME", "MIXED", **{sequence: functional_groups(plain, map_type)})
        == image_type.MAP
    )
    projected = functional_groups(plain, VolumeBasedCalculationTechnique="MAX_IP")
    assert kind("ORIGINAL", "PRIMARY", "VOLUME", "MIXED", **{sequence: projected}) == image_type.PROJECTION
    assert kind("DERIVED", "PRIMARY", "VOLUME", "NONE", **{sequence: functional_groups(plain)}) == image_type.DERIVED
