"""Any supported file -> Scan: DICOM, NIfTI, PNG and JPEG, recognised by their content and never by their name."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import limits
from data.record import Modality, Scan, Units
from data.series import series as series
from lineage.fault import Fault

Array = NDArray[Any]
DEFLATED = b"1.2.840.10008.1.2.1.99"
FACTS = {
    "body_part": "BodyPartExamined",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "kernel": "ConvolutionKernel",
    "laterality": "Laterality",
    "burned_in": "BurnedInAnnotation",
    "photometric": "PhotometricInterpretation",
    "sex": "PatientSex",
    "age": "PatientAge",
}


def read(name: str, content: bytes) -> Scan:
    """Decode one file. `pixels` are HU for CT with a rescale, grey of 0 to 255 for pictures, else scanner units.

    Whatever is wrong with the file is a Fault of one sentence that names it; nothing else is raised.
    """
    decode = _decoder(name, content)
    _hush()
    try:
        return decode(name, content)
    except Fault:
        raise
    except Exception as error:  # pydicom alone raises nine kinds on hostile files
        reason = " ".join(str(error).split())[:200] or "no reason given"
        raise Fault(f"{name}: cannot be decoded ({type(error).__name__}: {reason}); export it again") from error


@lru_cache(maxsize=1)
def _hush() -> None:
    """Warnings and logs of these libraries quote header values, names of patients too: they are switched off."""
    for library in ("pydicom", "nibabel", "PIL"):
        warnings.filterwarnings("ignore", module=library)
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _decoder(name: str, content: bytes) -> Callable[[str, bytes], Scan]:
    if content[128:132] == b"DICM" or content[:4] in (b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00"):
        return _read_dicom
    if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return _read_picture
    if content[:2] == b"\x1f\x8b" or content[344:347] in (b"n+1", b"ni1") or content[4:7] in (b"n+2", b"ni2"):
        return _read_nifti
    if content[:1] == b"\x08" and len(content) > 132:
        return _read_dicom
    raise Fault(f"{name}: is not DICOM, NIfTI, PNG or JPEG; leave it out of the folder or convert it")


# DICOM


def dataset(name: str, content: bytes) -> Any:
    """The parsed DICOM data set with its pixel data still encoded. Fault if it is none or inflates beyond limits."""
    import pydicom

    has_meta = content[128:132] == b"DICM"
    start = _meta_end(content)
    if DEFLATED in content[132:start]:
        size = len(limits.inflate(name, content[start:], limits.DECODED_BYTES + 1, -15))
        if size > limits.DECODED_BYTES:
            raise Fault(f"{name}: inflates beyond {limits.DECODED_BYTES // 1024**2} MiB; store it without compression")
    header = pydicom.dcmread(io.BytesIO(content), force=not has_meta)
    if not has_meta and "SOPClassUID" not in header:
        raise Fault(f"{name}: looks like DICOM but names no SOP class; export it again")
    return header


def _meta_end(content: bytes) -> int:
    """Where the file meta information ends (PS3.10 section 7.1): its first element is its length."""
    if content[128:136] != b"DICM\x02\x00\x00\x00":
        return 0
    return 144 + int.from_bytes(content[140:144], "little")


def _read_dicom(name: str, content: bytes) -> Scan:
    header = dataset(name, content)
    if not any(keyword in header for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        kind = getattr(getattr(header, "SOPClassUID", None), "name", "an unnamed kind")
        raise Fault(f"{name}: holds no image, it is {kind}; leave it out of the folder")
    frames = int(header.get("NumberOfFrames") or 1)
    colours = int(header.get("SamplesPerPixel") or 1)
    limits.permit(name, frames, int(header.Rows), int(header.Columns), colours)
    _permit_frames(name, header)
    pixels, units = _dicom_pixels(header, frames)
    modality = str(header.get("Modality") or "")
    return Scan(
        name=name,
        pixels=_finite(name, pixels),
        units=units,
        modality=Modality(modality) if modality in list(Modality) else None,
        spacing=_dicom_spacing(header),
        header=_dicom_facts(header, modality),
        patient_id=str(header.get("PatientID") or ""),
    )


def _permit_frames(name: str, header: Any) -> None:
    from pydicom.encaps import generate_frames
    from pydicom.uid import UID

    syntax = UID(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else UID("")
    if syntax and syntax.is_transfer_syntax and syntax.is_encapsulated:
        frames = int(header.get("NumberOfFrames") or 1)
        for frame in generate_frames(header.PixelData, number_of_frames=frames):
            limits.permit_codestream(name, frame)


def _dicom_pixels(header: Any, frames: int) -> tuple[Array, Units]:
    """Frames × rows × columns in float32, and their unit."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    stored = header.pixel_array
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        stored = apply_color_lut(stored, header)
    if stored.ndim > 2 and stored.shape[-1] in (3, 4) and stored.shape[-3:-1] == (header.Rows, header.Columns):
        return _grey(stored).reshape(frames, header.Rows, header.Columns), Units.DISPLAY
    stored = stored.reshape(frames, header.Rows, header.Columns)
    if "ModalityLUTSequence" in header:
        pixels, scaled = np.asarray(apply_modality_lut(stored, header), np.float32), True
    else:
        pixels, scaled = _rescale(stored, header)
    if header.get("Modality") == "CT" and scaled and _rescale_type(header) in ("", "HU", "US"):
        return pixels, Units.HU
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = pixels.max() + pixels.min() - pixels
    return pixels, Units.RAW


def _rescale(stored: Array, header: Any) -> tuple[Array, bool]:
    """Stored values times slope plus intercept, of the whole object or of each frame, and whether there was one."""
    pixels = stored.astype(np.float32)
    rules = [_frame_rule(header, frame) for frame in range(len(pixels))]
    if rules[0] is None:
        return pixels, False
    for plane, rule in zip(pixels, rules, strict=True):
        if rule is not None and rule != (1.0, 0.0):
            plane *= np.float32(rule[0])
            plane += np.float32(rule[1])
    return pixels, True


def _frame_rule(header: Any, frame: int) -> tuple[float, float] | None:
    group = _functional(header, frame, "PixelValueTransformationSequence") or header
    if group.get("RescaleSlope") is None:
        return None
    return float(group.RescaleSlope), float(group.get("RescaleIntercept") or 0)


def _rescale_type(header: Any) -> str:
    group = _functional(header, 0, "PixelValueTransformationSequence") or header
    return str(group.get("RescaleType") or "")


def _functional(header: Any, frame: int, keyword: str) -> Any:
    """The functional group of one frame of an enhanced object (PS3.3 C.7.6.16), shared or its own; None if absent."""
    for sequence, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        groups = header.get(sequence) or []
        if index < len(groups) and groups[index].get(keyword):
            return groups[index].get(keyword)[0]
    return None


def _dicom_spacing(header: Any) -> tuple[float, float, float] | None:
    group = _functional(header, 0, "PixelMeasuresSequence") or header
    plane = group.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if not plane or len(plane) != 2:
        return None
    distance = group.get("SpacingBetweenSlices") or group.get("SliceThickness") or 0
    return abs(float(distance)), float(plane[0]), float(plane[1])


def _dicom_facts(header: Any, modality: str) -> dict[str, str]:
    facts = {"format": "dicom", "modality": modality}
    facts |= {fact: _text(header.get(keyword)) for fact, keyword in FACTS.items()}
    facts["position"] = _text((_functional(header, 0, "PlanePositionSequence") or header).get("ImagePositionPatient"))
    plane = _functional(header, 0, "PlaneOrientationSequence") or header
    facts["orientation"] = _text(plane.get("ImageOrientationPatient"))
    facts["series"] = hashlib.sha256(_text(header.get("SeriesInstanceUID")).encode()).hexdigest()[:16]
    return facts


def _text(value: Any) -> str:
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return "\\".join("" if part is None else str(part).strip() for part in parts)[:128]


# NIfTI and pictures


def nifti_bytes(name: str, content: bytes) -> tuple[bytes, Any, int]:
    """A NIfTI file as it is without compression, its header, and where its voxels end.

    Of a compressed file no more is inflated than its header needs; Fault if that is beyond the limits.
    """
    import nibabel

    plain = content if content[:2] != b"\x1f\x8b" else limits.inflate(name, content, 544, 31)
    if plain[344:347] != b"n+1" and plain[4:7] != b"n+2":
        raise Fault(f"{name}: is compressed or split, but not one NIfTI file (.nii or .nii.gz); convert it")
    kind = nibabel.Nifti2Header if plain[4:7] == b"n+2" else nibabel.Nifti1Header
    header = kind(plain[: kind.sizeof_hdr])
    shape = tuple(int(length) for length in header.get_data_shape())
    if not 2 <= len(shape) <= 4 or (len(shape) == 4 and shape[3] != 1) or header.get_data_dtype().fields:
        raise Fault(f"{name}: has the shape {'×'.join(map(str, shape))} or colours; give one grey volume per file")
    limits.permit(name, *shape)
    end = int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize
    if not kind.sizeof_hdr <= header.get_data_offset() <= end <= 5 * limits.DECODED_BYTES:
        raise Fault(f"{name}: the header puts the voxels at byte {header.get_data_offset()}; export it again")
    if plain is not content:
        plain = limits.inflate(name, content, end, 31)
    if len(plain) < end:
        raise Fault(f"{name}: ends after {len(plain)} of {end} bytes; copy it again")
    return plain, header, end


def _read_nifti(name: str, content: bytes) -> Scan:
    import nibabel

    plain, header, _ = nifti_bytes(name, content)
    kind = nibabel.Nifti2Image if plain[4:7] == b"n+2" else nibabel.Nifti1Image
    image = kind.from_bytes(plain)
    volume = np.asarray(image.dataobj, dtype=np.float32).reshape((*image.shape, 1)[:3])
    zooms = (*(float(zoom) for zoom in header.get_zooms()[:3]), 1.0)[:3]
    return Scan(
        name=name,
        pixels=_finite(name, _upright(volume, image.affine)),
        units=Units.RAW,
        modality=None,
        spacing=(zooms[2], zooms[1], zooms[0]),
        header={"format": "nifti", "modality": ""},
    )


def _upright(volume: Array, affine: Array) -> Array:
    """Slices of the last axis, transposed to rows × columns; axial ones with the patient's front up, right at left."""
    import nibabel

    codes = nibabel.aff2axcodes(affine)
    slices = volume.transpose(2, 1, 0)
    if codes[0] == "R" and codes[1] in "AP":
        slices = slices[:, :, ::-1]
    if codes[1] == "A" and codes[0] in "RL":
        slices = slices[:, ::-1]
    return np.ascontiguousarray(slices)


def _read_picture(name: str, content: bytes) -> Scan:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
        limits.permit(name, picture.height, picture.width, len(picture.getbands()))
        if getattr(picture, "n_frames", 1) != 1:
            raise Fault(f"{name}: is animated; give one picture per file")
        if picture.mode in ("I;16", "I;16B", "I", "F"):
            grey = np.asarray(picture, dtype=np.float32) * np.float32(255 / 65535)
        else:
            grey = np.asarray(picture.convert("L"), dtype=np.float32)
    return Scan(name, grey[None], Units.DISPLAY, None, None, {"format": "picture", "modality": ""})


def _grey(colours: Array) -> Array:
    """Luminance (ITU-R BT.601) of red, green and blue of any depth, 0 to 255."""
    scale = 255 / np.iinfo(colours.dtype).max if colours.dtype.itemsize > 1 else 1
    weights = np.array([0.299, 0.587, 0.114], np.float32) * np.float32(scale)
    return np.asarray(colours[..., :3].astype(np.float32) @ weights)


def _finite(name: str, pixels: Array) -> NDArray[np.float32]:
    """The pixels with the smallest finite value where a number is missing. Fault if there is no number at all."""
    finite = np.isfinite(pixels)
    if not finite.any():
        raise Fault(f"{name}: holds no finite pixel value; export it again")
    if not finite.all():
        pixels = np.where(finite, pixels, pixels[finite].min())
    return np.ascontiguousarray(pixels, dtype=np.float32)
