"""Synthetic studies with planted tumours, for the demo, the tests and simulations: files as a hospital would send them.

The people are invented, with names and numbers in clear, so that de-identification can be seen at work. The same seed
gives the same bytes, and another seed other people: every batch needs its own. Pictures are small, 128 × 128 pixels
over 28 to 33 cm of a trunk or 21 to 23 cm of a head, so that a thousand are made in seconds.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.phantom import anatomy, files
from data.phantom.scanner import Scanner
from data.phantom.study import COLUMNS, Row, Study, make_study
from data.record import Modality, Task

MASKS = "masks"  # the folder of a batch that holds them, with a column `mask` that names each scan's
PADDING = 1  # blank slices at each end of an MR volume, which nobody labels


def write_batch(
    folder: Path,
    task: Task,
    patients: int,
    scanner: Scanner,
    seed: int,
    slices: int = 1,
    sham: bool = False,
    masks: bool = False,
) -> None:
    """A batch as a site sends it: files and `metadata.csv`. CT: a DICOM file per slice; MR: a NIfTI volume per patient.

    Classes are balanced over patients. `slices` are labelled slices per patient; of a brain with a tumour about half
    show it (of an ordered task all do). `sham` deals the same labels out anew by chance, so that nothing can be learnt.
    With `masks` every scan has one, in the folder `masks`, empty where there is no lesion; a sham batch has none, they
    would betray the labels.
    """
    random = np.random.default_rng([*task.name.encode(), seed, 3])
    labels = random.permutation([task.classes[index % len(task.classes)] for index in range(patients)])
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for number, label in enumerate(labels):
        made = make_study(task, scanner, seed, number, str(label))
        written = write_study(folder, made, f"scan-{number:04d}", slices)
        rows += _masked(folder, made, written, slices) if masks and not sham else written
    write_metadata(folder, _dealt(rows, random) if sham else rows)


def write_study(folder: Path, study: Study, stem: str, slices: int = 1) -> list[Row]:
    """The files of one study under names that begin with `stem`, and their rows of metadata."""
    rows = []
    if study.scanner.modality == Modality.CT:
        for index in range(slices):
            name = f"{stem}-{index}.dcm"
            pixels, pixel = study.slice(index, slices)
            (folder / name).write_bytes(files.dicom(study, pixels, pixel, index))
            rows.append(study.row(name, study.label))
        return rows
    name, volume = f"{stem}.nii.gz", []
    for index in range(slices):
        diseased = slice_shows_lesion(study, index, slices)
        pixels, pixel = study.slice(index, slices, diseased)
        volume.append(pixels)
        rows.append(study.row(name, study.label if diseased else study.task.classes[0], PADDING + index))
    (folder / name).write_bytes(files.nifti(study, _padded(volume), pixel))
    return rows


def slice_shows_lesion(study: Study, index: int, slices: int) -> bool:
    """Whether that slice of an MR volume goes through the lesion: half of them do, at one end; of an ordered task all,
    since no class of sizes means "none"."""
    first = study.number % 2 * (slices // 2)
    return study.lesion is not None and (study.task.ordered or first <= index < first + (slices + 1) // 2)


def _padded(planes: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    return np.pad(np.stack(planes), [(PADDING, PADDING), (0, 0), (0, 0)])


def _masked(folder: Path, study: Study, rows: list[Row], slices: int) -> list[Row]:
    """Write the masks of a study's files as NIfTI, each on the grid of its scan, and name them in its rows."""
    (folder / MASKS).mkdir(exist_ok=True)
    whole = study.scanner.modality == Modality.MR
    shown = [not whole or slice_shows_lesion(study, at, slices) for at in range(slices)]
    planes = [study.outline(at, slices, shown[at]).astype(np.int16) for at in range(slices)]
    volumes = [_padded(planes)] * slices if whole else [plane[np.newaxis] for plane in planes]
    named = []
    _, pixel = study.slice(0, slices)
    corner = -pixel * (anatomy.SIZE - 1) / 2
    for at, (row, volume) in enumerate(zip(rows, volumes, strict=True)):
        name = f"{MASKS}/{row['file_name'].partition('.')[0]}.nii.gz"
        place = (0.0, 0.0, 0.0) if whole else (corner, corner, at * study.scanner.thickness)
        (folder / name).write_bytes(files.nifti(study, volume, pixel, place))
        named.append(row | {"mask": name})
    return named


def write_metadata(folder: Path, rows: list[Row]) -> None:
    """`metadata.csv` of a batch."""
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        columns = [*COLUMNS, "mask"] if any("mask" in row for row in rows) else COLUMNS
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _dealt(rows: list[Row], random: np.random.Generator) -> list[Row]:
    """The labels of patients (of slices, in volumes) dealt out anew; sizes of lesions would betray them and go."""
    units = [row["file_name"] if row["slice"] else row["patient_id"] for row in rows]
    if any(row["slice"] for row in rows):
        labels = list(random.permutation([row["label"] for row in rows]))
    else:
        known = {unit: row["label"] for unit, row in zip(units, rows, strict=True)}
        dealt = dict(zip(known, random.permutation(list(known.values())), strict=True))
        labels = [dealt[unit] for unit in units]
    return [row | {"label": str(label), "lesion_mm": ""} for row, label in zip(rows, labels, strict=True)]
