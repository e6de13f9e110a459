"""A batch with planted faults, for bench/data/planted_faults.py, and the list of faulty files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydicom import Dataset, dcmread

from data.core_types import Modality, Task
from data.phantom import batch as phantom_batch
from data.phantom import files
from data.phantom import study as phantom_study
from data.phantom.study import Row

FUZZY = ("JPEG quality 60", "crop 5 %", "brightness ±10 %")
SUFFIX = dict(zip(FUZZY, (".jpg", ".png", ".png"), strict=True))


class Batch:
    """A batch folder that is being written: its rows, and the faulty files with their kind of fault."""

    def __init__(self, folder: Path, task: Task, seed: int) -> None:
        self.folder, self.task, self.seed, self.patient_count = folder, task, seed, 0
        self.rows: list[Row] = []
        self.faults: dict[str, str] = {}
        self.excused: set[str] = set()  # originals of copies: either of the two may be refused
        folder.mkdir(parents=True)

    def study(self, label: str | None = None, **scanner: float) -> phantom_study.Study:
        """The next patient."""
        self.patient_count += 1
        scanner_settings = replace(phantom_study.usual_scanner(self.task), **scanner)  # type: ignore[arg-type]
        return phantom_study.make_study(
            self.task,
            scanner_settings,
            self.seed,
            self.patient_count,
            label or self.task.classes[self.patient_count % 3],
        )

    def add(self, study: phantom_study.Study, kind: str | None = None, label: str | None = None) -> Row:
        """Write one slice of a patient, with its fault if it has one."""
        row = phantom_batch.write_study(self.folder, study, f"scan-{len(self.rows):05d}")[0]
        return self.add_row(row | {"label": label or row["label"]}, kind)

    def add_row(self, row: Row, kind: str | None) -> Row:
        """Add a row of metadata, and the fault of its file."""
        self.rows.append(row)
        if kind:
            self.faults[row["file_name"]] = kind
        return row

    def header(self, row: Row, change: Callable[[Dataset], None]) -> None:
        """Change a written file."""
        path = self.folder / row["file_name"]
        image = dcmread(path)
        change(image)
        image.save_as(path)


def plant(batch: Batch, clean: int, fault_count: int, random: np.random.Generator) -> None:
    """Write `clean` patients without fault, then `fault_count` faults of every kind on randomly chosen patients."""
    clean_rows = [batch.add(batch.study()) for _ in range(clean)]
    chosen = iter(random.permutation(len(clean_rows)).tolist() * 3)
    for _ in range(fault_count):
        original = clean_rows[next(chosen)]
        content = (batch.folder / original["file_name"]).read_bytes()
        name = f"copy-{len(batch.rows):05d}.dcm"
        (batch.folder / name).write_bytes(content)
        batch.add_row(original | {"file_name": name, "patient_id": batch.study().person.id}, "exact copy")
        batch.excused.add(original["file_name"])
    for kind, change in CHANGES.items():
        for _ in range(fault_count):
            original = clean_rows[next(chosen)]
            _add_changed_picture(batch, original, kind, change, random)
            batch.excused.add(original["file_name"])
    for _ in range(fault_count):
        study = batch.study()
        wrong_labels = [name for name in batch.task.classes if name != study.label]
        batch.add(study, "conflicting labels")
        batch.add(study, "conflicting labels", str(random.choice(wrong_labels)))
    _overlaps(batch, fault_count)
    for _ in range(fault_count):
        _wrong_modality(batch)
    for number in range(fault_count):
        _wrong_window(batch, number)
    for number in range(fault_count):
        _blank_or_cut(batch, number)
    pd.DataFrame(batch.rows).fillna("").to_csv(batch.folder / "metadata.csv", index=False, lineterminator="\n")


def plant_real(
    batch: Batch, pictures: Sequence[tuple[Path, str]], fault_count: int, random: np.random.Generator
) -> None:
    """Write 8-bit images with their labels, one per patient, and plant `fault_count` faults of every kind on them.

    A fifth of the images get only a copy with another label, so that the kinds of fault do not mix.
    """
    clean_rows = [_add_picture(batch, path.suffix, path.read_bytes(), label) for path, label in pictures]
    order = random.permutation(len(clean_rows))
    conflict_count = min(fault_count, len(clean_rows) // 5)
    for number in order[:conflict_count]:
        content = (batch.folder / clean_rows[number]["file_name"]).read_bytes()
        wrong_labels = [name for name in batch.task.classes if name != clean_rows[number]["label"]]
        batch.faults[clean_rows[number]["file_name"]] = "conflicting labels"
        _add_picture(batch, pictures[number][0].suffix, content, str(random.choice(wrong_labels)), "conflicting labels")
    for kind in ("exact copy", *CHANGES):
        for number in random.permutation(order[conflict_count:])[:fault_count]:
            original = batch.folder / clean_rows[number]["file_name"]
            content = original.read_bytes()
            if kind in CHANGES:
                content = CHANGES[kind](np.asarray(Image.open(original).convert("L"), np.float32), random)
            _add_picture(
                batch,
                original.suffix if kind not in CHANGES else SUFFIX[kind],
                content,
                clean_rows[number]["label"],
                kind,
            )
            batch.excused.add(original.name)
    pd.DataFrame(batch.rows).to_csv(batch.folder / "metadata.csv", index=False, lineterminator="\n")


def _add_picture(batch: Batch, suffix: str, content: bytes, label: str, kind: str | None = None) -> Row:
    """Add an unchanged image under another patient's name."""
    number = len(batch.rows)
    row = {"file_name": f"picture-{number:05d}{suffix}", "patient_id": f"patient-{number:05d}"}
    (batch.folder / row["file_name"]).write_bytes(content)
    return batch.add_row(row | {"task": batch.task.name, "label": label, "truth": "reader"}, kind)


def _add_changed_picture(
    batch: Batch, original: Row, kind: str, change: Callable[[Any, np.random.Generator], bytes], random: Any
) -> None:
    """Add a changed image of an earlier patient, as PNG or JPEG in the task's window, under another patient's name."""
    image = dcmread(batch.folder / original["file_name"])
    centre, width = batch.task.pixels.window or (0.0, 1.0)
    hounsfield = image.pixel_array.astype(np.float32) + float(image.RescaleIntercept)
    grey = np.clip((hounsfield - centre + width / 2) / width * 255, 0, 255)
    content = change(np.rint(grey), random)
    name = f"picture-{len(batch.rows):05d}{SUFFIX[kind]}"
    (batch.folder / name).write_bytes(content)
    batch.add_row(original | {"file_name": name, "patient_id": batch.study().person.id}, kind)


def _recompressed(grey: Any, _: np.random.Generator) -> bytes:
    return _encoded(grey, "JPEG", quality=60)


def _cropped(grey: Any, random: np.random.Generator) -> bytes:
    """Cut 5 % of height and width: at one corner, around, or on each of the four sides."""
    kind, windows = int(random.integers(3)), []
    for side in grey.shape:
        cut = round(side * 0.05)
        windows.append((slice(cut, side), slice(cut // 2, side - (cut - cut // 2)), slice(cut, side - cut))[kind])
    return _encoded(grey[tuple(windows)], "PNG")


def _brightened(grey: Any, random: np.random.Generator) -> bytes:
    return _encoded(np.clip(grey * random.choice([0.9, 1.1]), 0, 255), "PNG")


def _encoded(grey: Any, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.rint(grey).astype(np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def _overlaps(batch: Batch, fault_count: int) -> None:
    """One patient in two groups: two different slices, each with another group."""
    for number in range(fault_count):
        study = batch.study()
        rows = phantom_batch.write_study(batch.folder, study, f"twice-{number:04d}", 2)
        for side, row in enumerate(rows):
            batch.add_row(row | {"group": f"group-{number}-{side}"}, "patient overlap")


def _wrong_modality(batch: Batch) -> None:
    study = batch.study()
    pixels, pixel = study.slice(0, 1)
    name = f"scan-{len(batch.rows):05d}.dcm"
    content = files.dicom(study, pixels, pixel, 0, modality=Modality.MR)
    (batch.folder / name).write_bytes(content)
    batch.add_row(study.row(name, study.label), "wrong modality")


def _wrong_window(batch: Batch, number: int) -> None:
    """In turn: no rescale intercept (air at 0 HU), and 8-bit display grey declared as HU."""
    row = batch.add(batch.study(), "wrong window")

    def no_intercept(image: Dataset) -> None:
        image.RescaleIntercept = "0"

    def display(image: Dataset) -> None:
        hounsfield = image.pixel_array.astype(np.float32) + float(image.RescaleIntercept)
        image.PixelData = np.clip((hounsfield + 1150) / 1500 * 255, 0, 255).astype("<i2").tobytes()
        image.RescaleIntercept = "0"

    batch.header(row, display if number % 2 else no_intercept)


def _blank_or_cut(batch: Batch, number: int) -> None:
    if number % 2:
        batch.add(batch.study(noise=0.0, gain=0.0, offset=0.0, bias=0.0), "blank or truncated")
        return
    row = batch.add(batch.study(), "blank or truncated")
    path = batch.folder / row["file_name"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


CHANGES = dict(zip(FUZZY, (_recompressed, _cropped, _brightened), strict=True))
