"""Reading NIfTI, plain or gzipped, into a Scan; only the bytes that a checked header needs are inflated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Scan, ValueUnit
from data.scan import geometry, size_limits
from data.scan.dicom.image_type import mask_kind
from lineage.errors import Fault

Array = NDArray[Any]
BLOCK = 16  # slices scaled at once, so that memory holds no second volume of another number type


def nifti_bytes(name: str, content: bytes) -> tuple[bytes, Any, int]:
    """The uncompressed bytes of a NIfTI file, its header, and the byte after its last voxel.

    A compressed file is inflated only as far as its header needs; Fault if that is beyond the limits.
    """
    import nibabel

    plain = content if content[:2] != b"\x1f\x8b" else size_limits.inflate(name, content, 544, 31)
    if plain[344:347] != b"n+1" and plain[4:7] != b"n+2":
        raise Fault(f"{name}: is compressed or split, but not one NIfTI file (.nii or .nii.gz); convert it")
    header_class = nibabel.Nifti2Header if plain[4:7] == b"n+2" else nibabel.Nifti1Header
    header = header_class(plain[: header_class.sizeof_hdr])
    shape = tuple(int(length) for length in header.get_data_shape())
    if not 2 <= len(shape) <= 4 or (len(shape) == 4 and shape[3] != 1) or header.get_data_dtype().fields:
        raise Fault(f"{name}: has the shape {'×'.join(map(str, shape))} or colours; give one grey volume per file")
    size_limits.check_decoded_size(name, *shape)
    end = int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize
    if not header_class.sizeof_hdr <= header.get_data_offset() <= end <= 5 * size_limits.DECODED_BYTES:
        raise Fault(f"{name}: the header puts the voxels at byte {header.get_data_offset()}; export it again")
    if plain is not content:
        plain = size_limits.inflate(name, content, end, 31)
    if len(plain) < end:
        raise Fault(f"{name}: ends after {len(plain)} of {end} bytes; copy it again")
    return plain, header, end


def read_nifti(name: str, content: bytes) -> Scan:
    """One volume, its slices along the third axis and turned upright; the format states neither modality nor units.

    `header["orientation"]` is written as in DICOM if the file gives the orientation. If it does not,
    `header["geometry"]` says so, and the directions are those that the format assumes.
    """
    import nibabel

    plain, header, _ = nifti_bytes(name, content)
    image_class = nibabel.Nifti2Image if plain[4:7] == b"n+2" else nibabel.Nifti1Image
    image = image_class.from_bytes(plain)
    try:
        affine, directions = geometry.nifti_affine(image.header)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault
    upright_turn = geometry.turn_to_upright(directions)
    shape = (*image.shape, 1)[:3][::-1]
    zooms = (*(float(zoom) for zoom in header.get_zooms()[:3]), 1.0)[:3][::-1]
    if affine is not None:
        zooms = tuple(float(np.float32(length)) for length in np.linalg.norm(affine[:3, :3], axis=0))
    facts = {"format": "nifti", "modality": "", "geometry": geometry.UNKNOWN if affine is None else ""}
    if affine is not None:
        cosines = affine[:3, [2, 1]] / np.linalg.norm(affine[:3, [2, 1]], axis=0)
        facts["orientation"] = "\\".join(f"{value:.6f}" for value in cosines.T.ravel())
    pixels = _slices(image, upright_turn)
    facts["image_type"] = mask_kind(pixels)
    return Scan(
        name=name,
        pixels=pixels,
        units=ValueUnit.RAW,
        modality=None,
        spacing=(zooms[0], zooms[2], zooms[1]) if upright_turn.exchanged else (zooms[0], zooms[1], zooms[2]),
        header=facts,
        affine=None if affine is None else upright_turn.affine(affine, shape),
        directions=directions,
    )


def _slices(image: Any, upright_turn: geometry.Turn) -> NDArray[np.float32]:
    """The pixels as slices × rows × columns, scaled and turned, block by block."""
    columns, rows, depth = (*image.shape, 1)[:3]
    sides = (columns, rows) if upright_turn.exchanged else (rows, columns)
    upright = np.empty((depth, *sides), np.float32)
    for start in range(0, depth, BLOCK):
        block = np.asarray(image.dataobj[..., start : start + BLOCK] if len(image.shape) == 3 else image.dataobj)
        upright[start : start + BLOCK] = upright_turn.planes(block.reshape(columns, rows, -1).transpose(2, 1, 0))
    return upright
