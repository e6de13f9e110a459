"""Whole-body series on a model fitted with hand-picked slices: many slices alone must not give a positive answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.core_types import Task
from data.dataset.shards import Units
from data.phantom import anatomy
from data.phantom import files as phantom_files
from data.phantom import study as phantom_study
from data.phantom.scanner import acquire
from data.scan import preprocess, read
from lineage import keys, paths
from lineage.errors import Fault
from pipelines import params
from serving.bundle import bento_build
from serving.inference import outlier
from serving.inference.predict import Prediction, Upload, predict
from serving.inference.release import Release, load_release
from training.evaluation import evaluate
from training.fitting import fit

ROOT = Path(__file__).resolve().parents[3]
PATIENTS, CHEST, SLICES = 150, 200, 300
HEALTHY = range(900, 903)


def picked_units(task: Task) -> Units:
    """One slice a patient from the middle of the chest, through the lesion if there is one."""
    rows, images = [], []
    for number in range(PATIENTS):
        label = task.classes[number % 3]
        study = phantom_study.make_study(task, phantom_study.usual_scanner(task), 1, number, label)
        stored, pixel = study.slice(3 + number % 4, 10)
        scan = read.read_scan("a.dcm", phantom_files.dicom(study, stored, pixel, 0))
        images.append(preprocess.scan_pixels(scan, task.pixels)[0])
        side = "training" if number % 10 < 5 else "validation" if number % 10 < 7 else "test"
        rows.append({"unit_id": f"u{number}", "cluster": f"P{number}", "label": label, "side": side})
    table = pd.DataFrame(rows).assign(batch="b", case=lambda t: t["cluster"], epoch=1, site="", scanner="")
    return Units(table, np.stack(images), np.arange(PATIENTS) % 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder with keys for all tests in this file."""
    folder = tmp_path_factory.mktemp("bodies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOLOOP_HOME", str(folder / "var"))
        for name, value in paths.environment().items():
            patch.setenv(name, value)
        keys.create()
        yield folder


@pytest.fixture(scope="module")
def release(folder: Path) -> Release:
    settings = params.load(ROOT)
    task = settings.tasks["lung-ct"]
    units = picked_units(task)
    fit.fit(units, task, replace(settings.fit, epochs=15), folder / "model")
    evaluate.evaluate(units, task, folder / "model", settings.calibrate, settings.evaluate, folder / "model")
    return load_release(bento_build.assemble(folder / "release", manifest(task, folder), {task.name: folder / "model"}))


def manifest(task: Task, folder: Path) -> dict[str, Any]:
    calibrated = pd.read_json(folder / "model" / "calibration.json", typ="series")
    facts = {
        "title": task.title,
        "modality": "CT",
        "body_parts": list(task.body_parts),
        "classes": list(task.classes),
        "positive": list(task.positive),
        "pixels": {"size": 128, "window": list(task.pixels.window or ())},
        "pooling": {"rule": "topk", "k": 3},
        "temperature": calibrated["temperature"],
        "threshold": calibrated["threshold"],
        "prevalence": calibrated["prevalence"],
        "conformal": None,
        "precision": "float32",
        "version": "1",
        "note": "phantoms only",
        "outlier_distance": outlier.distance_limit(folder / "model" / "reference.npz", 0.995),
    }
    serving = {"engine": "openvino", "abstain_below": 0.5, "max_upload_mb": 256}
    return {"release": "r1", "created": "2026-01-31T12:00:00Z", "tasks": {task.name: facts}, "serving": serving}


def body_uploads(task: Task, seed: int, label: str) -> list[Upload]:
    """A study from the apex of the lungs to the pelvis: 200 slices of chest, then 100 of abdomen."""
    study = phantom_study.make_study(task, phantom_study.usual_scanner(task), seed, seed, label)
    files = []
    for number in range(SLICES):
        stored, pixel = study.slice(min(number, CHEST - 1), CHEST)
        if number >= CHEST:
            patient, detail = np.random.default_rng(seed), np.random.default_rng([seed, number])
            level = (number - CHEST + 0.5) / (SLICES - CHEST) * 2 - 1
            plane = anatomy.abdomen(patient, detail, pixel, None, study.scanner.habit, level)
            stored = acquire(plane, study.scanner, detail)
        files.append(Upload(f"{number}.dcm", phantom_files.dicom(study, stored, pixel, number)))
    return files


def predict_body(release: Release, seed: int, label: str) -> Prediction:
    task = params.load(ROOT).tasks["lung-ct"]
    return predict(release, body_uploads(task, seed, label), "lung-ct")


@pytest.fixture(scope="module")
def healthy(release: Release) -> dict[int, Prediction]:
    return {seed: predict_body(release, seed, "normal") for seed in HEALTHY}


def test_healthy_bodies_of_300_slices_are_not_called_malignant(healthy: dict[int, Prediction]) -> None:
    top_three_positive = []
    for seed, prediction in healthy.items():
        assert prediction.answer != "malignant", (
            f"body {seed}: {prediction.score:.3f} at a threshold of {prediction.threshold:.3f}"
        )
        chest_counted = [slice_record["counted"] for slice_record in prediction.slices if slice_record["index"] < CHEST]
        abdomen_counted = [
            slice_record["counted"] for slice_record in prediction.slices if slice_record["index"] >= CHEST
        ]
        assert np.mean(chest_counted) > 0.9 and np.mean(abdomen_counted) < 0.05, (
            "slices of the abdomen are left out, slices of the chest are not"
        )
        top_three_positive.append(
            np.sort([slice_record["score"] for slice_record in prediction.slices])[-3:].mean() >= prediction.threshold
        )
    assert any(top_three_positive), "the mean of the top three slices would be correct too: the test proves nothing"


def test_a_large_lesion_among_300_slices_raises_the_score(release: Release, healthy: dict[int, Prediction]) -> None:
    malignant_score = np.median([predict_body(release, seed, "malignant").score for seed in HEALTHY])
    assert malignant_score > 2 * np.median([prediction.score for prediction in healthy.values()])


def test_a_model_of_phantoms_withholds_every_answer_on_real_series(release: Release, real_data: Path) -> None:
    outcomes = []
    for folder in sorted((real_data / "dicom-zoo" / "series").iterdir()):
        files = [Upload(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]
        try:
            outcomes.append(predict(release, files, "lung-ct").answer)
        except Fault as fault:
            assert folder.name in str(fault) or any(file.name in str(fault) for file in files)
    assert len(outcomes) > 10 and set(outcomes) == {None}
