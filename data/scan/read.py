"""Reading any supported file into a Scan: DICOM, NIfTI, PNG, JPEG or a zip, recognised by content, never by name."""

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
from data.core_types import Scan, ValueUnit
from data.scan import padding, size_limits, zip_archive
from data.scan.dicom import clean_pixel_data
from data.scan.dicom.dicom_file import NoImage, is_dicom, scan_from_dataset
from data.scan.dicom.dicom_file import dataset as dataset
from data.scan.nifti import read_nifti
from data.scan.picture_file import read_picture
from data.scan.series import join_series, names_of_excluded, select_slices
from lineage.errors import Fault

MAX_VALUE = 1e12  # of a pixel, in any unit


def read_scan(name: str, content: bytes) -> Scan:
    """Decode one file. `pixels` are HU for CT with a rescale, grey of 0 to 255 for pictures, else scanner units.

    A zip archive must hold one scan: a series of single-slice DICOM files, or one file of any other kind.
    Every problem of the file is raised as a Fault of one sentence with its name, never as another exception.
    """
    if not zip_archive.is_archive(content):
        return read_with_header(name, content)[0]
    return assemble_scan(
        name, (read_member(name, path, part)[0] for path, part in zip_archive.read_members(name, content))
    )


def read_with_header(name: str, content: bytes) -> tuple[Scan, Any]:
    """The scan of one file that is no archive, and its DICOM header (None for other formats), in one pass.

    No value of the header is parsed yet, so that de-identification can copy their bytes unchanged. If the pixel data
    hold more than the scan shows, the header gets rewritten pixel data.
    """
    file_format = detect_format(name, content)
    _silence_libraries()
    try:
        header = dataset(name, content) if file_format == "dicom" else None
        untouched = _untouched(header) if header is not None else None
        scan = scan_from_dataset(name, header) if header is not None else _READERS[file_format](name, content)
        scan = _fill_padding(name, scan)
        if scan.hides:
            clean_pixel_data.rewrite_pixel_data(name, untouched)
        return scan, untouched
    except Fault:
        raise
    except Exception as error:  # pydicom alone raises nine kinds for hostile files
        reason = identifiers.remove_quoted_words(" ".join(str(error).split()), content)[:200] or "no reason given"
        raise Fault(f"{name}: cannot be decoded ({type(error).__name__}: {reason}); export it again") from error


def _untouched(header: Any) -> Any:
    """The same data set, whose values stay unparsed bytes when those of the original are parsed."""
    from pydicom.dataset import Dataset

    copy = Dataset(dict(header.items()))  # the stored elements; iterating a data set parses them
    copy.set_original_encoding(*header.original_encoding, header.original_character_set)
    if hasattr(header, "file_meta"):
        copy.file_meta = header.file_meta
    return copy


def read_member(name: str, path: str, content: bytes) -> tuple[Scan, Any]:
    """The scan and header of one file of the archive or folder `name`; scan and Fault carry the file's base name.

    A DICOM object without an image becomes a scan without slices, which `series.select_slices` leaves out by name.
    """
    base = PurePosixPath(path).name
    try:
        return read_with_header(base, content)
    except NoImage as fault:
        return scan_without_slices(base, fault), None
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault


def scan_without_slices(name: str, fault: NoImage) -> Scan:
    """A DICOM object that holds no image, as a scan that `series.select_slices` leaves out."""
    facts = {"format": "dicom", "image_type": f"no image, but {fault.kind}"}
    empty = np.empty((0, 0, 0), np.float32)
    return Scan(name, empty, ValueUnit.RAW, None, None, facts, fault.identity.patient_id, fault.identity)


def assemble_scan(name: str, scans: Iterable[Scan]) -> Scan:
    """One scan from the files of the archive or folder `name`, see `series`.

    Fault if they are not one scan, or too large.
    """
    member_scans: list[Scan] = []
    first, size = None, 0
    for scan in scans:
        member_scans.append(scan)
        if not len(scan.pixels):
            continue
        size += scan.pixels.size
        size_limits.check_decoded_size(name, -(-size // scan.pixels[0].size), *scan.pixels.shape[1:])
        first = first or scan
        _check_alone(name, scan, first)
    if not member_scans:
        raise Fault(f"{name}: holds no file; put the files of one scan into it")
    try:
        chosen, excluded = select_slices(member_scans)
        for scan in chosen[1:]:
            _check_same_series(name, scan, chosen[0])
        return replace(join_series(chosen), name=name, left_out=names_of_excluded(member_scans, excluded))
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from fault


def _check_alone(name: str, scan: Scan, first: Scan) -> None:
    if scan is not first and (scan.header.get("format") != "dicom" or first.header.get("format") != "dicom"):
        raise Fault(f"{name}: {scan.name} is one scan more; put only one volume, picture or DICOM series into it")


def _check_same_series(name: str, scan: Scan, first: Scan) -> None:
    if scan.header.get("series") != first.header.get("series"):
        raise Fault(f"{name}: holds two series, {scan.name} is of the second; give each a folder or archive of its own")
    if len(scan.pixels) != 1 or len(first.pixels) != 1:
        raise Fault(
            f"{name}: {scan.name} or {first.name} is a multi-frame file; give it a folder or archive of its own"
        )


@lru_cache(maxsize=1)
def _silence_libraries() -> None:
    """Switch off warnings and logs of these libraries: they quote header values, including names of patients."""
    for library in ("pydicom", "nibabel", "PIL"):
        warnings.filterwarnings("ignore", module=library)
        logging.getLogger(library).setLevel(logging.CRITICAL)


def detect_format(name: str, content: bytes) -> str:
    """`dicom`, `picture` or `nifti`, by the first bytes of the content. Fault for any other format."""
    if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return "picture"
    if is_dicom(content):
        return "dicom"
    if content[:2] == b"\x1f\x8b" or content[344:347] in (b"n+1", b"ni1") or content[4:7] in (b"n+2", b"ni2"):
        return "nifti"
    raise Fault(f"{name}: is not DICOM, NIfTI, PNG, JPEG or a zip of one; leave it out of the folder or convert it")


_READERS = {"picture": read_picture, "nifti": read_nifti}


def _fill_padding(name: str, scan: Scan) -> Scan:
    """The scan with filled padding, which includes NaN. Fault if no pixel is finite, or if a value is out of range."""
    pixels, mask = np.ascontiguousarray(scan.pixels, dtype=np.float32), scan.padding
    if not _is_measurable(pixels):
        finite = np.isfinite(pixels)
        if not finite.any():
            raise Fault(f"{name}: holds no finite pixel value; export it again")
        mask = ~finite if mask is None else mask | ~finite
        if not _is_measurable(np.where(mask, np.float32(0), pixels)):
            raise Fault(f"{name}: holds pixel values beyond {MAX_VALUE:g}, which no scanner measures; export it again")
    return replace(scan, pixels=pixels, padding=padding.fill_padding(pixels, scan.units, mask))


def _is_measurable(pixels: NDArray[Any]) -> bool:
    """Whether every value is a number small enough to sum squares; the extremes are NaN if any value is."""
    with np.errstate(all="ignore"):
        return bool(pixels.min() >= -MAX_VALUE and pixels.max() <= MAX_VALUE)
