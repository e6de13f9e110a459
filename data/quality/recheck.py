"""Recheck admitted batches with the current code: find refused units, misplaced outlines and changed pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.batch import lesion_grid, metadata_table
from data.batch import manifest as batch_manifest
from data.batch.examine_scan import pixels_blake3, scan_sha256
from data.core_types import HeaderIdentity, Scan, Task
from data.deidentify import burned_in_text
from data.parallel import run_parallel
from data.patients import contradictions
from data.scan import geometry, read, slice_features, slice_rules, zip_archive
from data.scan.dicom.header_identity import read_identity
from data.scan.hounsfield import convert_to_task_units
from lineage.errors import Fault

MANIFEST = "manifest.csv"
NEW_COLUMN = "header_study"  # manifests have it since masks are placed by affine and headers are compared


@dataclass(frozen=True)
class RecheckFinding:
    """A defect of units of an admitted file.

    `harm`: labels, outlines, patients or pixels are wrong, or a name can be visible. Otherwise the finding is a hint
    that the stored data can neither confirm nor exclude.
    """

    batch: str
    file: str
    units: tuple[str, ...]
    reason: str
    harm: bool = True


@dataclass(frozen=True)
class Source:
    """The original of a scan in the inbox: its file, the patient id in the table, and its masks.

    `masks` has, by slice ("" for all), the file of the mask and its lesion values.
    """

    path: Path
    patient_id: str
    masks: Mapping[str, tuple[Path, str]]


@dataclass(frozen=True)
class Job:
    """A stored file of a batch with its manifest rows. `is_old`: the manifest is older than NEW_COLUMN.

    `source` is None if the inbox no longer has the original file.
    """

    batch: str
    folder: Path
    file: str
    rows: tuple[Mapping[str, Any], ...]
    outlines: Mapping[str, lesion_grid.Grid]
    is_old: bool
    task: Task
    source: Source | None


@dataclass(frozen=True)
class FileResult:
    """The findings in a file, and the identity signs in its headers."""

    findings: tuple[RecheckFinding, ...]
    signs: Mapping[str, str]


def recheck(batches: Mapping[str, tuple[Path, Task]], inbox: Path, workers: int = 2) -> list[RecheckFinding]:
    """All findings in these batches: name -> (folder, task). Writes nothing.

    Stored scans are read again with the current code. Original headers and masks can only be checked if the batch is
    still in `inbox`, because the stored copies do not have them.
    """
    tables = {name: _read_manifest(folder) for name, (folder, _) in batches.items()}
    jobs = [
        job
        for name, (folder, task) in batches.items()
        for job in _file_jobs(name, folder, task, inbox / folder.name, *tables[name])
    ]
    results = run_parallel(recheck_file, jobs, workers)
    table_findings = [
        _check_table(name, inbox / folder.name, tables[name][0])
        for name, (folder, _) in batches.items()
        if tables[name][1]
    ]
    table_findings = [finding for finding in table_findings if finding.reason] + [
        result for file_result in results for result in file_result.findings
    ]
    signs = {(job.batch, job.file): result.signs for job, result in zip(jobs, results, strict=True)}
    return table_findings + _check_patients({name: table for name, (table, _) in tables.items()}, signs)


def recheck_file(job: Job) -> FileResult:
    """Check one stored file with the current reader, rules and geometry."""
    unit_ids = tuple(str(row["unit_id"]) for row in job.rows)

    def finding(reason: str, units: Iterable[str] = unit_ids, harm: bool = True) -> RecheckFinding:
        return RecheckFinding(job.batch, job.file, tuple(units), reason, harm)

    try:
        content = (job.folder / job.file).read_bytes()
    except OSError as error:
        return FileResult(
            (finding(f"can't be read ({error.strerror}); `oncoloop verify --repair` may bring it back"),), {}
        )
    signs = _identity_signs(job, content) if job.is_old else {}
    try:
        scan = convert_to_task_units(read.read_scan("the stored scan", content), job.task.modality)
    except Fault as fault:
        return FileResult((finding(f"would be refused now: {str(fault).removeprefix('the stored scan: ')}"),), signs)
    findings = []
    if scan.left_out:
        findings.append(finding(f"{len(scan.left_out)} of its files are no slices of it: {scan.left_out[0][1]}"))
    if scan.hides:
        findings.append(finding("the stored copy has bits outside of its picture, which can contain a name"))
    findings += _check_outlines(job, scan, finding)
    scan_rules = slice_rules.scan_rules(
        job.task.modality, job.task.body_parts, job.task.pixels.window, job.task.field_of_view
    )
    reasons: dict[tuple[str, bool], list[str]] = {}
    for row in job.rows:
        for reason in _check_unit(scan, row, [rule for rule in scan_rules if rule.error]):
            reasons.setdefault(reason, []).append(str(row["unit_id"]))
    return FileResult((*findings, *(finding(text, units, harm) for (text, harm), units in reasons.items())), signs)


def _read_manifest(folder: Path) -> tuple[pd.DataFrame, bool]:
    """The manifest of a batch, and whether it is older than NEW_COLUMN."""
    columns = pd.read_csv(folder / MANIFEST, nrows=0).columns
    return batch_manifest.read_manifest(folder / MANIFEST), NEW_COLUMN not in columns


def _check_table(name: str, source: Path, manifest: pd.DataFrame) -> RecheckFinding:
    """A finding for a metadata.csv in the inbox that the current code refuses; its reason is empty if there is none."""
    reason = ""
    try:
        if (source / metadata_table.NAME).is_file():
            batch_manifest.read_metadata(source)
    except Fault as fault:
        reason = f"would be refused now: {fault}"
    return RecheckFinding(name, metadata_table.NAME, tuple(manifest["unit_id"].astype(str)), reason)


def _file_jobs(name: str, folder: Path, task: Task, inbox: Path, table: pd.DataFrame, is_old: bool) -> list[Job]:
    grids = lesion_grid.read_grids(folder / lesion_grid.NAME)
    sources = _sources(inbox, set(table["sha256"])) if is_old else {}
    columns, jobs = ["unit_id", "slice", "pixels_blake3"], []
    for (file, sha256), rows in table.groupby(["file", "sha256"], sort=False):
        units = tuple({str(key): value for key, value in row.items()} for row in rows[columns].to_dict("records"))
        outlines = {str(row["unit_id"]): grids[str(row["unit_id"])] for row in units if row["unit_id"] in grids}
        jobs.append(Job(name, folder, str(file), units, outlines, is_old, task, sources.get(str(sha256))))
    return jobs


def _sources(inbox: Path, hashes_in_batch: set[str]) -> dict[str, Source]:
    """The originals of a batch in the inbox, by scan hash; empty if its table cannot be read."""
    try:
        rows = batch_manifest.read_metadata(inbox).to_dict("records") if (inbox / metadata_table.NAME).is_file() else []
        hashes = {name: scan_sha256(inbox / name) for name in {str(row["file_name"]) for row in rows}}
    except (Fault, OSError):
        return {}  # `_check_table` reports the table; the files can be gone
    sources: dict[str, Source] = {}
    for row in rows:
        name, sha256 = str(row["file_name"]), hashes[str(row["file_name"])]
        if sha256 in hashes_in_batch:
            source = sources.get(sha256, Source(inbox / name, str(row["patient_id"] or row["group"]), {}))
            mask = {str(row["slice"]): (inbox / str(row["mask"]), str(row["lesion_value"]))} if row["mask"] else {}
            sources[sha256] = replace(source, masks={**source.masks, **mask})
    return sources


def _check_outlines(job: Job, scan: Scan, finding: Any) -> list[RecheckFinding]:
    """Check outlines of old batches, which were placed by the order of rows, columns and slices, not by affine."""
    if not job.is_old or not job.outlines:
        return []
    if job.source and job.source.masks:
        return _compare_outlines(job, job.source.masks, scan, finding)
    if doubt := geometry.outline_doubt(scan):
        return [finding(f"its outline may be misplaced: {doubt}", job.outlines)]
    if doubt := geometry.slice_doubt(scan):
        return [
            finding(
                f"outlines and labels may belong to other slices, if the mask has the opposite slice order: {doubt}",
                job.outlines,
                False,
            )
        ]
    return []


def _compare_outlines(
    job: Job, masks: Mapping[str, tuple[Path, str]], scan: Scan, finding: Any
) -> list[RecheckFinding]:
    """Compare the stored outlines with those of the original masks, read by the current code."""
    misplaced = []
    for row in job.rows:
        unit, number = str(row["unit_id"]), int(row["slice"])
        path, values = masks.get(str(number)) or masks.get("") or (None, "")
        if path is None or unit not in job.outlines or number >= len(scan.pixels):
            continue
        try:
            mask = lesion_grid.read_lesion_mask("its mask", path.read_bytes(), scan, lesion_grid.lesion_values(values))
        except Fault as fault:
            if fault.__cause__ is None:  # the fault is in its values, not in its grid
                return [finding(f"would be refused now: {fault}", job.outlines)]
            return [
                finding(
                    "its mask is on another grid by its affine: its outline cannot be checked",
                    job.outlines,
                    False,
                )
            ]
        if not np.array_equal(lesion_grid.lesion_shares(mask.lesion[number]), job.outlines[unit]):
            misplaced.append(unit)
    return [finding("its outline is misplaced: by its affine the mask is elsewhere", misplaced)] if misplaced else []


def _check_unit(scan: Scan, row: Mapping[str, Any], error_rules: list[slice_rules.Rule]) -> list[tuple[str, bool]]:
    """The reasons against one slice, each with its `harm`."""
    number = int(row["slice"])
    if number >= len(scan.pixels):
        return [("its scan no longer has this slice", True)]
    picture = np.ascontiguousarray(scan.pixels[number])
    facts = slice_features.describe(picture, scan) | burned_in_text.burned_in_fact(scan)
    reasons = [
        (f"would be refused now: {error_rules[index].meaning}", True)
        for index in slice_rules.failed_rules(facts, error_rules)
    ]
    if pixels_blake3(picture) == row["pixels_blake3"]:
        return reasons
    if pixels_blake3(_as_stored(scan, number)) == row["pixels_blake3"]:
        return [
            *reasons,
            ("its slices are now turned to radiological orientation, and were not before: train again", False),
        ]
    return [*reasons, ("its pixels are read differently now: models that learned from them saw another picture", True)]


def _as_stored(scan: Scan, number: int) -> NDArray[np.float32]:
    """A slice of a volume as it was read before slices were turned: the inverse of geometry.Turn.planes."""
    turn = geometry.turn_to_upright(scan.directions) if scan.header.get("format") == "nifti" else geometry.Turn()
    picture = scan.pixels[number][:: -1 if turn.rows else 1, :: -1 if turn.columns else 1]
    return np.ascontiguousarray(picture.T if turn.exchanged else picture)


def _identity_signs(job: Job, content: bytes) -> Mapping[str, str]:
    """The identity signs in the first header of a DICOM scan: of its original, or else of the stored copy.

    Empty for other formats, and for files that cannot be read, which `recheck_file` reports.
    """
    try:
        if job.source is None:
            header = _dicom_header(job.file, content)
            return contradictions.stored_signs(header) if header is not None else {}
        header = _dicom_header(job.file, _first_file(job.source.path))
        identity = read_identity(header) if header is not None else HeaderIdentity()
        return contradictions.keyed(contradictions.signs(job.source.patient_id, identity))
    except (Fault, OSError):
        return {}


def _first_file(path: Path) -> bytes:
    """The bytes of a file, or of the first file of a folder of one series."""
    paths = (
        sorted(file for file in path.iterdir() if not zip_archive.is_system_file(file.name))
        if path.is_dir()
        else [path]
    )
    return paths[0].read_bytes()


def _dicom_header(name: str, content: bytes) -> Any:
    """The DICOM header of a file or of the first file of an archive; None for other formats."""
    first = next(zip_archive.read_members(name, content))[1] if zip_archive.is_archive(content) else content
    return read.dataset(name, first) if read.detect_format(name, first) == "dicom" else None


def _check_patients(
    tables: Mapping[str, pd.DataFrame], signs: Mapping[tuple[str, str], Mapping[str, str]]
) -> list[RecheckFinding]:
    """Findings on patients that contradict the headers of all batches: two people in one patient, or one in two."""
    units = [table.assign(batch=name) for name, table in tables.items() if len(table)]
    if not units:
        return []
    table = pd.concat(units, ignore_index=True)
    for sign in contradictions.SIGNS:
        files = zip(table["batch"].astype(str), table["file"].astype(str), strict=True)
        header_signs = [signs.get(file_key, {}).get(sign, "") for file_key in files]
        table[sign] = table[sign].where(table[sign] != "", pd.Series(header_signs, table.index))
    names = [f"{batch} {unit}" for batch, unit in zip(table["batch"], table["unit_id"], strict=True)]
    row_by_name = dict(zip(names, table[["batch", "file", "unit_id"]].itertuples(index=False), strict=True))
    failing = contradictions.check_identities(table.assign(unit_id=names)).failing
    return [
        RecheckFinding(
            str(row_by_name[name].batch), str(row_by_name[name].file), (str(row_by_name[name].unit_id),), reason
        )
        for name, reasons in failing.items()
        for reason in reasons
    ]
