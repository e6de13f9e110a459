"""Files of phantoms: valid DICOM with an identity in many places, and NIfTI with one in its header."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.compression import gzipped
from data.core_types import Modality
from data.phantom.study import Study

ROOT = "1.2.826.0.1.3680043.8.498."  # the UID root of pydicom
CT_IMAGE, MR_IMAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
INTERCEPT = -1024


def dicom(
    study: Study,
    pixels: NDArray[np.int16],
    pixel: float,
    index: int,
    body_part: str | None = None,
    modality: Modality = Modality.CT,
) -> bytes:
    """One slice (HU or MR signal, rows × columns) as a DICOM file. Equal arguments give equal bytes."""
    from pydicom.dataset import FileDataset

    scanner = study.scanner
    image = FileDataset(None, {}, preamble=b"\0" * 128)
    _write_identity(image, study, index)
    image.Modality = modality.value
    image.SOPClassUID = CT_IMAGE if modality == Modality.CT else MR_IMAGE
    image.Manufacturer, image.ManufacturerModelName = scanner.manufacturer, scanner.model
    image.BodyPartExamined = body_part or study.task.body_parts[0]
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SliceThickness = str(scanner.thickness)
    image.KVP, image.PatientPosition = "120", "HFS"
    if modality == Modality.CT:
        image.ConvolutionKernel = scanner.kernel
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = str(INTERCEPT), "1", "HU"
        image.WindowCenter, image.WindowWidth = "40", "400"
        pixels = pixels - np.int16(INTERCEPT)
    corner = -pixel * (pixels.shape[0] - 1) / 2
    image.ImagePositionPatient = [f"{corner:.3f}", f"{corner:.3f}", f"{index * scanner.thickness:.3f}"]
    image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    image.PixelSpacing = [str(pixel), str(pixel)]
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.PixelData = pixels.astype("<i2").tobytes()
    return _dicom_bytes(image)


def _write_identity(image: Any, study: Study, index: int) -> None:
    """Write identity and dates: in plain attributes, in a sequence and in a private block, as in real files."""
    from pydicom.dataset import Dataset

    person = study.person
    image.PatientName, image.PatientID, image.PatientSex = person.name, person.id, person.sex
    image.PatientAge, image.PatientBirthDate = f"{person.age:03d}Y", person.birth.strftime("%Y%m%d")
    image.InstitutionName, image.StationName = f"{study.scanner.site} Hospital", f"{study.scanner.site}-1"
    image.ReferringPhysicianName, image.AccessionNumber = "House^Gregory", f"A{person.id[3:]}"
    day = person.day.strftime("%Y%m%d")
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = day
    image.StudyTime, image.ContentTime = "101500", "101700"
    image.StudyID, image.SeriesNumber, image.InstanceNumber = "1", "1", str(index + 1)
    image.StudyDescription = f"{study.task.organ} of {person.name.replace('^', ' ')}"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (
        _uid(person.id, day, part) for part in ("study", "series", "frame")
    )
    image.SOPInstanceUID = _uid(person.id, day, f"{study.label} {index}")
    request = Dataset()
    request.RequestedProcedureDescription = f"Scan for {person.name.replace('^', ' ')}"
    request.ScheduledProcedureStepID = person.id
    image.RequestAttributesSequence = [request]
    image.private_block(0x0011, "ONCOLOOP PHANTOM", create=True).add_new(0x01, "LO", person.name)


def _uid(*parts: str) -> str:
    import hashlib

    return ROOT + str(int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:15]))


def _dicom_bytes(image: Any) -> bytes:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def nifti(
    study: Study, planes: NDArray[np.int16], pixel: float, corner: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> bytes:
    """Slices × rows × columns (patient's right at the left, front up) as .nii.gz. Equal arguments give equal bytes.

    `corner` is the position of the first voxel in mm (RAS).
    """
    affine = np.diag([pixel, pixel, study.scanner.thickness, 1.0])
    affine[:3, 3] = corner
    image = _nifti_class()(planes[:, ::-1, ::-1].transpose(2, 1, 0), affine)
    person = study.person
    image.header["descrip"] = f"{person.name} {person.birth.isoformat()}".encode()[:79]
    image.header["aux_file"] = person.id.encode()[:23]
    image.header.set_xyzt_units("mm")
    return gzipped(image.to_bytes(), level=4)


@lru_cache(maxsize=1)
def _nifti_class() -> Any:
    import nibabel

    return nibabel.Nifti1Image
