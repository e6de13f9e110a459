"""Mask meaning: an outline shows a lesion; the task defines whether the unit is positive."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.batch import manifest
from data.core_types import MaskMeaning, Task
from data.importing.import_folder import import_folder
from data.quality import suite
from data.settings import IngestSettings
from lineage.errors import Fault
from pipelines import params

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def nodules(lung: Task) -> Task:
    """Benign or malignant: every unit has a lesion."""
    return replace(lung, classes=("benign", "malignant"), positive=("malignant",), mask=MaskMeaning.LESION)


def settings() -> IngestSettings:
    return params.load(ROOT).ingest


def batch(folder: Path, real_data: Path) -> Path:
    """Ten benign and ten malignant nodules, each with its outline and without its size, as a batch."""
    source = real_data / "lung-nodules-lidc"
    table = pd.read_csv(source / "nodules.csv", dtype=str, keep_default_na=False)
    chosen = pd.concat([table[table["label"] == label].head(10) for label in ("benign", "malignant")])
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file_name", "patient_id", "task", "label", "truth", "mask"])
        for row in chosen.to_dict("records"):
            for name in (row["file"], row["mask"]):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((source / name).read_bytes())
            writer.writerow([row["file"], row["patient"], "lung-ct", row["label"], "reader", row["mask"]])
    return folder


def contradicting(indexed: manifest.IndexedBatch, task: Task, home: Path) -> set[str]:
    """The labels of the units that fail because label and mask disagree."""
    result = suite.validate(indexed.manifest, task, settings(), home / "gx", "nodules")
    failing = {
        unit for unit, reasons in result.failing.items() if any("contradicts its mask" in reason for reason in reasons)
    }
    return set(indexed.manifest.set_index("unit_id").loc[sorted(failing), "label"])


def test_outlined_benign_lesions_are_accepted_if_masks_mean_lesions(
    home: Path, real_data: Path, tmp_path: Path, nodules: Task
) -> None:
    indexed = manifest.index_batch(batch(tmp_path / "inbox/nodules", real_data), tmp_path / "staging", nodules)
    assert not indexed.refused and set(indexed.manifest["outlined"]) == {"yes"}
    assert contradicting(indexed, nodules, home) == set()
    for task in (replace(nodules, mask=MaskMeaning.POSITIVE), replace(nodules, lesion_free=("benign",))):
        assert contradicting(indexed, task, home) == {"benign"}, "detected on the mask itself: no size was given"


def test_an_empty_outline_contradicts_nothing(home: Path, tmp_path: Path, lung: Task) -> None:
    """A positive label can be that of the patient, while this slice has no lesion."""
    folder = tmp_path / "inbox/slices"
    folder.mkdir(parents=True)
    random = np.random.default_rng(4)
    Image.fromarray(random.integers(0, 255, (64, 64), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "a_mask.png")
    (folder / "metadata.csv").write_text(
        "file_name,patient_id,task,label,mask\na.png,p1,lung-ct,malignant,a_mask.png\n", encoding="utf-8"
    )
    indexed = manifest.index_batch(folder, tmp_path / "staging", lung)
    assert indexed.manifest["outlined"].tolist() == ["no"] and contradicting(indexed, lung, home) == set()


def test_an_older_manifest_has_empty_outline_facts(home: Path, tmp_path: Path, lung: Task, batch_of_one: Path) -> None:
    table = pd.read_csv(batch_of_one, dtype=str).drop(columns="outlined")
    table.to_csv(batch_of_one, index=False)
    assert manifest.read_manifest(batch_of_one)["outlined"].tolist() == [""]


@pytest.fixture
def batch_of_one(home: Path, tmp_path: Path, lung: Task) -> Path:
    """A manifest of one unit without a mask."""
    folder = tmp_path / "inbox/one"
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(4).integers(0, 255, (64, 64), np.uint8)).save(folder / "a.png")
    (folder / "metadata.csv").write_text("file_name,patient_id,task,label\na.png,p1,lung-ct,normal\n", encoding="utf-8")
    manifest.index_batch(folder, tmp_path / "staging", lung)
    return tmp_path / "staging/manifest.csv"


def test_a_mask_of_any_lesion_gives_no_label(real_data: Path, tmp_path: Path, brain: Task) -> None:
    task = replace(brain, mask=MaskMeaning.LESION)
    with pytest.raises(Fault, match=r"its masks outline lesions of any class \(mask: lesion\), so they give no label"):
        import_folder(real_data / "intake-faults/mask-other-orientation", tmp_path / "batch", task)
