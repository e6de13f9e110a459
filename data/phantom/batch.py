"""Synthetic batches with planted tumours: the files and metadata.csv as a hospital would send them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.core_types import Modality, Task
from data.phantom import anatomy, files
from data.phantom.scanner import Scanner
from data.phantom.study import COLUMNS, Row, Study, make_study

MASKS = "masks"  # the folder of the masks in a batch; the column `mask` names the mask of each scan
PADDING = 1  # blank slices without labels at each end of an MR volume


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
    """Write a batch: files and `metadata.csv`. CT: a DICOM file per slice; MR: a NIfTI volume per patient.

    The same seed gives the same bytes, and another seed other people: every batch needs its own seed. Names and numbers
    are in clear, to test de-identification. Pictures have 128 × 128 pixels over 28 to 33 cm of a trunk or 21 to 23 cm
    of a head, so that a thousand take seconds. Classes are balanced over patients. `slices` are labelled slices per
    patient; about half of those of a brain with a tumour show it (all in an ordered task). `sham` permutes the labels,
    so that nothing can be learned. With `masks` every scan has a mask in the folder `masks`, empty without a lesion. A
    sham batch has no masks, because they would reveal the labels.
    """
    random = np.random.default_rng([*task.name.encode(), seed, 3])
    labels = random.permutation([task.classes[index % len(task.classes)] for index in range(patients)])
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for number, label in enumerate(labels):
        phantom = make_study(task, scanner, seed, number, str(label))
        study_rows = write_study(folder, phantom, f"scan-{number:04d}", slices)
        rows += _write_masks(folder, phantom, study_rows, slices) if masks and not sham else study_rows
    write_metadata(folder, _permute_labels(rows, random) if sham else rows)


def write_study(folder: Path, study: Study, stem: str, slices: int = 1) -> list[Row]:
    """Write the files of one study, with names that start with `stem`; return their metadata rows."""
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
    (folder / name).write_bytes(files.nifti(study, _with_padding(volume), pixel))
    return rows


def slice_shows_lesion(study: Study, index: int, slices: int) -> bool:
    """Whether a slice of an MR volume shows the lesion: half of them do, at one end.

    In an ordered task all do, because no class means "no lesion".
    """
    first = study.number % 2 * (slices // 2)
    return study.lesion is not None and (study.task.ordered or first <= index < first + (slices + 1) // 2)


def _with_padding(planes: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    return np.pad(np.stack(planes), [(PADDING, PADDING), (0, 0), (0, 0)])


def _write_masks(folder: Path, study: Study, rows: list[Row], slices: int) -> list[Row]:
    """Write the masks of a study as NIfTI, each on the grid of its scan; return the rows with their names."""
    (folder / MASKS).mkdir(exist_ok=True)
    is_volume = study.scanner.modality == Modality.MR
    shows_lesion = [not is_volume or slice_shows_lesion(study, index, slices) for index in range(slices)]
    planes = [study.outline(index, slices, shows_lesion[index]).astype(np.int16) for index in range(slices)]
    volumes = [_with_padding(planes)] * slices if is_volume else [plane[np.newaxis] for plane in planes]
    masked_rows = []
    _, pixel = study.slice(0, slices)
    corner = -pixel * (anatomy.SIZE - 1) / 2
    for index, (row, volume) in enumerate(zip(rows, volumes, strict=True)):
        name = f"{MASKS}/{row['file_name'].partition('.')[0]}.nii.gz"
        origin = (0.0, 0.0, 0.0) if is_volume else (corner, corner, index * study.scanner.thickness)
        (folder / name).write_bytes(files.nifti(study, volume, pixel, origin))
        masked_rows.append(row | {"mask": name})
    return masked_rows


def write_metadata(folder: Path, rows: list[Row]) -> None:
    """Write the `metadata.csv` of a batch."""
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        columns = [*COLUMNS, "mask"] if any("mask" in row for row in rows) else COLUMNS
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _permute_labels(rows: list[Row], random: np.random.Generator) -> list[Row]:
    """The rows with labels permuted between patients (between slices in volumes), and without lesion sizes."""
    units = [row["file_name"] if row["slice"] else row["patient_id"] for row in rows]
    if any(row["slice"] for row in rows):
        labels = list(random.permutation([row["label"] for row in rows]))
    else:
        label_by_unit = {unit: row["label"] for unit, row in zip(units, rows, strict=True)}
        permuted = dict(zip(label_by_unit, random.permutation(list(label_by_unit.values())), strict=True))
        labels = [permuted[unit] for unit in units]
    return [row | {"label": str(label), "lesion_mm": ""} for row, label in zip(rows, labels, strict=True)]
