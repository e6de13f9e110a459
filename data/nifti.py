"""NIfTI, plain or gzipped -> Scan; no more is inflated than the header has been checked to need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import limits
from data.record import Scan, Units
from lineage.fault import Fault

Array = NDArray[Any]
BLOCK = 16  # slices scaled at once, so that no second volume of another number type lies in memory


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


def read_nifti(name: str, content: bytes) -> Scan:
    """One volume, its slices along the last axis and upright; the format knows neither modality nor units."""
    import nibabel

    plain, header, _ = nifti_bytes(name, content)
    kind = nibabel.Nifti2Image if plain[4:7] == b"n+2" else nibabel.Nifti1Image
    image = kind.from_bytes(plain)
    zooms = (*(float(zoom) for zoom in header.get_zooms()[:3]), 1.0)[:3]
    return Scan(
        name=name,
        pixels=_slices(image),
        units=Units.RAW,
        modality=None,
        spacing=(zooms[2], zooms[1], zooms[0]),
        header={"format": "nifti", "modality": ""},
    )


def _slices(image: Any) -> NDArray[np.float32]:
    """Slices × rows × columns, scaled; axial ones with the patient's front up and right at the left of the picture."""
    import nibabel

    codes = nibabel.aff2axcodes(image.affine)
    columns, rows, depth = (*image.shape, 1)[:3]
    flip = (
        slice(None, None, -1) if codes[1] == "A" and codes[0] in "RL" else slice(None),
        slice(None, None, -1) if codes[0] == "R" and codes[1] in "AP" else slice(None),
    )
    upright = np.empty((depth, rows, columns), np.float32)
    for start in range(0, depth, BLOCK):
        part = np.asarray(image.dataobj[..., start : start + BLOCK] if len(image.shape) == 3 else image.dataobj)
        planes = part.reshape(columns, rows, -1).transpose(2, 1, 0)
        upright[start : start + BLOCK] = planes[:, flip[0], flip[1]]
    return upright
