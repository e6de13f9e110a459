"""The scans of one case, opened for an answer; what is kept of them does not repeat whose they are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import archive, describe, identity, read
from data.record import Scan
from data.series import series
from lineage.fault import Fault


@dataclass(frozen=True)
class Upload:
    """One file as it came: the name it had and its bytes."""

    name: str
    content: bytes


def scans(uploads: Sequence[Upload]) -> list[Scan]:
    """The scans of one case: a DICOM series is put in order by its geometry, other files keep theirs.

    Free texts of a header that repeat the patient's, the staff's or the institution's name in it are emptied: the
    answer, its reasons and the journal quote them.
    """
    if not uploads:
        raise Fault("no file was sent: send at least one scan as `files`")
    found = [_scan(upload) for upload in uploads]
    first = found[0]
    for scan in found[1:]:
        if scan.patient_id != first.patient_id:
            raise Fault(f"{scan.name} and {first.name} are of different patients; send one case at a time")
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
            yield _silent(*read.member(upload.name, inside, part))

    return read.assemble(upload.name, members())


def _silent(scan: Scan, header: Any) -> Scan:
    row = {"patient_id": scan.patient_id or ""}
    return replace(scan, header=identity.silent(scan.header, header, row, []))


def _inside(upload: Upload) -> list[str]:
    """The names in an archive; none of another file."""
    if not archive.is_archive(upload.content):
        return []
    with zipfile.ZipFile(io.BytesIO(upload.content)) as packed:  # its scans were read, so it is sound
        return packed.namelist()
