"""The scans of one case, opened for an answer; what is kept of them does not repeat whose they are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import identifiers
from data.deidentify import burned_in_text
from data.record import Scan
from data.scan import read, size_limits, slice_features, zip_archive
from data.scan.dicom.dicom_file import NoImage
from data.scan.dicom.header_identity import identity_difference
from data.scan.series import join_series, names_of_excluded, select_slices
from lineage.errors import Fault
from serving.inference.request import Upload


def scans(uploads: Sequence[Upload]) -> list[Scan]:
    """The scans of one case: a DICOM series is put in order by its geometry, other files keep theirs.

    What is no slice of the case is left out, as at intake (data/scan/series.py); the first scan names all of it. Free
    texts
    of a header that repeat the patient's, the staff's or the institution's name in it are emptied: the answer, its
    reasons and the journal quote them.
    """
    uploads = [upload for upload in uploads if not zip_archive.is_system_file(upload.name)]
    if not uploads:
        raise Fault("no file was sent: send at least one scan as `files`")
    found: list[Scan] = []
    room = size_limits.DECODED_BYTES
    for upload in uploads:
        found.append(_scan(upload, alone=len(uploads) == 1))
        room -= found[-1].pixels.nbytes
        if room < 0:
            most = size_limits.DECODED_BYTES // 2**20
            raise Fault(f"{upload.name}: with it the files are over {most} MiB decoded; send fewer of them")
    first = next((scan for scan in found if len(scan.pixels)), found[0])
    for scan in found:
        wrong = identity_difference(scan.identity, first.identity) if len(scan.pixels) or scan.patient_id else ""
        if wrong:
            by = "" if wrong == "patient" else f" by their {wrong}"
            raise Fault(f"{scan.name} and {first.name} are of different patients{by}; send one case at a time")
    chosen, others = select_slices(found) if len(found) > 1 else (found, {})
    left_out = (*names_of_excluded(found, others), *(one for scan in chosen for one in scan.left_out))
    for scan in chosen[1:]:
        if (scan.modality, scan.units) != (chosen[0].modality, chosen[0].units):
            raise Fault(f"{scan.name} and {chosen[0].name} are different kinds of scan; send one kind at a time")
    if len(chosen) > 1 and all(scan.header.get("format") == "dicom" for scan in chosen):
        chosen = [join_series(chosen)]
    return [replace(chosen[0], left_out=left_out), *chosen[1:]]


def description(plane: NDArray[np.float32], scan: Scan, uploads: Sequence[Upload]) -> dict[str, float | str]:
    """What the journal keeps of a slice (rows × columns): `data.scan.slice_features`, without what a file's name
    betrays."""
    return slice_features.describe(plane, unnamed(scan, uploads))


def descriptions(
    scans: Sequence[Scan], uploads: Sequence[Upload], slices: Sequence[int]
) -> list[dict[str, float | str]]:
    """The descriptions of some slices of a case, as the rules of intake ask for them: with writing on any slice."""
    told = [unnamed(scan, uploads) for scan in scans]
    told = [replace(scan, header=scan.header | burned_in_text.burned_in_fact(scan)) for scan in told]
    return [slice_features.describe(plane, scan) for scan, plane in (slice_of(told, index) for index in slices)]


def slice_of(scans: Sequence[Scan], index: int) -> tuple[Scan, NDArray[np.float32]]:
    """The scan that holds the case's slice `index`, and that slice's pixels."""
    for scan in scans:
        if index < len(scan.pixels):
            return scan, scan.pixels[index]
        index -= len(scan.pixels)
    raise IndexError(index)


def number(scans: Sequence[Scan], index: int) -> int:
    """The number of the case's slice `index` in its file, where the case is one file; else its place in the case."""
    return scans[0].order[index] if len(scans) == 1 and scans[0].order else index


def unnamed(scan: Scan, uploads: Sequence[Upload]) -> Scan:
    """A scan whose header repeats nothing of its files' names."""
    names = [name for upload in uploads for name in (upload.name, *_inside(upload))]
    return replace(scan, header=identifiers.redact_facts(scan.header, identifiers.People(), {}, names))


def _scan(upload: Upload, alone: bool) -> Scan:
    """One file or archive, silent about whom its own headers name; without slices where it holds no image and is not
    alone."""
    if not zip_archive.is_archive(upload.content):
        try:
            return _silent(*read.read_with_header(upload.name, upload.content))
        except NoImage as fault:
            if alone:
                raise
            return read.scan_without_slices(upload.name, fault)

    def members() -> Iterator[Scan]:
        for inside, part in zip_archive.read_members(upload.name, upload.content):
            yield _silent(*read.read_member(upload.name, inside, part), f"{upload.name}: ")

    return read.assemble_scan(upload.name, members())


def _silent(scan: Scan, header: Any, inside: str = "") -> Scan:
    name = f"{inside}{scan.name}"
    if not len(scan.pixels):
        return scan
    size_limits.check_decoded_size(
        name, *[max(scan.pixels.shape[1:])] * 2
    )  # the square that a network's picture is cut from
    try:
        kept = identifiers.redact_facts(
            scan.header, identifiers.find_people(header), {"patient_id": scan.patient_id or ""}, []
        )
    except Exception as error:  # pydicom looks at a value when it is asked for, and raises as many kinds as in `read`
        raise Fault(f"{name}: its header cannot be read ({type(error).__name__}); export it again") from error
    return replace(scan, header=kept)


def _inside(upload: Upload) -> list[str]:
    """The names in an archive; none of another file."""
    if not zip_archive.is_archive(upload.content):
        return []
    with zipfile.ZipFile(io.BytesIO(upload.content)) as packed:  # its scans were read, so it is sound
        return packed.namelist()
