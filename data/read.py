"""Any supported file -> Scan: DICOM, NIfTI, PNG, JPEG or a zip of one scan, recognised by content and never by name."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import archive, identity, limits
from data.dicom import dataset, scan_of
from data.nifti import nifti_bytes, read_nifti
from data.record import Scan, Units
from data.series import series
from lineage.fault import Fault

LARGEST = 1e12  # of a pixel, in any unit
__all__ = ["assemble", "dataset", "member", "nifti_bytes", "opened", "read", "series"]


def read(name: str, content: bytes) -> Scan:
    """Decode one file. `pixels` are HU for CT with a rescale, grey of 0 to 255 for pictures, else scanner units.

    A zip archive must hold one scan: a series of single-slice DICOM files, or one file of any other kind.
    Whatever is wrong with the file is a Fault of one sentence that names it; nothing else is raised.
    """
    if not archive.is_archive(content):
        return opened(name, content)[0]
    return assemble(name, (member(name, inside, part)[0] for inside, part in archive.members(name, content)))


def opened(name: str, content: bytes) -> tuple[Scan, Any]:
    """One file that is no archive, decoded, and its DICOM header (None for the other formats): one pass.

    No value of the header has been asked for yet: de-identification hands their bytes on as they are.
    """
    kind = _kind(name, content)
    _hush()
    try:
        header = dataset(name, content) if kind == "dicom" else None
        untouched = _untouched(header) if header is not None else None
        scan = scan_of(name, header) if header is not None else _FORMATS[kind](name, content)
        return replace(scan, pixels=_finite(name, scan.pixels)), untouched
    except Fault:
        raise
    except Exception as error:  # pydicom alone raises nine kinds on hostile files
        reason = identity.unquoted(" ".join(str(error).split()), content)[:200] or "no reason given"
        raise Fault(f"{name}: cannot be decoded ({type(error).__name__}: {reason}); export it again") from error


def _untouched(header: Any) -> Any:
    """The same data set, whose values stay bytes when those of the other are asked for."""
    from pydicom.dataset import Dataset

    same = Dataset({tag: header.get_item(tag) for tag in header.keys()})  # noqa: SIM118  iterating parses the values
    same.set_original_encoding(*header.original_encoding, header.original_character_set)
    if hasattr(header, "file_meta"):
        same.file_meta = header.file_meta
    return same


def member(name: str, inside: str, content: bytes) -> tuple[Scan, Any]:
    """One file of the archive or folder `name`, opened; its scan and whatever is wrong carry the file's base name."""
    base = PurePosixPath(inside).name
    try:
        return opened(base, content)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault


def assemble(name: str, scans: Iterable[Scan]) -> Scan:
    """One scan out of the files of the archive or folder `name`. Fault where they are not one scan, or too large."""
    found: list[Scan] = []
    for scan in scans:
        found.append(scan)
        limits.permit(name, len(found), *scan.pixels.shape)
        _belongs(name, scan, found[0])
    if not found:
        raise Fault(f"{name}: holds no file; put the files of one scan into it")
    try:
        return replace(series(found), name=name)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault


def _belongs(name: str, scan: Scan, first: Scan) -> None:
    if scan is first:
        return
    if scan.header.get("format") != "dicom" or first.header.get("format") != "dicom":
        raise Fault(f"{name}: {scan.name} is one scan more; put only one volume, picture or DICOM series into it")
    if scan.header.get("series") != first.header.get("series"):
        raise Fault(f"{name}: holds two series, {scan.name} is of the second; give each a folder or archive of its own")
    if len(scan.pixels) != 1 or len(first.pixels) != 1:
        raise Fault(
            f"{name}: {scan.name} or {first.name} is a multi-frame file; give it a folder or archive of its own"
        )


@lru_cache(maxsize=1)
def _hush() -> None:
    """Warnings and logs of these libraries quote header values, names of patients too: they are switched off."""
    for library in ("pydicom", "nibabel", "PIL"):
        warnings.filterwarnings("ignore", module=library)
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _kind(name: str, content: bytes) -> str:
    if content[128:132] == b"DICM" or content[:4] in (b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00"):
        return "dicom"
    if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return "picture"
    if content[:2] == b"\x1f\x8b" or content[344:347] in (b"n+1", b"ni1") or content[4:7] in (b"n+2", b"ni2"):
        return "nifti"
    if content[:1] == b"\x08" and len(content) > 132:
        return "dicom"
    raise Fault(f"{name}: is not DICOM, NIfTI, PNG, JPEG or a zip of one; leave it out of the folder or convert it")


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


_FORMATS = {"picture": _read_picture, "nifti": read_nifti}


def _finite(name: str, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """The pixels with the smallest finite value where a number is missing. Fault if none is there, or one is absurd."""
    if not _measurable(pixels):
        finite = np.isfinite(pixels)
        if not finite.any():
            raise Fault(f"{name}: holds no finite pixel value; export it again")
        pixels = np.where(finite, pixels, pixels[finite].min())
        if not _measurable(pixels):
            raise Fault(f"{name}: holds pixel values beyond {LARGEST:g}, which nothing measures; export it again")
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _measurable(pixels: NDArray[Any]) -> bool:
    """Whether every value is a number whose square can still be summed; both extremes are no number if any is none."""
    with np.errstate(all="ignore"):
        return bool(pixels.min() >= -LARGEST and pixels.max() <= LARGEST)
