"""Mixed patients in old batches, admitted before headers were compared, are found by the stored copies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from data.batch.manifest import index_batch
from data.patients.contradictions import SIGNS
from data.quality.admitted_patients import MIXED, mixed_patients
from data.record import Task
from data.scan import zip_archive

Rows = list[dict[str, str]]


def make_old(folder: Path) -> Path:
    """Remove the columns that manifests of an older version lack."""
    path = folder / "manifest.csv"
    pd.read_csv(path, dtype=str).drop(columns=list(SIGNS)).to_csv(path, index=False)
    return folder


@pytest.mark.parametrize("is_old", [False, True])
def test_a_shifted_table_is_found_after_admission(
    batch: Path, lung: Task, edit: Callable[[Callable[[Rows], Rows | None]], None], is_old: bool
) -> None:
    batches = batch.parent.parent / "batches"
    index_batch(batch, batches / "sound", lung)
    assert mixed_patients(batches) == {}
    edit(
        lambda rows: [
            row | ({"patient_id": rows[2]["patient_id"]} if index == 1 else {}) for index, row in enumerate(rows)
        ]
    )
    units = index_batch(batch, batches / "sound", lung).manifest["unit_id"]
    if is_old:
        make_old(batches / "sound")
    doubtful = mixed_patients(batches)
    assert list(doubtful) == ["sound"] and set(doubtful["sound"]) == set(units[:4])


def test_a_patient_of_two_batches_is_found(
    batch: Path, lung: Task, edit: Callable[[Callable[[Rows], Rows | None]], None]
) -> None:
    batches = batch.parent.parent / "batches"
    edit(lambda rows: rows[:1])
    index_batch(batch, batches / "first", lung)
    header = pydicom.dcmread(batch / "scan-0000-0.dcm")
    header.PixelData = bytes(reversed(header.PixelData))
    header.save_as(batch / "scan-0000-0.dcm")
    edit(lambda rows: [rows[0] | {"patient_id": "another"}])
    index_batch(batch, batches / "second", lung)
    assert set(mixed_patients(batches)) == {"first", "second"}
    assert set(mixed_patients(make_old(batches / "first").parent)) == {"first", "second"}


def test_a_series_without_a_series_uid_is_found(batch: Path, lung: Task) -> None:
    folder = batch.parent.parent / "batches" / "first"
    manifest = index_batch(batch, folder, lung).manifest
    parts: dict[str, bytes] = {}
    for path in sorted(folder.glob("scans/*.dcm"))[:2]:
        header = pydicom.dcmread(path)
        del header.SeriesInstanceUID
        header.save_as(path)
        parts[path.name] = path.read_bytes()
    archive = zip_archive.pack_files(parts)
    name = f"scans/{hashlib.sha256(archive).hexdigest()[:16]}.zip"
    (folder / name).write_bytes(archive)
    make_old(folder)
    unit = manifest["unit_id"].iloc[0]
    table = pd.read_csv(folder / "manifest.csv", dtype=str)
    table.loc[0, "file"] = name
    table.to_csv(folder / "manifest.csv", index=False)
    assert mixed_patients(folder.parent)["first"][unit][0] == MIXED
