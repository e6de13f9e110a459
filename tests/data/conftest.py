"""Fixtures: two tasks, ingest settings, a small batch, its index and an editor of its table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.batch.incoming_batch import read_incoming_batch
from data.batch.manifest import IndexedBatch, index_batch
from data.core_types import Modality, PixelSettings, Pooling, Task
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.settings import IngestSettings

Row = dict[str, str]


@pytest.fixture(scope="session")
def lung() -> Task:
    """Lung CT in three classes."""
    return Task(
        "lung-ct",
        "Lung tumour",
        "lung",
        Modality.CT,
        ("CHEST", "LUNG"),
        ("normal", "benign", "malignant"),
        ("malignant",),
        "slice",
        "patient",
        False,
        PixelSettings(64, (-400, 1500)),
        Pooling("topk", 3),
        0.9,
        "",
    )


@pytest.fixture(scope="session")
def brain(lung: Task) -> Task:
    """Brain MR in two classes."""
    return replace(
        lung,
        name="brain-mr",
        organ="brain",
        modality=Modality.MR,
        body_parts=("BRAIN", "HEAD"),
        classes=("no_tumour", "tumour"),
        positive=("tumour",),
        pixels=PixelSettings(64, None),
    )


@pytest.fixture(scope="session")
def ingest() -> IngestSettings:
    """The default thresholds."""
    return IngestSettings("scan", 0.2, 1, 0.97, 0.98)


@pytest.fixture
def batch(home: Path, lung: Task) -> Path:
    """A lung CT batch of six patients, two slices each, in the inbox."""
    folder = home.parent / "inbox" / "first"
    phantom_batch.write_batch(folder, lung, 6, study.usual_scanner(lung), seed=1, slices=2)
    return folder


@pytest.fixture
def indexed(batch: Path, lung: Task) -> IndexedBatch:
    """That batch, indexed into staging/first."""
    return index_batch(batch, batch.parent.parent / "staging" / "first", lung)


@pytest.fixture
def edit(batch: Path) -> Callable[[Callable[[list[Row]], list[Row] | None]], None]:
    """A function that changes the rows of that batch's metadata.csv."""

    def change_rows(edit_rows: Callable[[list[Row]], list[Row] | None]) -> None:
        path = batch / "metadata.csv"
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        rows = edit_rows(rows) or rows
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return change_rows


def read_digest(folder: Path, task: Task) -> str:
    """The digest of an incoming batch."""
    return read_incoming_batch(folder, {task.name: task}).digest
