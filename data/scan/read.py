"""Any supported file -> Scan: DICOM, NIfTI, PNG, JPEG or a zip of one scan, recognised by content and never by name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import identifiers
from data.record import Scan, Units
from data.scan import padding, size_limits, zip_archive
from data.scan.dicom import pixel_data
from data.scan.dicom.dicom_file import NoImage, dataset, is_dicom, scan_of
from data.scan.nifti import nifti_bytes, read_nifti
from data.scan.picture_file import read_picture
from data.scan.series import named, series, sift
from lineage.errors import Fault

LARGEST = 1e12  # of a pixel, in any unit
__all__ = ["assemble_scan", "dataset", "read_member", "nifti_bytes", "read_with_header", "read_scan", "series"]


def read(name: str, content: bytes) -> Scan:
    """Decode one file. `pixels` are HU for CT with a rescale, grey of 0 to 255 for pictures, else scanner units.

    A zip archive must hold one scan: a series of single-slice DICOM files, or one file of any other kind.
    Whatever is wrong with the file is a Fault of one sentence that names it; nothing else is raised.
    """
    if not zip_archive.is_archive(content):
        return opened(name, content)[0]
    return assemble(name, (member(name, inside, part)[0] for inside, part in zip_archive.members(name, content)))


def opened(name: str, content: bytes) -> tuple[Scan, Any]:
    """One file that is no archive, decoded, and its DICOM header (None for the other formats): one pass.

    No value of the header has been asked for yet: de-identification hands their bytes on as they are. Where pixel data
    hold more than the scan shows, the header has pixel data anew.
    """
    kind = kind_of(name, content)
    _hush()
    try:
        header = dataset(name, content) if kind == "dicom" else None
        untouched = _untouched(header) if header is not None else None
        scan = scan_of(name, header) if header is not None else _FORMATS[kind](name, content)
        scan = _filled(name, scan)
        if scan.hides:
            pixel_data.rewrite(name, untouched)
        return scan, untouched
    except Fault:
        raise
    except Exception as error:  # pydicom alone raises nine kinds on hostile files
        reason = identifiers.unquoted(" ".join(str(error).split()), content)[:200] or "no reason given"
        raise Fault(f"{name}: cannot be decoded ({type(error).__name__}: {reason}); export it again") from error


def _untouched(header: Any) -> Any:
    """The same data set, whose values stay bytes when those of the other are asked for."""
    from pydicom.dataset import Dataset

    same = Dataset(dict(header.items()))  # the elements as they are stored: iterating a data set parses them
    same.set_original_encoding(*header.original_encoding, header.original_character_set)
    if hasattr(header, "file_meta"):
        same.file_meta = header.file_meta
    return same


def member(name: str, inside: str, content: bytes) -> tuple[Scan, Any]:
    """One file of the archive or folder `name`, opened; its scan and whatever is wrong carry the file's base name.

    A DICOM object without an image is a scan without slices, for `assemble` to leave out by name.
    """
    base = PurePosixPath(inside).name
    try:
        return opened(base, content)
    except NoImage as fault:
        return without_slices(base, fault), None
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault


def without_slices(name: str, fault: NoImage) -> Scan:
    """A DICOM object that holds no image, as a scan for `series.sift` to leave out."""
    facts = {"format": "dicom", "image_type": f"no image, but {fault.kind}"}
    empty = np.empty((0, 0, 0), np.float32)
    return Scan(name, empty, Units.RAW, None, None, facts, fault.identity.patient_id, fault.identity)


def assemble(name: str, scans: Iterable[Scan]) -> Scan:
    """One scan out of the files of the archive or folder `name`, see `series`. Fault where they are not one scan, or
    too large."""
    found: list[Scan] = []
    first, size = None, 0
    for scan in scans:
        found.append(scan)
        if not len(scan.pixels):
            continue
        size += scan.pixels.size
        size_limits.permit(name, -(-size // scan.pixels[0].size), *scan.pixels.shape[1:])
        first = first or scan
        _alone(name, scan, first)
    if not found:
        raise Fault(f"{name}: holds no file; put the files of one scan into it")
    try:
        chosen, others = sift(found)
        for scan in chosen[1:]:
            _belongs(name, scan, chosen[0])
        return replace(series(chosen), name=name, left_out=named(found, others))
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault


def _alone(name: str, scan: Scan, first: Scan) -> None:
    if scan is not first and (scan.header.get("format") != "dicom" or first.header.get("format") != "dicom"):
        raise Fault(f"{name}: {scan.name} is one scan more; put only one volume, picture or DICOM series into it")


def _belongs(name: str, scan: Scan, first: Scan) -> None:
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


def kind_of(name: str, content: bytes) -> str:
    """`dicom`, `picture` or `nifti`, by the first bytes of the content. Fault if it is none of them."""
    if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return "picture"
    if is_dicom(content):
        return "dicom"
    if content[:2] == b"\x1f\x8b" or content[344:347] in (b"n+1", b"ni1") or content[4:7] in (b"n+2", b"ni2"):
        return "nifti"
    raise Fault(f"{name}: is not DICOM, NIfTI, PNG, JPEG or a zip of one; leave it out of the folder or convert it")


_FORMATS = {"picture": read_picture, "nifti": read_nifti}


def _filled(name: str, scan: Scan) -> Scan:
    """The scan with its padding filled, pixels that are no number among it. Fault if a value is absurd, or all are."""
    pixels, mask = np.ascontiguousarray(scan.pixels, dtype=np.float32), scan.padding
    if not _measurable(pixels):
        finite = np.isfinite(pixels)
        if not finite.any():
            raise Fault(f"{name}: holds no finite pixel value; export it again")
        mask = ~finite if mask is None else mask | ~finite
        if not _measurable(np.where(mask, np.float32(0), pixels)):
            raise Fault(f"{name}: holds pixel values beyond {LARGEST:g}, which nothing measures; export it again")
    return replace(scan, pixels=pixels, padding=padding.filled(pixels, scan.units, mask))


def _measurable(pixels: NDArray[Any]) -> bool:
    """Whether every value is a number whose square can still be summed; both extremes are no number if any is none."""
    with np.errstate(all="ignore"):
        return bool(pixels.min() >= -LARGEST and pixels.max() <= LARGEST)
