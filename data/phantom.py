"""Synthetic studies with planted tumours, for the demo, the tests and simulations: files as a hospital would send them.

The people are invented, with names and numbers in clear, so that de-identification can be seen at work. The same seed
gives the same bytes, and another seed other people: every batch needs its own. Pictures are small, 128 × 128 pixels
over 28 to 33 cm of a trunk or 21 to 23 cm of a head, so that a thousand are made in seconds.
"""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data import anatomy, phantom_files
from data.anatomy import Lesion
from data.phantom_files import Person
from data.record import Modality, Task
from data.scanner import SCANNERS as SCANNERS
from data.scanner import Scanner as Scanner
from data.scanner import acquire
from lineage.fault import Fault

DRAWINGS = {"lung": anatomy.chest, "pancreas": anatomy.abdomen, "brain": anatomy.head}
COLUMNS = (
    "file_name", "patient_id", "task", "label", "slice", "study_date", "site", "scanner", "sex", "age", "labeller",
    "labelled_at", "truth", "lesion_mm",
)  # fmt: skip
MASKS = "masks"  # the folder of a batch that holds them, with a column `mask` that names each scan's
FAMILY = (
    "Almeida",
    "Brandt",
    "Castell",
    "Duarte",
    "Eklund",
    "Fabre",
    "Grewal",
    "Hollis",
    "Ivanova",
    "Jansen",
    "Kimura",
)
GIVEN = ("Ada", "Bruno", "Clara", "Dario", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kavya", "Luca", "Mira")
SMALLEST, LARGEST = 5.0, {"lung": 28.0, "pancreas": 26.0, "brain": 26.0}  # radius of a malignant lesion, mm
CONTRAST = (0.7, 1.0)  # of a lesion, as a share of full strength
STRETCH = (2.3, 2.5)  # of a lookalike; the border of a spiked lesion of the same area is as long
FAINTEST = 4.0  # radius in mm under which no lookalike is drawn
PADDING = 1  # blank slices at each end of an MR volume, which nobody labels
Row = dict[str, str]


@dataclass(frozen=True)
class Study:
    """One patient at one examination: the person, the label, the planted lesion (None: none), how it was made.

    `room` is the radius in mm of a disc as large as all that has a lesion's greys in a slice. What the lesion leaves of
    it is a lookalike: elongated, elsewhere. So greys alone do not tell the label; shape and place do.
    """

    task: Task
    scanner: Scanner
    seed: int
    number: int
    label: str
    lesion: Lesion | None
    room: float = 0.0

    @cached_property
    def person(self) -> Person:
        """An invented identity; the same task, seed and number are the same person."""
        key = f"{self.task.name} {self.seed} {self.number}"
        random = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
        age = int(random.integers(35, 86))
        day = date(2024, 1, 8) + timedelta(days=int(random.integers(0, 360)))
        return Person(
            id=f"MRN{int(random.integers(10**9)):09d}",
            name=f"{random.choice(FAMILY)}^{random.choice(GIVEN)}",
            sex=str(random.choice(["F", "M"])),
            age=age,
            birth=day.replace(year=day.year - age, day=int(random.integers(1, 29))),
            day=day,
        )

    def slice(self, index: int, count: int, diseased: bool = True) -> tuple[NDArray[np.int16], float]:
        """Slice `index` of `count` as the scanner stores it, and its pixel size in mm."""
        lesion = self.lesion if diseased else None
        drawn, pixel, detail = self._drawn(index, count, lesion, self._lookalike(lesion))
        return acquire(drawn, self.scanner, detail), pixel

    def outline(self, index: int, count: int, diseased: bool = True) -> NDArray[np.bool_]:
        """Where that slice shows the lesion: the pixels that another contrast of it would change, from half on."""
        if self.lesion is None or not diseased:
            return np.zeros((anatomy.SIZE, anatomy.SIZE), bool)
        lookalike = self._lookalike(self.lesion)
        strong, faint = (
            self._drawn(index, count, replace(self.lesion, contrast=value), lookalike)[0] for value in (1.0, 0.0)
        )
        change = np.abs(strong - faint)
        return np.asarray(change > change.max() / 2)

    def _lookalike(self, lesion: Lesion | None) -> Lesion | None:
        """What is drawn beside that lesion, or where there is none."""
        area = self.room**2 - (lesion.radius**2 if lesion else 0.0)
        if area < FAINTEST**2:
            return None
        random = np.random.default_rng([*self.task.name.encode(), self.seed, self.number, 4])
        contrast = lesion.contrast if lesion else random.uniform(*CONTRAST)
        return Lesion(math.sqrt(area), contrast, 0.0, self.scanner.turned, random.uniform(*STRETCH))

    def _drawn(
        self, index: int, count: int, lesion: Lesion | None, lookalike: Lesion | None
    ) -> tuple[anatomy.Array, float, anatomy.Random]:
        """The slice before the scanner, its pixel size, and the generator that goes on with the noise."""
        if self.task.organ not in DRAWINGS:
            raise Fault(f"no phantom for {self.task.organ!r}; there are {', '.join(DRAWINGS)}")
        key = [*self.task.organ.encode(), self.seed, self.number]
        patient, detail = np.random.default_rng(key), np.random.default_rng([*key, 1, index])
        pixel = float(np.round(patient.uniform(*self.scanner.spacing), 3))
        level = (index + 0.5) / count * 2 - 1
        draw = DRAWINGS[self.task.organ]
        return draw(patient, detail, pixel, lesion, self.scanner.habit, level, lookalike), pixel, detail

    def row(self, file: str, label: str, at: int | None = None) -> Row:
        """The line of metadata.csv that speaks of this study."""
        person, day = self.person, self.person.day
        ill = self.lesion is not None and (self.task.ordered or label != self.task.classes[0])
        size = f"{2 * self.lesion.radius:.1f}" if self.lesion and ill else ""
        values = (
            file, person.id, self.task.name, label, "" if at is None else str(at), day.isoformat(), self.scanner.site,
            f"{self.scanner.manufacturer} {self.scanner.model}", person.sex, str(person.age), "reader-1",
            f"{(day + timedelta(days=14)).isoformat()}T09:00:00Z", "pathology" if size else "follow-up", size,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


def study(task: Task, scanner: Scanner, seed: int, number: int, label: str, strength: float | None = None) -> Study:
    """A study with a lesion as its label wants it; `strength` fixes the contrast (0 to 1), else it is graded."""
    random = np.random.default_rng([*task.name.encode(), seed, number, 2])
    share = random.uniform()
    largest = radii(task, task.positive[0])
    room = LARGEST.get(task.organ, 24.0) if task.ordered else largest[0] + share * (largest[1] - largest[0])
    if label == task.classes[0] and not task.ordered:
        return Study(task, scanner, seed, number, label, None, room)
    malignant = task.ordered or label in task.positive
    low, high = radii(task, label)
    contrast = random.uniform(*CONTRAST) if strength is None else strength
    lesion = Lesion(low + share * (high - low), contrast, 0.2 * malignant, scanner.turned)
    return Study(task, scanner, seed, number, label, lesion, room)


def radii(task: Task, label: str) -> tuple[float, float]:
    """Smallest and largest radius in mm of a lesion of that label.

    The classes of an ordered task are sizes, a stand-in for stages: equal bands of a malignant lesion's radii.
    """
    largest = LARGEST.get(task.organ, 24.0)
    if task.ordered:
        edges = np.linspace(SMALLEST, largest, len(task.classes) + 1)
        place = task.classes.index(label)
        return float(edges[place]), float(edges[place + 1])
    return (0.7 * largest, largest) if label in task.positive else (4.5, 7.5)


def write_batch(
    folder: Path, task: Task, patients: int, scanner: Scanner, seed: int, slices: int = 1, sham: bool = False,
    masks: bool = False,
) -> None:  # fmt: skip
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
        made = study(task, scanner, seed, number, str(label))
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
            (folder / name).write_bytes(phantom_files.dicom(study, pixels, pixel, index))
            rows.append(study.row(name, study.label))
        return rows
    name, volume = f"{stem}.nii.gz", []
    for index in range(slices):
        diseased = shows(study, index, slices)
        pixels, pixel = study.slice(index, slices, diseased)
        volume.append(pixels)
        rows.append(study.row(name, study.label if diseased else study.task.classes[0], PADDING + index))
    (folder / name).write_bytes(phantom_files.nifti(study, _padded(volume), pixel))
    return rows


def shows(study: Study, index: int, slices: int) -> bool:
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
    shown = [not whole or shows(study, at, slices) for at in range(slices)]
    planes = [study.outline(at, slices, shown[at]).astype(np.int16) for at in range(slices)]
    volumes = [_padded(planes)] * slices if whole else [plane[np.newaxis] for plane in planes]
    named = []
    _, pixel = study.slice(0, slices)
    corner = -pixel * (anatomy.SIZE - 1) / 2
    for at, (row, volume) in enumerate(zip(rows, volumes, strict=True)):
        name = f"{MASKS}/{row['file_name'].partition('.')[0]}.nii.gz"
        place = (0.0, 0.0, 0.0) if whole else (corner, corner, at * study.scanner.thickness)
        (folder / name).write_bytes(phantom_files.nifti(study, volume, pixel, place))
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


def usual(task: Task) -> Scanner:
    """The first usual scanner of a task's modality."""
    return next(scanner for scanner in SCANNERS.values() if scanner.modality == task.modality and not scanner.turned)
