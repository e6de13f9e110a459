"""Synthetic studies: an invented patient, a cross-section, a planted lesion and its label."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data.core_types import Task
from data.phantom import anatomy
from data.phantom.anatomy import Lesion
from data.phantom.scanner import SCANNERS as SCANNERS
from data.phantom.scanner import Scanner as Scanner
from data.phantom.scanner import acquire
from lineage.errors import Fault


@dataclass(frozen=True)
class Person:
    """An invented patient: `name` as DICOM writes it (family^given), `age` in years, `day` of the examination."""

    id: str
    name: str
    sex: str
    age: int
    birth: date
    day: date


DRAWINGS = {"lung": anatomy.chest, "pancreas": anatomy.abdomen, "brain": anatomy.head}


COLUMNS = (
    "file_name",
    "patient_id",
    "task",
    "label",
    "slice",
    "study_date",
    "site",
    "scanner",
    "sex",
    "age",
    "labeller",
    "labelled_at",
    "truth",
    "lesion_mm",
)


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


STRETCH = (2.3, 2.5)  # of a lookalike; its border is as long as that of a spiked lesion of the same area


MIN_RADIUS = 4.0  # minimum radius of a lookalike, mm


Row = dict[str, str]


@dataclass(frozen=True)
class Study:
    """One patient at one examination: person, label, planted lesion (None: none), and how it was generated.

    A slice has a constant area with the greys of a lesion: a disc of radius `grey_radius` in mm. The area that the
    lesion does not cover is a lookalike, which is elongated and at another place. So greys alone do not reveal the
    label, but shape and position do.
    """

    task: Task
    scanner: Scanner
    seed: int
    number: int
    label: str
    lesion: Lesion | None
    grey_radius: float = 0.0

    @cached_property
    def person(self) -> Person:
        """An invented identity, the same for the same task, seed and number."""
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
        picture, pixel, detail = self._cross_section(index, count, lesion, self._lookalike(lesion))
        return acquire(picture, self.scanner, detail), pixel

    def outline(self, index: int, count: int, diseased: bool = True) -> NDArray[np.bool_]:
        """The mask of the lesion in a slice: pixels that change by more than half of the maximum with its contrast."""
        if self.lesion is None or not diseased:
            return np.zeros((anatomy.SIZE, anatomy.SIZE), bool)
        lookalike = self._lookalike(self.lesion)
        strong, faint = (
            self._cross_section(index, count, replace(self.lesion, contrast=value), lookalike)[0]
            for value in (1.0, 0.0)
        )
        change = np.abs(strong - faint)
        return np.asarray(change > change.max() / 2)

    def _lookalike(self, lesion: Lesion | None) -> Lesion | None:
        """The lookalike that is drawn in addition to the lesion, or without one; None if it would be too small."""
        area = self.grey_radius**2 - (lesion.radius**2 if lesion else 0.0)
        if area < MIN_RADIUS**2:
            return None
        random = np.random.default_rng([*self.task.name.encode(), self.seed, self.number, 4])
        contrast = lesion.contrast if lesion else random.uniform(*CONTRAST)
        return Lesion(math.sqrt(area), contrast, 0.0, self.scanner.is_inverted, random.uniform(*STRETCH))

    def _cross_section(
        self, index: int, count: int, lesion: Lesion | None, lookalike: Lesion | None
    ) -> tuple[anatomy.Array, float, anatomy.Random]:
        """The slice before the scanner, its pixel size, and the generator for the noise. Fault for an unknown organ."""
        if self.task.organ not in DRAWINGS:
            raise Fault(f"no phantom for {self.task.organ!r}; there are {', '.join(DRAWINGS)}")
        key = [*self.task.organ.encode(), self.seed, self.number]
        patient, detail = np.random.default_rng(key), np.random.default_rng([*key, 1, index])
        pixel = float(np.round(patient.uniform(*self.scanner.spacing), 3))
        level = (index + 0.5) / count * 2 - 1
        draw = DRAWINGS[self.task.organ]
        return draw(patient, detail, pixel, lesion, self.scanner.habit, level, lookalike), pixel, detail

    def row(self, file: str, label: str, at: int | None = None) -> Row:
        """The row of metadata.csv of this study, or of its slice `at`."""
        person, day = self.person, self.person.day
        has_lesion = self.lesion is not None and (self.task.ordered or label != self.task.classes[0])
        size = f"{2 * self.lesion.radius:.1f}" if self.lesion and has_lesion else ""
        values = (
            file,
            person.id,
            self.task.name,
            label,
            "" if at is None else str(at),
            day.isoformat(),
            self.scanner.site,
            f"{self.scanner.manufacturer} {self.scanner.model}",
            person.sex,
            str(person.age),
            "reader-1",
            f"{(day + timedelta(days=14)).isoformat()}T09:00:00Z",
            "pathology" if size else "follow-up",
            size,
        )
        return dict(zip(COLUMNS, values, strict=True))


def make_study(
    task: Task, scanner: Scanner, seed: int, number: int, label: str, strength: float | None = None
) -> Study:
    """A study with the lesion of its label. `strength` fixes the contrast (0 to 1); else it is random."""
    random = np.random.default_rng([*task.name.encode(), seed, number, 2])
    share = random.uniform()
    largest = radii(task, task.positive[0])
    grey_radius = LARGEST.get(task.organ, 24.0) if task.ordered else largest[0] + share * (largest[1] - largest[0])
    if label == task.classes[0] and not task.ordered:
        return Study(task, scanner, seed, number, label, None, grey_radius)
    is_malignant = task.ordered or label in task.positive
    low, high = radii(task, label)
    contrast = random.uniform(*CONTRAST) if strength is None else strength
    lesion = Lesion(low + share * (high - low), contrast, 0.2 * is_malignant, scanner.is_inverted)
    return Study(task, scanner, seed, number, label, lesion, grey_radius)


def radii(task: Task, label: str) -> tuple[float, float]:
    """The smallest and largest radius in mm of a lesion with this label.

    The classes of an ordered task are sizes, which represent stages: equal bands of the radii of malignant lesions.
    """
    largest = LARGEST.get(task.organ, 24.0)
    if task.ordered:
        edges = np.linspace(SMALLEST, largest, len(task.classes) + 1)
        position = task.classes.index(label)
        return float(edges[position]), float(edges[position + 1])
    return (0.7 * largest, largest) if label in task.positive else (4.5, 7.5)


def usual_scanner(task: Task) -> Scanner:
    """The first usual scanner with the modality of the task."""
    return next(
        scanner for scanner in SCANNERS.values() if scanner.modality == task.modality and not scanner.is_inverted
    )
