"""De-identification at the door, DICOM PS3.15 Annex E: what leaves this module names nobody.

For DICOM a list of what may stay, not of what must go: every attribute that is not named here is removed, at any
depth, private ones included. It is stricter than the table of the Basic Application Level Confidentiality Profile.
The options that are used (and stated in the file): patient characteristics (sex, age under 90) and modified dates.
Pixels are not touched: text burned into them, or a face in a head scan, is not removed.
"""

from __future__ import annotations

import hashlib
import hmac
import io
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from data import read, scrub
from lineage import keys
from lineage.fault import Fault

METHOD = "Oncoloop allow-list, PS3.15 Annex E"
CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
KEPT = (
    # what it is
    "SpecificCharacterSet ImageType SOPClassUID Modality BodyPartExamined AnatomicRegionSequence Laterality "
    "ImageLaterality FrameLaterality PatientSex PatientPosition SeriesNumber AcquisitionNumber InstanceNumber "
    "BurnedInAnnotation CodeValue CodingSchemeDesignator CodeMeaning "
    # the scanner and its settings
    "Manufacturer ManufacturerModelName MagneticFieldStrength KVP XRayTubeCurrent Exposure ExposureTime "
    "ConvolutionKernel FilterType ReconstructionDiameter DataCollectionDiameter GantryDetectorTilt RotationDirection "
    "TableHeight SliceThickness SpacingBetweenSlices ScanningSequence SequenceVariant ScanOptions MRAcquisitionType "
    "RepetitionTime EchoTime InversionTime EchoTrainLength FlipAngle ImagedNucleus ImagingFrequency NumberOfAverages "
    "PixelBandwidth "
    # geometry
    "ImagePositionPatient ImageOrientationPatient SliceLocation PixelSpacing ImagerPixelSpacing NumberOfFrames "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence "
    "PlaneOrientationSequence FrameContentSequence StackID InStackPositionNumber DimensionIndexValues "
    "PixelValueTransformationSequence FrameVOILUTSequence FrameAnatomySequence FrameType "
    # the picture
    "SamplesPerPixel PhotometricInterpretation PlanarConfiguration Rows Columns PixelAspectRatio BitsAllocated "
    "BitsStored HighBit PixelRepresentation SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue "
    "PixelPaddingRangeLimit RescaleIntercept RescaleSlope RescaleType WindowCenter WindowWidth VOILUTFunction "
    "ModalityLUTSequence VOILUTSequence LUTDescriptor LUTData ModalityLUTType LossyImageCompression "
    "LossyImageCompressionRatio LossyImageCompressionMethod PresentationLUTShape "
    "RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
    "BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData "
    "BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData "
    "SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData "
    "PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable ExtendedOffsetTableLengths"
)
UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "DimensionOrganizationUID")
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
EMPTY = ("PatientBirthDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")  # type 2: present
TEXTS = ("LO", "SH", "CS", "LT", "ST", "UT", "UC")
OLDEST = 89
SECRET = 4  # letters from which a part of a name or number betrays somebody in kept text


def anonymise(name: str, content: bytes, metadata: Mapping[str, str]) -> tuple[str, bytes]:
    """A new name (of the new content's hash) and the de-identified bytes.

    `metadata` is the scan's row: its `patient_id`, else `group`, is the identity behind pseudonym and dates; without
    either it is the PatientID of the DICOM header. Fault names what can't be parsed.
    """
    identity = metadata.get("patient_id") or metadata.get("group") or ""
    if content.startswith(b"\x89PNG"):
        clean, suffix = scrub.png(name, content), ".png"
    elif content.startswith(b"\xff\xd8\xff"):
        clean, suffix = scrub.jpeg(name, content), ".jpg"
    elif content[:2] == b"\x1f\x8b" or content[344:347] == b"n+1" or content[4:7] == b"n+2":
        clean, suffix = scrub.nifti(name, content), ".nii.gz" if content[:2] == b"\x1f\x8b" else ".nii"
    else:
        clean, suffix = _dicom(name, content, identity), ".dcm"
    return hashlib.sha256(clean).hexdigest()[:16] + suffix, clean


def _dicom(name: str, content: bytes, identity: str) -> bytes:
    try:
        header = read.dataset(name, content)
        clean = _allowed(header, _secrets(header))
        _replace_identity(header, clean, identity or str(header.get("PatientID") or ""))
        return _written(header, clean)
    except Fault:
        raise
    except Exception as error:  # pydicom alone raises nine kinds on hostile files
        raise Fault(f"{name}: cannot be de-identified ({type(error).__name__}); export it again") from error


@lru_cache(maxsize=1)
def _kept() -> frozenset[int]:
    from pydicom.datadict import tag_for_keyword

    return frozenset(tag for keyword in KEPT.split() if (tag := tag_for_keyword(keyword)) is not None)


def _allowed(header: Any, secrets: frozenset[str]) -> Any:
    """The attributes that may stay, of this data set and of the items of its sequences; UIDs replaced."""
    from pydicom.dataset import Dataset

    clean = Dataset()
    for tag in header.keys():  # noqa: SIM118  the values of a Dataset are parsed when iterated, its keys are not
        if tag not in _kept():
            continue
        element = header[tag]
        if element.VR == "SQ":
            items = [item for item in (_allowed(item, secrets) for item in element.value) if len(item)]
            if items:
                setattr(clean, element.keyword, items)
        elif element.VR not in TEXTS or not _betrays(str(element.value), secrets):
            clean.add(element)
    for keyword in UIDS:
        if header.get(keyword):
            setattr(clean, keyword, _uid(str(header.get(keyword))))
    return clean


def _secrets(header: Any) -> frozenset[str]:
    """Lower-case parts of the patient's names and numbers."""
    named = [str(header.get(keyword) or "") for keyword in ("PatientName", "PatientID", "OtherPatientIDs")]
    parts = " ".join(named).lower().replace("^", " ").replace("=", " ").replace(",", " ").split()
    return frozenset(part for part in parts if len(part) >= SECRET)


def _betrays(text: str, secrets: frozenset[str]) -> bool:
    return any(secret in text.lower() for secret in secrets)


def _uid(uid: str) -> str:
    """The same new UID for the same old one, by this installation's key, under the root for UUIDs (PS3.5 B.2)."""
    digest = hmac.new(keys.key("pseudonym"), f"uid\n{uid}".encode(), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"


def _replace_identity(header: Any, clean: Any, identity: str) -> None:
    from pydicom.dataset import Dataset

    clean.PatientID = clean.PatientName = keys.pseudonym(identity)
    for keyword in EMPTY:
        setattr(clean, keyword, "")
    shift = timedelta(days=keys.day_shift(identity))
    for keyword in DATES:
        if header.get(keyword):
            setattr(clean, keyword, _shifted(str(header.get(keyword)), shift))
    age = str(header.get("PatientAge") or "")
    if age[:3].isdecimal() and age[3:] in ("Y", "M", "W", "D"):
        clean.PatientAge = age if age[3:] != "Y" or int(age[:3]) <= OLDEST else f"{OLDEST + 1:03d}Y"
    clean.PatientIdentityRemoved, clean.DeidentificationMethod = "YES", METHOD
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    codes = []
    for value, meaning in CODES:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    clean.DeidentificationMethodCodeSequence = codes


def _shifted(text: str, shift: timedelta) -> str:
    """A DICOM date moved; empty where it was none."""
    try:
        return (datetime.strptime(text[:8], "%Y%m%d") + shift).strftime("%Y%m%d")
    except (ValueError, OverflowError):
        return ""


def _written(header: Any, clean: Any) -> bytes:
    """The data set as a DICOM file in the encoding that it came in, with a preamble and file meta of our own."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = header.original_encoding
    syntax = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
    if syntax is None:
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    clean.file_meta = FileMetaDataset()
    clean.file_meta.TransferSyntaxUID = syntax
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    clean.file_meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID") or _uid("none")
    stream = io.BytesIO()
    clean.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
