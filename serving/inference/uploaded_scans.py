"""Read the scans of one case for an answer, and remove identifying text from their headers."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import identifiers
from data.core_types import Scan
from data.deidentify import burned_in_text
from data.scan import read, size_limits, slice_features, zip_archive
from data.scan.dicom.dicom_file import NoImage
from data.scan.dicom.header_identity import identity_difference
from data.scan.series import join_series, names_of_excluded, select_slices
from lineage.errors import Fault
from serving.inference.request import Upload


def read_scans(uploads: Sequence[Upload]) -> list[Scan]:
    """Read the scans of one case. A DICOM series is ordered by its geometry; other files keep their order.

    Files that are not slices of the case are left out, as at ingest (data/scan/series.py); `left_out` of the first scan
    lists all of them. Header texts that repeat a name of the patient, the staff or the institution are emptied, because
    the answer, its reasons and the journal quote them.

    Raises Fault for a file that cannot be read, several patients, several kinds of scan, or too many decoded bytes.
    """
    uploads = [upload for upload in uploads if not zip_archive.is_system_file(upload.name)]
    if not uploads:
        raise Fault("no file was sent: send at least one scan as `files`")
    scans: list[Scan] = []
    free_bytes = size_limits.DECODED_BYTES
    for upload in uploads:
        scans.append(_read_scan(upload, is_only_file=len(uploads) == 1))
        free_bytes -= scans[-1].pixels.nbytes
        if free_bytes < 0:
            limit = size_limits.DECODED_BYTES // 2**20
            raise Fault(f"{upload.name}: with this file the upload is over {limit} MiB decoded; send fewer files")
    _check_same_patient(scans)
    slices, other_files = select_slices(scans) if len(scans) > 1 else (scans, {})
    left_out = (*names_of_excluded(scans, other_files), *(entry for scan in slices for entry in scan.left_out))
    for scan in slices[1:]:
        if (scan.modality, scan.units) != (slices[0].modality, slices[0].units):
            raise Fault(f"{scan.name} and {slices[0].name} are different kinds of scan; send one kind at a time")
    if len(slices) > 1 and all(scan.header.get("format") == "dicom" for scan in slices):
        slices = [join_series(slices)]
    return [replace(slices[0], left_out=left_out), *slices[1:]]


def _check_same_patient(scans: Sequence[Scan]) -> None:
    first = next((scan for scan in scans if len(scan.pixels)), scans[0])
    for scan in scans:
        field = identity_difference(scan.identity, first.identity) if len(scan.pixels) or scan.patient_id else ""
        if field:
            evidence = "" if field == "patient" else f" by their {field}"
            raise Fault(f"{scan.name} and {first.name} are of different patients{evidence}; send one case at a time")


def describe_slices(
    scans: Sequence[Scan], uploads: Sequence[Upload], slices: Sequence[int]
) -> list[dict[str, float | str]]:
    """The features of some slices of a case (`data.scan.slice_features`), without text that repeats a file name.

    Burned-in text on any slice counts for all.
    """
    scans = [without_file_names(scan, uploads) for scan in scans]
    scans = [replace(scan, header=scan.header | burned_in_text.burned_in_fact(scan)) for scan in scans]
    return [slice_features.describe(plane, scan) for scan, plane in (locate_slice(scans, index) for index in slices)]


def locate_slice(scans: Sequence[Scan], index: int) -> tuple[Scan, NDArray[np.float32]]:
    """The scan that contains the case's slice `index`, and that slice's pixels. IndexError if there is none."""
    for scan in scans:
        if index < len(scan.pixels):
            return scan, scan.pixels[index]
        index -= len(scan.pixels)
    raise IndexError(index)


def slice_number(scans: Sequence[Scan], index: int) -> int:
    """The number of slice `index` within its file if the case is one file, else its position in the case."""
    return scans[0].order[index] if len(scans) == 1 and scans[0].order else index


def without_file_names(scan: Scan, uploads: Sequence[Upload]) -> Scan:
    """The scan with a header that repeats no part of its files' names."""
    names = [name for upload in uploads for name in (upload.name, *_archive_names(upload))]
    return replace(scan, header=identifiers.redact_facts(scan.header, identifiers.People(), {}, names))


def _read_scan(upload: Upload, is_only_file: bool) -> Scan:
    """Read one file or archive, without identifying text. A file without an image, among others, has no slices."""
    if not zip_archive.is_archive(upload.content):
        try:
            return _without_identifiers(*read.read_with_header(upload.name, upload.content))
        except NoImage as fault:
            if is_only_file:
                raise
            return read.scan_without_slices(upload.name, fault)

    def read_members() -> Iterator[Scan]:
        for member_name, content in zip_archive.read_members(upload.name, upload.content):
            yield _without_identifiers(*read.read_member(upload.name, member_name, content), f"{upload.name}: ")

    return read.assemble_scan(upload.name, read_members())


def _without_identifiers(scan: Scan, dataset: Any, archive: str = "") -> Scan:
    name = f"{archive}{scan.name}"
    if not len(scan.pixels):
        return scan
    size_limits.check_decoded_size(name, *[max(scan.pixels.shape[1:])] * 2)  # preprocessing pads a slice to a square
    try:
        header = identifiers.redact_facts(
            scan.header, identifiers.find_people(dataset), {"patient_id": scan.patient_id or ""}, []
        )
    except Exception as error:  # pydicom parses a value at its first use, and raises as many kinds as in `read`
        raise Fault(f"{name}: its header cannot be read ({type(error).__name__}); export it again") from error
    return replace(scan, header=header)


def _archive_names(upload: Upload) -> list[str]:
    """The member names of an archive; empty for another file."""
    if not zip_archive.is_archive(upload.content):
        return []
    with zipfile.ZipFile(io.BytesIO(upload.content)) as archive:  # valid, because its scans were read before
        return archive.namelist()
