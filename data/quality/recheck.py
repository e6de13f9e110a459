"""Looks again at admitted batches with today's checks: what would be refused, lies wrongly, or is read otherwise."""

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
from data.deidentify import burned_in_text
from data.parallel import run_parallel
from data.patients import contradictions
from data.record import HeaderIdentity, Scan, Task
from data.scan import geometry, read, slice_features, slice_rules, zip_archive
from data.scan.dicom.header_identity import of_header
from data.scan.hounsfield import in_units_of
from lineage.errors import Fault

MANIFEST = "manifest.csv"
MARK = "header_study"  # a column of manifests since masks are laid by affine and headers are compared


@dataclass(frozen=True)
class Finding:
    """What is wrong with units of an admitted file. `harm`: labels, outlines, patients or pixels are wrong, or a name
    may show; otherwise it is a hint to look, which nothing stored can settle."""

    batch: str
    file: str
    units: tuple[str, ...]
    reason: str
    harm: bool = True


@dataclass(frozen=True)
class Source:
    """What the folder of the inbox still tells of a scan: the file, the table's id of its patient, and its masks by
    slice ("" for all) with the values that are the lesion."""

    path: Path
    called: str
    masks: Mapping[str, tuple[Path, str]]


@dataclass(frozen=True)
class Job:
    """A stored file of a batch with its rows of the manifest; `before` says that the batch is older than MARK.

    `source` is None where the inbox no longer has the very file.
    """

    batch: str
    folder: Path
    file: str
    rows: tuple[Mapping[str, Any], ...]
    outlines: Mapping[str, lesion_grid.Grid]
    before: bool
    task: Task
    source: Source | None


@dataclass(frozen=True)
class Looked:
    """What was found in a file, and the signs of a person that its headers still show."""

    findings: tuple[Finding, ...]
    signs: Mapping[str, str]


def recheck(batches: Mapping[str, tuple[Path, Task]], inbox: Path, workers: int = 2) -> list[Finding]:
    """Every finding in these batches: name -> (folder, task). Nothing is written.

    Stored scans are read anew, in full, by the code of today. What the stored copies no longer hold can't be looked at:
    names of the originals' headers, and masks, unless the batch still lies in `inbox`.
    """
    tables = {name: _manifest(folder) for name, (folder, _) in batches.items()}
    jobs = [
        job
        for name, (folder, task) in batches.items()
        for job in _jobs(name, folder, task, inbox / folder.name, *tables[name])
    ]
    looked = run_parallel(look, jobs, workers)
    found = [
        _table(name, inbox / folder.name, tables[name][0]) for name, (folder, _) in batches.items() if tables[name][1]
    ]
    found = [finding for finding in found if finding.reason] + [one for each in looked for one in each.findings]
    signs = {(job.batch, job.file): one.signs for job, one in zip(jobs, looked, strict=True)}
    return found + _people({name: table for name, (table, _) in tables.items()}, signs)


def look(job: Job) -> Looked:
    """One stored file through today's reading, rules and geometry."""
    everyone = tuple(str(row["unit_id"]) for row in job.rows)

    def finding(reason: str, units: Iterable[str] = everyone, harm: bool = True) -> Finding:
        return Finding(job.batch, job.file, tuple(units), reason, harm)

    try:
        content = (job.folder / job.file).read_bytes()
    except OSError as error:
        return Looked((finding(f"can't be read ({error.strerror}); `oncoloop verify --repair` may bring it back"),), {})
    signs = _signs(job, content) if job.before else {}
    try:
        scan = in_units_of(read.read("the stored scan", content), job.task.modality)
    except Fault as fault:
        return Looked((finding(f"is refused today: {str(fault).removeprefix('the stored scan: ')}"),), signs)
    found = []
    if scan.left_out:
        found.append(finding(f"{len(scan.left_out)} of its files are no slices of it: {scan.left_out[0][1]}"))
    if scan.hides:
        found.append(finding("the stored copy holds bits that no picture shows, in which a name may be written"))
    found += _outlines(job, scan, finding)
    asked = slice_rules.scan_rules(
        job.task.modality, job.task.body_parts, job.task.pixels.window, job.task.field_of_view
    )
    reasons: dict[tuple[str, bool], list[str]] = {}
    for row in job.rows:
        for reason in _unit(scan, row, [rule for rule in asked if rule.error]):
            reasons.setdefault(reason, []).append(str(row["unit_id"]))
    return Looked((*found, *(finding(text, units, harm) for (text, harm), units in reasons.items())), signs)


def _manifest(folder: Path) -> tuple[pd.DataFrame, bool]:
    """A batch's manifest, and whether it is older than MARK."""
    columns = pd.read_csv(folder / MANIFEST, nrows=0).columns
    return batch_manifest.read_manifest(folder / MANIFEST), MARK not in columns


def _table(name: str, source: Path, manifest: pd.DataFrame) -> Finding:
    """What today's reading says against a batch's metadata.csv, where the inbox still has it; no reason if nothing."""
    reason = ""
    try:
        if (source / metadata_table.NAME).is_file():
            batch_manifest.metadata(source)
    except Fault as fault:
        reason = f"is refused today: {fault}"
    return Finding(name, metadata_table.NAME, tuple(manifest["unit_id"].astype(str)), reason)


def _jobs(name: str, folder: Path, task: Task, inbox: Path, table: pd.DataFrame, before: bool) -> list[Job]:
    grids = lesion_grid.read_grids(folder / lesion_grid.NAME)
    sources = _sources(inbox, set(table["sha256"])) if before else {}
    columns, jobs = ["unit_id", "slice", "pixels_blake3"], []
    for (file, sha256), rows in table.groupby(["file", "sha256"], sort=False):
        units = tuple({str(key): value for key, value in row.items()} for row in rows[columns].to_dict("records"))
        own = {str(row["unit_id"]): grids[str(row["unit_id"])] for row in units if row["unit_id"] in grids}
        jobs.append(Job(name, folder, str(file), units, own, before, task, sources.get(str(sha256))))
    return jobs


def _sources(inbox: Path, wanted: set[str]) -> dict[str, Source]:
    """What the inbox still has of a batch, by the hash of the scan; nothing where its table can't be read today."""
    try:
        rows = batch_manifest.metadata(inbox).to_dict("records") if (inbox / metadata_table.NAME).is_file() else []
        hashes = {name: scan_sha256(inbox / name) for name in {str(row["file_name"]) for row in rows}}
    except (Fault, OSError):
        return {}  # `_table` says so, or the files are no longer there
    found: dict[str, Source] = {}
    for row in rows:
        name, sha256 = str(row["file_name"]), hashes[str(row["file_name"])]
        if sha256 in wanted:
            told = found.get(sha256, Source(inbox / name, str(row["patient_id"] or row["group"]), {}))
            mask = {str(row["slice"]): (inbox / str(row["mask"]), str(row["lesion_value"]))} if row["mask"] else {}
            found[sha256] = replace(told, masks={**told.masks, **mask})
    return found


def _outlines(job: Job, scan: Scan, finding: Any) -> list[Finding]:
    """Outlines of before lie by the order of rows, columns and slices; today's by affine."""
    if not job.before or not job.outlines:
        return []
    if job.source and job.source.masks:
        return _compared(job, job.source.masks, scan, finding)
    if doubt := geometry.outline_doubt(scan):
        return [finding(f"its outline may lie beside the lesion: {doubt}", job.outlines)]
    if doubt := geometry.slice_doubt(scan):
        return [
            finding(
                f"outlines and labels may be those of other slices, should the mask run the other way: {doubt}",
                job.outlines,
                False,
            )
        ]
    return []


def _compared(job: Job, masks: Mapping[str, tuple[Path, str]], scan: Scan, finding: Any) -> list[Finding]:
    """The stored outlines beside those that the masks of the source give today."""
    wrong = []
    for row in job.rows:
        unit, number = str(row["unit_id"]), int(row["slice"])
        path, values = masks.get(str(number)) or masks.get("") or (None, "")
        if path is None or unit not in job.outlines or number >= len(scan.pixels):
            continue
        try:
            mask = lesion_grid.drawn("its mask", path.read_bytes(), scan, lesion_grid.lesion_values(values))
        except Fault as fault:
            if fault.__cause__ is None:  # of its values, not of its grid
                return [finding(f"is refused today: {fault}", job.outlines)]
            return [
                finding(
                    "its mask lies on another grid by its affine: nobody can say whether its outline is right",
                    job.outlines,
                    False,
                )
            ]
        if not np.array_equal(lesion_grid.lesion_shares(mask.lesion[number]), job.outlines[unit]):
            wrong.append(unit)
    return (
        [finding("its outline lies beside the lesion: by its affine the mask lies elsewhere", wrong)] if wrong else []
    )


def _unit(scan: Scan, row: Mapping[str, Any], asked: list[slice_rules.Rule]) -> list[tuple[str, bool]]:
    """The reasons against one slice, each with whether it is harm."""
    number = int(row["slice"])
    if number >= len(scan.pixels):
        return [("its slice is no longer one of the scan's", True)]
    picture = np.ascontiguousarray(scan.pixels[number])
    facts = slice_features.describe(picture, scan) | burned_in_text.facts(scan)
    found = [(f"is refused today: {asked[at].meaning}", True) for at in slice_rules.failures(facts, asked)]
    if pixels_blake3(picture) == row["pixels_blake3"]:
        return found
    if pixels_blake3(_as_stored(scan, number)) == row["pixels_blake3"]:
        return [*found, ("its slices are turned as a radiologist hangs them, and were not then: train again", False)]
    return [*found, ("its pixels are read otherwise today: what learned from them saw another picture", True)]


def _as_stored(scan: Scan, number: int) -> NDArray[np.float32]:
    """A slice of a volume as it was read before slices were turned (geometry.Turn.planes, undone)."""
    turn = geometry.turn(scan.directions) if scan.header.get("format") == "nifti" else geometry.Turn()
    picture = scan.pixels[number][:: -1 if turn.rows else 1, :: -1 if turn.columns else 1]
    return np.ascontiguousarray(picture.T if turn.exchanged else picture)


def _signs(job: Job, content: bytes) -> Mapping[str, str]:
    """The signs of a person in the first header of a DICOM scan: of its source, else what the stored copy still shows.

    None of another format, nor of what can't be read, which `look` names.
    """
    try:
        if job.source is None:
            header = _header(job.file, content)
            return contradictions.stored_signs(header) if header is not None else {}
        header = _header(job.file, _first(job.source.path))
        identity = of_header(header) if header is not None else HeaderIdentity()
        return contradictions.keyed(contradictions.signs(job.source.called, identity))
    except (Fault, OSError):
        return {}


def _first(path: Path) -> bytes:
    """The bytes of a file, or of the first file of a folder of one series."""
    files = sorted(file for file in path.iterdir() if not zip_archive.hidden(file.name)) if path.is_dir() else [path]
    return files[0].read_bytes()


def _header(name: str, content: bytes) -> Any:
    """The DICOM header of a file or of the first file of an archive; None of another format."""
    first = next(zip_archive.members(name, content))[1] if zip_archive.is_archive(content) else content
    return read.dataset(name, first) if read.kind_of(name, first) == "dicom" else None


def _people(tables: Mapping[str, pd.DataFrame], signs: Mapping[tuple[str, str], Mapping[str, str]]) -> list[Finding]:
    """Patients that the headers of all batches together contradict: two people in one, or one in two."""
    units = [table.assign(batch=name) for name, table in tables.items() if len(table)]
    if not units:
        return []
    table = pd.concat(units, ignore_index=True)
    for sign in contradictions.SIGNS:
        files = zip(table["batch"].astype(str), table["file"].astype(str), strict=True)
        shown = [signs.get(place, {}).get(sign, "") for place in files]
        table[sign] = table[sign].where(table[sign] != "", pd.Series(shown, table.index))
    names = [f"{batch} {unit}" for batch, unit in zip(table["batch"], table["unit_id"], strict=True)]
    places = dict(zip(names, table[["batch", "file", "unit_id"]].itertuples(index=False), strict=True))
    failing = contradictions.check(table.assign(unit_id=names)).failing
    return [
        Finding(str(places[name].batch), str(places[name].file), (str(places[name].unit_id),), reason)
        for name, reasons in failing.items()
        for reason in reasons
    ]
