"""Recheck of patients in admitted batches: find mixed patients by stored copies and manifests."""

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

MIXED = "files without a common series UID were joined into one scan: they may be of several patients"


def mixed_patients(batches: Path) -> dict[str, dict[str, list[str]]]:
    """For each batch below `batches` (the folder of a task): the units whose patient is doubtful, with the reasons.

    It changes nothing. For manifests without identity signs, the signs of the UIDs are read from the stored copies,
    where each original UID has one replacement. A missing stored copy gives no signs.
    """
    manifests = {path.parent.name: read_manifest(path) for path in sorted(batches.glob("*/manifest.csv"))}
    doubtful: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    tables = []
    for name, manifest in manifests.items():
        signs_by_file = {str(file): _copy_signs(batches / name / str(file)) for file in manifest["file"].unique()}
        for unit, file in zip(manifest["unit_id"], manifest["file"], strict=True):
            if signs_by_file[file].get("mixed"):
                doubtful[name].setdefault(unit, []).append(MIXED)
        signs = manifest.reindex(columns=list(contradictions.SIGNS)).fillna("")
        for sign in contradictions.UNIQUE:
            copies = manifest["file"].map(
                {file: copy_signs.get(sign, "") for file, copy_signs in signs_by_file.items()}
            )
            signs[sign] = signs[sign].where(signs[sign] != "", copies)
        tables.append(manifest[["unit_id", "sha256", "patient", "cluster"]].assign(batch=name, **signs))
    if not tables:
        return {}
    units = pd.concat(tables, ignore_index=True)
    batch_by_unit = dict(zip(units["unit_id"], units["batch"], strict=True))
    for unit, reasons in contradictions.check_identities(units).failing.items():
        doubtful[batch_by_unit[unit]].setdefault(unit, []).extend(reasons)
    return dict(doubtful)


def _copy_signs(path: Path) -> dict[str, str]:
    """The signs of a de-identified copy. For a series: those of its first file, and "mixed" if its files differ."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    try:
        if not zip_archive.is_archive(content):
            return _header_signs(content)
        signs = [_header_signs(part) for _, part in zip_archive.read_members(path.name, content)]
    except Fault:
        return {}
    series = {sign.get("header_series", "") for sign in signs}
    return signs[0] | ({"mixed": "yes"} if len(signs) > 1 and (len(series) > 1 or "" in series) else {})


def _header_signs(content: bytes) -> dict[str, str]:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header: Any = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    except InvalidDicomError:
        return {}  # a picture or a NIfTI volume
    return contradictions.stored_signs(header)
