"""Admitted batches looked at again: which patients the stored copies and manifests show to be mixed."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch.manifest import read_manifest
from data.patients import contradictions
from data.scan import zip_archive
from lineage.errors import Fault

MIXED = "files without a common series UID were put together: they may be of several patients"


def mixed_patients(batches: Path) -> dict[str, dict[str, list[str]]]:
    """Of each batch below `batches` (a task's folder) the units whose patient is in doubt, with the reasons.

    Nothing is changed. For manifests that have no signs of the DICOM headers yet, those of the UIDs are read from the
    stored copies, which keep one new UID for each old one. A stored copy that is gone says nothing.
    """
    manifests = {path.parent.name: read_manifest(path) for path in sorted(batches.glob("*/manifest.csv"))}
    found: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    tables = []
    for name, manifest in manifests.items():
        stored = {str(file): _stored(batches / name / str(file)) for file in manifest["file"].unique()}
        for unit, file in zip(manifest["unit_id"], manifest["file"], strict=True):
            if stored[file].get("mixed"):
                found[name].setdefault(unit, []).append(MIXED)
        signs = manifest.reindex(columns=list(contradictions.SIGNS)).fillna("")
        for sign in contradictions.UNIQUE:
            copies = manifest["file"].map({file: told.get(sign, "") for file, told in stored.items()})
            signs[sign] = signs[sign].where(signs[sign] != "", copies)
        tables.append(manifest[["unit_id", "sha256", "patient", "cluster"]].assign(batch=name, **signs))
    if not tables:
        return {}
    units = pd.concat(tables, ignore_index=True)
    batch_of = dict(zip(units["unit_id"], units["batch"], strict=True))
    for unit, reasons in contradictions.check(units).failing.items():
        found[batch_of[unit]].setdefault(unit, []).extend(reasons)
    return dict(found)


def _stored(path: Path) -> dict[str, str]:
    """The signs of a de-identified copy; of a series those of its first file, and "mixed" where its files differ."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    try:
        if not zip_archive.is_archive(content):
            return _signs(content)
        signs = [_signs(part) for _, part in zip_archive.members(path.name, content)]
    except Fault:
        return {}
    series = {sign.get("header_series", "") for sign in signs}
    return signs[0] | ({"mixed": "yes"} if len(signs) > 1 and (len(series) > 1 or "" in series) else {})


def _signs(content: bytes) -> dict[str, str]:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header: Any = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    except InvalidDicomError:
        return {}  # a picture or a NIfTI volume
    return contradictions.stored_signs(header)
