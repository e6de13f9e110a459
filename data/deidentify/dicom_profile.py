"""Lists of DICOM attributes that de-identification retains, empties or replaces, by keyword (PS3.6).

Source of the rules: PS3.15 2026c, Annex E, Table E.1-1 and E.3; CID 7050 of PS3.16.
"""

from __future__ import annotations

# ruff: noqa: SIM905  lists of words read better as text

METHOD = "Oncoloop allow-list, PS3.15 Annex E"
CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
RETAINED = (
    # kind of object
    "SpecificCharacterSet ImageType SOPClassUID Modality BodyPartExamined AnatomicRegionSequence Laterality "
    "ImageLaterality FrameLaterality PatientSex PatientPosition SeriesNumber AcquisitionNumber InstanceNumber "
    "BurnedInAnnotation RecognizableVisualFeatures CodeValue CodingSchemeDesignator CodeMeaning "
    # references
    "ReferencedImageSequence SourceImageSequence DerivationImageSequence ReferencedSeriesSequence "
    "ReferencedInstanceSequence ReferencedSOPClassUID ReferencedFrameNumber DimensionOrganizationSequence "
    "DimensionOrganizationType DimensionIndexSequence DimensionIndexPointer FunctionalGroupPointer "
    # the scanner and its settings
    "Manufacturer ManufacturerModelName SoftwareVersions MagneticFieldStrength KVP XRayTubeCurrent Exposure "
    "ExposureTime "
    "ConvolutionKernel FilterType ReconstructionDiameter DataCollectionDiameter GantryDetectorTilt RotationDirection "
    "TableHeight SliceThickness SpacingBetweenSlices ScanningSequence SequenceVariant ScanOptions MRAcquisitionType "
    "RepetitionTime EchoTime InversionTime EchoTrainLength FlipAngle ImagedNucleus ImagingFrequency NumberOfAverages "
    "PixelBandwidth "
    # geometry
    "ImagePositionPatient ImageOrientationPatient SliceLocation PixelSpacing ImagerPixelSpacing NumberOfFrames "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence "
    "PlaneOrientationSequence FrameContentSequence StackID InStackPositionNumber DimensionIndexValues "
    "PixelValueTransformationSequence FrameVOILUTSequence FrameAnatomySequence FrameType FrameAcquisitionDuration "
    "PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique "
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
    "PixelData FloatPixelData DoubleFloatPixelData FloatPixelPaddingValue FloatPixelPaddingRangeLimit "
    "DoubleFloatPixelPaddingValue DoubleFloatPixelPaddingRangeLimit"
)
UIDS = (
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "DimensionOrganizationUID",
    "ReferencedSOPInstanceUID",
    "ReferencedFrameOfReferenceUID",
    "ConcatenationUID",
)
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
DATE_TIMES = ("AcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime")  # only the day stays
EMPTY = ("PatientBirthDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")  # type 2: present
EMPTIED = ("PositionReferenceIndicator", "ContentTime", "AcquisitionContextSequence")  # type 2 of some: if present
DUMMIES = {"ContentTime": "000000", "DeviceSerialNumber": "0"}  # type 1 of enhanced objects
# Short terms of coded fields that are not closed (PS3.3 C.7.6.1.1.2, C.8.3.1.1; PS3.16 Annex L), in lower case: in
# these fields they do not identify a patient of that name.
TERMS = frozenset(
    "se ir gr ep rm sk ss sp mp osp mtc per rg cg ppg fc pff pfp fs arm leg eye hip jaw toe ear nd mip mpr adc fa ffe "
    "tse fse dis sat no yes ax axi cor sag obl".split()
)
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Value representations without free text: numbers, and the bytes of pictures and tables.
NON_TEXT = frozenset("US SS UL SL UV SV FD FL DS IS AT OB OW OF OD OL OV UI".split()) | {
    "OB or OW",
    "US or SS",
    "US or OW",
}
