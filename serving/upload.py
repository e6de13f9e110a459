"""The scans of one case, opened for an answer; what is kept of them does not repeat whose they are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import archive, describe, identity, limits, read
from data.header_identity import difference
from data.record import Scan
from data.series import series
from lineage.fault import Fault
from serving.request import Upload


def scans(uploads: Sequence[Upload]) -> list[Scan]:
    """The scans of one case: a DICOM series is put in order by its geometry, other files keep theirs.

    Free texts of a header that repeat the patient's, the staff's or the institution's name in it are emptied: the
    answer, its reasons and the journal quote them.
    """
    uploads = [upload for upload in uploads if not archive.hidden(upload.name)]
    if not uploads:
        raise Fault("no file was sent: send at least one scan as `files`")
    found: list[Scan] = []
    room = limits.DECODED_BYTES
    for upload in uploads:
        found.append(_scan(upload))
        room -= found[-1].pixels.nbytes
        if room < 0:
            most = limits.DECODED_BYTES // 2**20
            raise Fault(f"{upload.name}: with it the files are over {most} MiB decoded; send fewer of them")
    first = found[0]
    for scan in found[1:]:
        wrong = difference(scan.identity, first.identity)
        if wrong:
            by = "" if wrong == "patient" else f" by their {wrong}"
            raise Fault(f"{scan.name} and {first.name} are of different patients{by}; send one case at a time")
        if (scan.modality, scan.units) != (first.modality, first.units):
            raise Fault(f"{scan.name} and {first.name} are different kinds of scan; send one kind at a time")
    if len(found) > 1 and all(scan.header.get("format") == "dicom" for scan in found):
        return [series(found)]
    return found


def description(plane: NDArray[np.float32], scan: Scan, uploads: Sequence[Upload]) -> dict[str, float | str]:
    """What the journal keeps of a slice (rows × columns): `data.describe`, without what a file's name betrays."""
    names = [name for upload in uploads for name in (upload.name, *_inside(upload))]
    return describe.describe(plane, replace(scan, header=identity.silent(scan.header, None, {}, names)))


def _scan(upload: Upload) -> Scan:
    """One file or archive, silent about whom its own headers name."""
    if not archive.is_archive(upload.content):
        return _silent(*read.opened(upload.name, upload.content))

    def members() -> Iterator[Scan]:
        for inside, part in archive.members(upload.name, upload.content):
            yield _silent(*read.member(upload.name, inside, part), f"{upload.name}: ")

    return read.assemble(upload.name, members())


def _silent(scan: Scan, header: Any, inside: str = "") -> Scan:
    name = f"{inside}{scan.name}"
    limits.permit(name, *[max(scan.pixels.shape[1:])] * 2)  # the square that a network's picture is cut from
    try:
        kept = identity.silent(scan.header, header, {"patient_id": scan.patient_id or ""}, [])
    except Exception as error:  # pydicom looks at a value when it is asked for, and raises as many kinds as in `read`
        raise Fault(f"{name}: its header cannot be read ({type(error).__name__}); export it again") from error
    return replace(scan, header=kept)


def _inside(upload: Upload) -> list[str]:
    """The names in an archive; none of another file."""
    if not archive.is_archive(upload.content):
        return []
    with zipfile.ZipFile(io.BytesIO(upload.content)) as packed:  # its scans were read, so it is sound
        return packed.namelist()
