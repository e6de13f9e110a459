"""One scan of a batch on its way in: read, hashed, de-identified, described and stored in a single pass."""

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
from data.deidentify import burned_in_text, dicom, pseudonyms
from data.patients import contradictions
from data.record import Scan, Task
from data.scan import preprocess, read, slice_features, zip_archive
from data.scan.hounsfield import in_units_of
from data.scan.thumbnail import thumbnail
from data.settings import Disagreement
from lineage import fingerprint
from lineage.errors import Fault

MAX_FILE = 2**30  # bytes of one file, or of the files of one folder
SAID = ("task", "label", "truth", "site", "labeller", "labelled_at", "stage")

Row = Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """One scan to examine: its path `file_name` below `source`, its rows of metadata (`row` is the first one's number,
    the heading's is 1), the folder of the batch in whose `scans` its copy is stored.
    """

    source: Path
    file_name: str
    row: int
    rows: list[dict[str, str]]
    target: Path
    task: Task
    disagreement: Disagreement


@dataclass(frozen=True)
class Examined:
    """One scan after its single pass: its hash, its units (or why it is refused), its de-identified copy, and the
    network's input of its units. A unit's `outline` is its grid of data/batch/lesion_grid.py, None where it has no
    mask; `mask_values` are the values of its masks, by what messages call them."""

    file_name: str
    sha256: str
    units: list[dict[str, Any]]
    stored: Path | None
    prepared: pixel_cache.Part | None
    refusal: str
    mask_values: Mapping[str, frozenset[float]] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()


def examine(job: Job) -> Examined:
    """The single pass over one scan: a file, an archive, or a folder of one series.

    Whatever is wrong with it becomes its refusal; OSError only where the copy can't be written. No message names the
    file, since file names hold names of people: it is its row.
    """
    path, name, sha256 = job.source / job.file_name, f"row {job.row}", ""
    try:
        named, sha256 = _parts(path)
        parts = {name if len(named) == 1 else f"file {at}": content for at, content in enumerate(named.values(), 1)}
        scan, opened = _opened(name, parts)
        scan = in_units_of(scan, job.task.modality)
        told = _told(job.rows, scan, job.disagreement)
        whole = told[min(told)]
        people = [_named(name, header) for name, _, header in opened]
        scan = replace(scan, header=identifiers.silent(scan.header, people[0], whole, [job.file_name, *named]))
        ending, clean = _clean(opened, people, whole, [job.file_name, *named], identifiers.cells(told.values()))
        facts = {"sha256": sha256, "stored_sha256": hashlib.sha256(clean).hexdigest()}
        facts |= pseudonyms.who(whole, scan, sha256) | burned_in_text.facts(scan)
        facts |= contradictions.keyed(contradictions.signs(whole["patient_id"], scan.identity, whole["group"]))
        drawn, values = _outlines(job, scan, told)
        seen = [_unit(scan, number, row, job.task) for number, row in sorted(told.items())]
    except (Fault, OSError) as error:
        why = str(error) if isinstance(error, Fault) else f"cannot be read ({error.strerror})"
        return Examined(job.file_name, sha256, [], None, None, why.removeprefix(f"{name}: "))
    stored = _store(job.target / "scans", sha256, ending, clean)
    prepared_part = pixel_cache.part(job.target, [small for _, small in seen])
    units = [unit | facts | _outlined(drawn.get(unit["slice"])) for unit, _ in seen]
    left_out = tuple((f"{file}, sha256 {_short(parts[file])}", why) for file, why in scan.left_out)
    return Examined(job.file_name, sha256, units, stored, prepared_part, "", values, left_out)


def scan_sha256(path: Path) -> str:
    """The hash of a file's bytes; of a folder of one series that of its files' hashes, whatever their names."""
    if not path.is_dir():
        return fingerprint.file_sha256(path)
    return _together(fingerprint.file_sha256(file) for file in _files(path))


def embedded(unit_pixels: NDArray[np.float32]) -> str:
    """The descriptor's vector of one slice (size × size × 1 in [0, 1]) as text: base64 of 32 half-precision numbers."""
    return base64.b64encode(slice_features.embed(unit_pixels).astype("<f2").tobytes()).decode()


def pixels_blake3(picture: NDArray[np.float32]) -> str:
    """The hash of one slice's decoded pixels (rows × columns, contiguous) and their shape, whatever file holds them."""
    value = blake3(repr(picture.shape).encode())
    value.update(picture.data.cast("B"))
    return value.hexdigest()


def _parts(path: Path) -> tuple[dict[str, bytes], str]:
    """The files that a scan is made of, by name, and its hash."""
    files = _files(path) if path.is_dir() else [path]
    if sum(file.stat().st_size for file in files) > MAX_FILE:
        raise Fault(f"larger than {MAX_FILE // 2**20} MiB; divide it")
    contents = {file.name: file.read_bytes() for file in files}
    if path.is_dir():
        return contents, _together(hashlib.sha256(content).hexdigest() for content in contents.values())
    sha256 = hashlib.sha256(contents[path.name]).hexdigest()
    if zip_archive.is_archive(contents[path.name]):
        return _members(path.name, contents[path.name]), sha256
    return contents, sha256


def _members(name: str, content: bytes) -> dict[str, bytes]:
    """The files of an archive; what is wrong with it is said without the names in it."""
    try:
        return dict(zip_archive.members(name, content))
    except Fault as fault:
        raise Fault(identifiers.unquoted(str(fault).removeprefix(f"{name}: "), content)) from None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not zip_archive.hidden(path.name))


def _together(hashes: Iterator[str]) -> str:
    return fingerprint.text_sha256("\n".join(sorted(hashes)))


def _opened(name: str, parts: dict[str, bytes]) -> tuple[Scan, list[tuple[str, bytes, Any]]]:
    """The scan, and of each of its slices' files the name, the bytes and the parsed DICOM header."""
    opened: list[tuple[str, bytes, Any]] = []

    def each() -> Iterator[Scan]:
        for inside, content in parts.items():
            scan, header = read.opened(name, content) if inside == name else read.member(name, inside, content)
            opened.append((scan.name, content, header))
            yield scan

    scan = read.assemble(name, each())
    left_out = {file for file, _ in scan.left_out}
    return scan, [part for part in opened if part[0] not in left_out]


def _named(name: str, header: Any) -> identifiers.People:
    """Whom a header names. Fault where its values can't be read."""
    try:
        return identifiers.people(header)
    except Exception as error:  # pydicom looks at a value when it is asked for, and raises as many kinds as in `read`
        raise Fault(f"{name}: its header cannot be read ({type(error).__name__}); export it again") from error


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _clean(
    opened: list[tuple[str, bytes, Any]],
    people: list[identifiers.People],
    row: Row,
    names: list[str],
    cells: Mapping[str, str],
) -> tuple[str, bytes]:
    """Suffix and bytes of the de-identified copy: a file, or an archive of the files of a series, named by content."""
    clean = [
        dicom.anonymise(name, content, row, header, names, cells, named)
        for (name, content, header), named in zip(opened, people, strict=True)
    ]
    if len(clean) == 1:
        return clean[0]
    return ".zip", zip_archive.packed({hashlib.sha256(part).hexdigest()[:16] + ending: part for ending, part in clean})


def _told(rows: list[dict[str, str]], scan: Scan, disagreement: Disagreement) -> dict[int, dict[str, str]]:
    """What the metadata says of each slice that it speaks of; a row without `slice` speaks of them all."""
    for name in ("patient_id", "group"):
        values = {row[name] for row in rows}
        if len(values) > 1:
            raise Fault(f"its rows in {metadata_table.NAME} name {len(values)} different values of {name}; mend them")
    if not (rows[0]["patient_id"] or rows[0]["group"]):
        raise Fault(
            f"its row in {metadata_table.NAME} has neither patient_id nor group, so nobody knows whose scan it is"
        )
    heard: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        heard.setdefault(row["slice"], []).append(row)
    told: dict[int, dict[str, str]] = {}
    for text, readings in sorted(heard.items()):
        one = readings[0] if len(readings) == 1 else metadata_table.resolve(pd.DataFrame(readings), disagreement)
        for number in _slices(text, scan):
            if number in told:
                raise Fault(
                    f"its rows in {metadata_table.NAME} name a slice twice, or some name "
                    "a slice and others none; mend them"
                )
            told[number] = one
    return told


def _slices(text: str, scan: Scan) -> range:
    """The positions of the slices that a row speaks of; it counts them as the file has them."""
    slices = len(scan.pixels)
    if not text:
        return range(slices)
    if not text.isdecimal() or int(text) >= slices:
        raise Fault(f"the slice of its row is not one of its {slices}, counted from 0")
    position = scan.order.index(int(text)) if scan.order else int(text)
    return range(position, position + 1)


def _unit(scan: Scan, number: int, row: Row, task: Task) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """One slice: what the metadata says of it, what is measured on it, its three kinds of likeness; and the network's
    input."""
    picture = np.ascontiguousarray(scan.pixels[number])
    small = preprocess.unit_pixels(picture, scan.units, task.pixels)
    said = {name: row[name] for name in SAID}
    said |= {
        "label": pseudonyms.among(row["label"], task.classes),
        "truth": pseudonyms.among(row["truth"], (*metadata_table.TRUTHS, "")),
    }
    facts = {
        "slice": number,
        "lesion_mm": pseudonyms.number(row["lesion_mm"], "lesion_mm"),
        "pixels_blake3": pixels_blake3(picture),
        "dhash": slice_features.dhash(small),
        "embedding": embedded(small),
        "thumbnail": thumbnail(small),
    }
    return said | slice_features.describe(picture, scan) | facts, small


def _outlines(
    job: Job, scan: Scan, told: Mapping[int, Row]
) -> tuple[dict[int, lesion_grid.Grid], dict[str, frozenset[float]]]:
    """The grid of each slice whose row names a mask, each mask read once; and the values of masks by their files, where
    no row says which is the lesion. Fault where one can't be used."""
    masks: dict[tuple[str, str], lesion_grid.Drawn] = {}
    for row in told.values():
        key = (row["mask"], row["lesion_value"])
        if row["mask"] and key not in masks:
            path, called = job.source / row["mask"], f"the mask of row {job.row}"
            if path.stat().st_size > MAX_FILE:
                raise Fault(f"{called} is larger than {MAX_FILE // 2**20} MiB; divide it")
            masks[key] = lesion_grid.drawn(
                called, path.read_bytes(), scan, lesion_grid.lesion_values(row["lesion_value"])
            )
    grids = {
        number: lesion_grid.grid(masks[row["mask"], row["lesion_value"]].lesion[number])
        for number, row in told.items()
        if row["mask"]
    }
    return grids, {f"the mask of row {job.row}": frozenset().union(*(mask.values for mask in masks.values()))}


def _outlined(grid: lesion_grid.Grid | None) -> dict[str, Any]:
    """A unit's outline, and whether it shows a lesion ("" without a mask)."""
    return {"outline": grid, "outlined": "" if grid is None else "yes" if grid.any() else "no"}


def _store(scans: Path, sha256: str, ending: str, content: bytes) -> Path:
    """Write a de-identified copy under a name that nobody else uses; the index gives it its final one."""
    path = scans / f"{sha256[:16]}-{os.urandom(4).hex()}{ending}"
    path.write_bytes(content)
    return path


def suffix(name: str) -> str:
    """All from the first dot: `.nii.gz` of `a.nii.gz`."""
    _, dot, rest = name.partition(".")
    return dot + rest
