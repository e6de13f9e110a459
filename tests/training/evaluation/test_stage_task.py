"""The shipped task lung-stage on phantoms: ordered classes by lesion size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.core_types import PixelSettings, Task
from data.core_types import ValueUnit as Values
from data.dataset.shards import Units
from data.phantom import study as phantom_study
from data.scan.preprocess import unit_pixels
from pipelines import params

pytestmark = pytest.mark.usefixtures("home")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def task() -> Task:
    return params.load(ROOT).task("lung-stage")


def phantom_units(task: Task, patients: int) -> Units:
    """One slice of each patient: half for training, a fifth for validation, the rest for the test."""
    scanner, classes = phantom_study.usual_scanner(task), len(task.classes)
    studies = [
        phantom_study.make_study(task, scanner, 5, number, task.classes[number % classes]) for number in range(patients)
    ]
    pixels = [unit_pixels(study.slice(0, 1)[0].astype(np.float32), Values.HU, task.pixels) for study in studies]
    names, share_of_patients = [f"P{number}" for number in range(patients)], np.arange(patients) / patients
    table = pd.DataFrame(
        {
            "unit_id": names,
            "cluster": names,
            "case": names,
            "batch": "first",
            "epoch": 1,
            "site": "",
            "scanner": "one",
            "label": [study.label for study in studies],
            "side": np.array(["training", "validation", "test"])[
                np.searchsorted([0.5, 0.7], share_of_patients, side="right")
            ],
            "mean": [float(image.mean()) for image in pixels],
        }
    )
    return Units(table, np.stack(pixels).astype(np.float32), np.arange(patients) % classes)


def test_the_task_is_shipped_with_its_warning(task: Task) -> None:
    assert task.ordered and task.classes == ("small", "medium", "large") and task.positive == ("large",)
    assert task.note == "phantoms only; size as a stand-in for the T category, not TNM"


def test_a_network_learns_the_order_of_sizes(task: Task, samples: Any, tmp_path: Path) -> None:
    from training.evaluation import evaluate
    from training.fitting import fit

    small_task = replace(task, pixels=PixelSettings(64, task.pixels.window))
    units = phantom_units(small_task, 600)
    settings = replace(params.load(ROOT).fit, epochs=25, patience=25, learning_rate=samples.FIT.learning_rate)
    fit.fit(units, small_task, settings, tmp_path / "models")
    test = evaluate.evaluate(
        units, small_task, tmp_path / "models", samples.CALIBRATE, samples.EVALUATE, tmp_path / "evaluation"
    )["test"]
    kappa = test["quadratic_kappa"]
    assert kappa["value"] > 0.45 and kappa["low"] > 0.3, f"chance is 0: {kappa}"
    confusion = np.array(test["confusion"])
    assert confusion[0, 2] + confusion[2, 0] < confusion.sum() / 8, "small and large are confused"
