"""Special phantoms: a batch with one of every fault, and scans to try by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.core_types import Modality, Task
from data.phantom import anatomy, files
from data.phantom.batch import write_batch, write_metadata, write_study
from data.phantom.scanner import Scanner, acquire
from data.phantom.study import Row, Study, make_study, usual_scanner


def bad_batch(folder: Path, task: Task, seed: int) -> dict[str, str]:
    """Write a batch of 12 valid studies and one of every fault that the checks must find: file name -> fault."""
    scanner = usual_scanner(task)
    write_batch(folder, task, 12, scanner, seed)
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    faults: dict[str, str] = {}

    def plant(number: int, stem: str, label: str, fault: str, source: Study | None = None) -> tuple[Path, Row]:
        planted = source or make_study(task, scanner, seed, number, label)
        row = write_study(folder, planted, stem)[0]
        faults[row["file_name"]] = fault
        rows.append(row | {"label": label})
        return folder / row["file_name"], rows[-1]

    positive, normal = task.positive[0], task.classes[0]
    blank_study = make_study(task, replace(scanner, noise=0.0, gain=0.0, offset=0.0, bias=0.0), seed, 100, normal)
    plant(100, "blank", normal, "blank", blank_study)
    path, _ = plant(101, "truncated", positive, "truncated")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    plant(102, "unknown-label", "tumor?", "unknown label", make_study(task, scanner, seed, 102, positive))
    two_label_study = make_study(task, scanner, seed, 103, positive)
    plant(103, "two-labels-a", positive, "two labels", two_label_study)
    plant(103, "two-labels-b", normal, "two labels", two_label_study)
    path, row = plant(104, "copy-a", positive, "copy under another patient")
    copy = path.with_name(path.name.replace("copy-a", "copy-b"))
    copy.write_bytes(path.read_bytes())
    rows.append(row | {"file_name": copy.name, "patient_id": make_study(task, scanner, seed, 105, normal).person.id})
    faults[copy.name] = "copy under another patient"
    other_modality = Modality.CT if task.modality == Modality.MR else Modality.MR
    wrong_study = make_study(task, replace(scanner, modality=Modality.CT), seed, 106, normal)
    pixels, pixel = wrong_study.slice(0, 1)
    (folder / "wrong-modality.dcm").write_bytes(files.dicom(wrong_study, pixels, pixel, 0, modality=other_modality))
    rows.append(wrong_study.row("wrong-modality.dcm", normal))
    faults["wrong-modality.dcm"] = "wrong modality"
    write_metadata(folder, rows)
    return faults


def try_samples(folder: Path, tasks: list[Task], scanners: Mapping[str, Scanner] | None = None) -> list[Path]:
    """Write scans to try by hand: per task a clear tumour (large) and an equivocal one (faint); one wrong body part.

    `scanners` is the scanner of a task, by its name; another task has the usual scanner of its modality.
    """
    scanner_of = {task.name: usual_scanner(task) for task in tasks} | dict(scanners or {})
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for task in tasks:
        for word, strength in (("clear", 0.85), ("equivocal", 0.3)):
            candidates = (
                make_study(task, scanner_of[task.name], 4242, number, task.positive[0], strength)
                for number in range(20)
            )
            sample = max(candidates, key=lambda candidate: candidate.lesion.radius if candidate.lesion else 0.0)
            paths.append(folder / write_study(folder, sample, f"{task.name}-{word}")[0]["file_name"])
    for task in [task for task in tasks if task.modality == Modality.CT][:1]:
        sample = make_study(task, scanner_of[task.name], 4242, 2, task.classes[0])
        random = np.random.default_rng(4242)
        pixels = acquire(anatomy.leg(random, 3.0), sample.scanner, random)
        paths.append(folder / "wrong-body-part.dcm")
        paths[-1].write_bytes(files.dicom(sample, pixels, 3.0, 0, body_part="LEG"))
    return paths
