"""Examine one scan of a batch in a single pass: read, hash, de-identify, describe and store it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from blake3 import blake3
from numpy.typing import NDArray

from data import identifiers
from data.batch import lesion_grid, metadata_table, pixel_cache
from data.core_types import SOURCE_COLUMNS, Scan, Task
from data.deidentify import burned_in_text, deidentify_file, pseudonyms
from data.patients import contradictions
from data.scan import preprocess, read, slice_features, zip_archive
from data.scan.hounsfield import convert_to_task_units
from data.scan.thumbnail import thumbnail
from data.settings import Disagreement
from lineage import fingerprint, site_hash
from lineage.errors import Fault

MAX_FILE = 2**30  # bytes of one file, or of the files of one folder
METADATA_COLUMNS = ("task", "label", "truth", "site", "labeller", "labelled_at", "stage")  # copied to the manifest

Row = Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """One scan to examine: the file or folder `file_name` below `source`, and its rows of metadata.

    `row` is the number of the first row; the heading is row 1. The de-identified copy is stored in `target`/scans.
    """

    source: Path
    file_name: str
    row: int
    rows: list[dict[str, str]]
    target: Path
    task: Task
    disagreement: Disagreement


@dataclass(frozen=True)
class ExaminedScan:
    """The result for one scan: its hash, its units (or the reason of refusal), its de-identified copy and its pixels.

    A unit's `outline` is its grid of data/batch/lesion_grid.py, None without a mask. `cached_pixels` is the network
    input of the units. `mask_values` are the values in its masks, by the name of the mask in messages. `left_out` are
    the files of the series that are none of its slices, each with the reason.
    """

    file_name: str
    sha256: str
    units: list[dict[str, Any]]
    stored_path: Path | None
    cached_pixels: pixel_cache.Part | None
    refusal: str
    mask_values: Mapping[str, frozenset[float]] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()


def examine_scan(job: Job) -> ExaminedScan:
    """Examine one scan in a single pass: a file, an archive, or a folder of one series.

    Any defect of the scan becomes its refusal. Raises OSError only if the copy cannot be written. Messages name the
    row and not the file, because file names can contain patient names.
    """
    path, name, sha256 = job.source / job.file_name, f"row {job.row}", ""
    try:
        files, sha256 = _read_files(path)
        parts = {name if len(files) == 1 else f"file {at}": content for at, content in enumerate(files.values(), 1)}
        scan, slice_files = _read_scan(name, parts)
        scan = convert_to_task_units(scan, job.task.modality)
        row_by_slice = _rows_by_slice(job.rows, scan, job.disagreement)
        first_row = row_by_slice[min(row_by_slice)]
        header_people = [_header_people(name, header) for name, _, header in slice_files]
        scan = replace(
            scan, header=identifiers.redact_facts(scan.header, header_people[0], first_row, [job.file_name, *files])
        )
        ending, copy = _deidentified_copy(
            slice_files,
            header_people,
            first_row,
            [job.file_name, *files],
            identifiers.free_text_cells(row_by_slice.values()),
        )
        facts = {"sha256": sha256, "stored_sha256": hashlib.sha256(copy).hexdigest()}
        facts |= pseudonyms.identity_columns(first_row, scan, sha256) | burned_in_text.burned_in_fact(scan)
        facts |= contradictions.keyed(contradictions.signs(first_row["patient_id"], scan.identity, first_row["group"]))
        facts |= _source_hashes(scan)
        grids, mask_values = _lesion_grids(job, scan, row_by_slice)
        slice_units = [_describe_unit(scan, number, row, job.task) for number, row in sorted(row_by_slice.items())]
    except (Fault, OSError) as error:
        reason = str(error) if isinstance(error, Fault) else f"cannot be read ({error.strerror})"
        return ExaminedScan(job.file_name, sha256, [], None, None, reason.removeprefix(f"{name}: "))
    stored_path = _store_copy(job.target / "scans", sha256, ending, copy)
    cached_pixels = pixel_cache.store_part(job.target, [pixels for _, pixels in slice_units])
    units = [unit | facts | _outline_facts(grids.get(unit["slice"])) for unit, _ in slice_units]
    left_out = tuple((f"{file}, sha256 {_short_hash(parts[file])}", reason) for file, reason in scan.left_out)
    return ExaminedScan(job.file_name, sha256, units, stored_path, cached_pixels, "", mask_values, left_out)


def scan_sha256(path: Path) -> str:
    """SHA-256 of a file.

    For a folder of one series: the hash of the sorted hashes of its files, without their names.
    """
    if not path.is_dir():
        return fingerprint.file_sha256(path)
    return _joint_hash(fingerprint.file_sha256(file) for file in _series_files(path))


def embedding_text(unit_pixels: NDArray[np.float32]) -> str:
    """The descriptor vector of one slice (size × size × 1 in [0, 1]) as text: base64 of 32 half-precision numbers."""
    return base64.b64encode(slice_features.embed(unit_pixels).astype("<f2").tobytes()).decode()


def pixels_blake3(picture: NDArray[np.float32]) -> str:
    """BLAKE3 of the shape and the decoded pixels of one slice (rows × columns, contiguous), for any file format."""
    value = blake3(repr(picture.shape).encode())
    value.update(picture.data.cast("B"))
    return value.hexdigest()


def _read_files(path: Path) -> tuple[dict[str, bytes], str]:
    """The contents of the files of a scan, by name, and the hash of the scan."""
    paths = _series_files(path) if path.is_dir() else [path]
    if sum(file.stat().st_size for file in paths) > MAX_FILE:
        raise Fault(f"larger than {MAX_FILE // 2**20} MiB; divide it")
    contents = {file.name: file.read_bytes() for file in paths}
    if path.is_dir():
        return contents, _joint_hash(hashlib.sha256(content).hexdigest() for content in contents.values())
    sha256 = hashlib.sha256(contents[path.name]).hexdigest()
    if zip_archive.is_archive(contents[path.name]):
        return _archive_members(path.name, contents[path.name]), sha256
    return contents, sha256


def _archive_members(name: str, content: bytes) -> dict[str, bytes]:
    """The files of an archive, by name. Error messages leave out the names that the archive contains."""
    try:
        return dict(zip_archive.read_members(name, content))
    except Fault as fault:
        raise Fault(identifiers.remove_quoted_words(str(fault).removeprefix(f"{name}: "), content)) from None


def _series_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not zip_archive.is_system_file(path.name))


def _joint_hash(hashes: Iterator[str]) -> str:
    return fingerprint.text_sha256("\n".join(sorted(hashes)))


def _read_scan(name: str, parts: dict[str, bytes]) -> tuple[Scan, list[tuple[str, bytes, Any]]]:
    """The scan; and for each file of a slice its name, its bytes and its parsed DICOM header."""
    slice_files: list[tuple[str, bytes, Any]] = []

    def read_scans() -> Iterator[Scan]:
        for member, content in parts.items():
            scan, header = (
                read.read_with_header(name, content) if member == name else read.read_member(name, member, content)
            )
            slice_files.append((scan.name, content, header))
            yield scan

    scan = read.assemble_scan(name, read_scans())
    left_out = {file for file, _ in scan.left_out}
    return scan, [slice_file for slice_file in slice_files if slice_file[0] not in left_out]


def _header_people(name: str, header: Any) -> identifiers.People:
    """The people that a header names. Fault if its values cannot be read."""
    try:
        return identifiers.find_people(header)
    except Exception as error:  # pydicom parses values on access and raises many types of exception, as in `read`
        raise Fault(f"{name}: its header cannot be read ({type(error).__name__}); export it again") from error


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _deidentified_copy(
    slice_files: list[tuple[str, bytes, Any]],
    header_people: list[identifiers.People],
    row: Row,
    names: list[str],
    cells: Mapping[str, str],
) -> tuple[str, bytes]:
    """Suffix and bytes of the de-identified copy: one file, or an archive whose members are named by their content."""
    copies = [
        deidentify_file.deidentify_file(name, content, row, header, names, cells, file_people)
        for (name, content, header), file_people in zip(slice_files, header_people, strict=True)
    ]
    if len(copies) == 1:
        return copies[0]
    return ".zip", zip_archive.pack_files(
        {hashlib.sha256(copy).hexdigest()[:16] + ending: copy for ending, copy in copies}
    )


def _rows_by_slice(rows: list[dict[str, str]], scan: Scan, disagreement: Disagreement) -> dict[int, dict[str, str]]:
    """The metadata row of each slice, by its position. A row without `slice` applies to all slices."""
    for name in ("patient_id", "group"):
        values = {row[name] for row in rows}
        if len(values) > 1:
            raise Fault(
                f"its rows in {metadata_table.NAME} have {len(values)} different values of {name}; correct them"
            )
    if not (rows[0]["patient_id"] or rows[0]["group"]):
        raise Fault(f"its row in {metadata_table.NAME} has neither patient_id nor group, so its patient is unknown")
    readings_by_slice: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        readings_by_slice.setdefault(row["slice"], []).append(row)
    row_by_slice: dict[int, dict[str, str]] = {}
    for text, readings in sorted(readings_by_slice.items()):
        chosen_row = (
            readings[0] if len(readings) == 1 else metadata_table.resolve_readings(pd.DataFrame(readings), disagreement)
        )
        for number in _slice_positions(text, scan):
            if number in row_by_slice:
                raise Fault(
                    f"its rows in {metadata_table.NAME} give a slice twice, or some give "
                    "a slice and others none; correct them"
                )
            row_by_slice[number] = chosen_row
    return row_by_slice


def _slice_positions(text: str, scan: Scan) -> range:
    """The positions of the slices that a row applies to. The row counts slices in the order of the file."""
    slice_count = len(scan.pixels)
    if not text:
        return range(slice_count)
    if not text.isdecimal() or int(text) >= slice_count:
        raise Fault(f"the slice of its row is not one of its {slice_count}, counted from 0")
    position = scan.order.index(int(text)) if scan.order else int(text)
    return range(position, position + 1)


def _describe_unit(scan: Scan, number: int, row: Row, task: Task) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The facts of one slice, and its network input.

    The facts are its metadata, its measurements, and its two signatures: pixel hash and embedding.
    """
    picture = np.ascontiguousarray(scan.pixels[number])
    pixels = preprocess.unit_pixels(picture, scan.units, task.pixels)
    labels = {name: row[name] for name in METADATA_COLUMNS}
    labels |= {
        "label": pseudonyms.known_term(row["label"], task.classes),
        "truth": pseudonyms.known_term(row["truth"], (*metadata_table.TRUTHS, "")),
    }
    facts = {
        "slice": number,
        "lesion_mm": pseudonyms.parse_number(row["lesion_mm"], "lesion_mm"),
        "pixels_blake3": pixels_blake3(picture),
        "embedding": embedding_text(pixels),
        "thumbnail": thumbnail(pixels),
    }
    return labels | slice_features.describe(picture, scan) | facts, pixels


def _lesion_grids(
    job: Job, scan: Scan, row_by_slice: Mapping[int, Row]
) -> tuple[dict[int, lesion_grid.Grid], dict[str, frozenset[float]]]:
    """The lesion grid of each slice whose row names a mask, and the values of the masks by their names in messages.

    Every mask is read once. The values are empty where a row gives the lesion value. Fault if a mask cannot be used.
    """
    masks: dict[tuple[str, str], lesion_grid.LesionMask] = {}
    for row in row_by_slice.values():
        key = (row["mask"], row["lesion_value"])
        if row["mask"] and key not in masks:
            path, mask_name = job.source / row["mask"], f"the mask of row {job.row}"
            if path.stat().st_size > MAX_FILE:
                raise Fault(f"{mask_name} is larger than {MAX_FILE // 2**20} MiB; divide it")
            masks[key] = lesion_grid.read_lesion_mask(
                mask_name, path.read_bytes(), scan, lesion_grid.lesion_values(row["lesion_value"])
            )
    grids = {
        number: lesion_grid.lesion_shares(masks[row["mask"], row["lesion_value"]].lesion[number])
        for number, row in row_by_slice.items()
        if row["mask"]
    }
    return grids, {f"the mask of row {job.row}": frozenset().union(*(mask.values for mask in masks.values()))}


def _source_hashes(scan: Scan) -> dict[str, str]:
    institution, scanner = scan.identity.institution, scan.scanner
    values = site_hash.hash_site(institution), site_hash.hash_scanner(scanner)
    return dict(zip(SOURCE_COLUMNS, values, strict=True))


def _outline_facts(grid: lesion_grid.Grid | None) -> dict[str, Any]:
    """The outline of a unit, and whether it contains a lesion ("" without a mask)."""
    return {"outline": grid, "outlined": "" if grid is None else "yes" if grid.any() else "no"}


def _store_copy(scans: Path, sha256: str, ending: str, content: bytes) -> Path:
    """Write a de-identified copy under a unique temporary name; `index_batch` renames it."""
    path = scans / f"{sha256[:16]}-{os.urandom(4).hex()}{ending}"
    path.write_bytes(content)
    return path


def suffix(name: str) -> str:
    """The part of a file name from its first dot: `.nii.gz` of `a.nii.gz`."""
    _, dot, rest = name.partition(".")
    return dot + rest
