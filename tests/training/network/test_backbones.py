"""Every backbone is fitted and exported, agrees with its graph, and answers from a release."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.core_types import Task
from data.dataset.shards import Units
from data.phantom import files
from data.phantom import study as phantom_study
from serving.bundle import bento_build
from serving.inference.graph import Graph
from serving.inference.predict import Prediction, Upload, predict
from serving.inference.release import load_release
from training.evaluation import evaluate
from training.fitting import fit
from training.network import model, onnx_export

pytestmark = pytest.mark.usefixtures("home")
SIZE = 64  # gives feature maps of 2 by 2 with VGG-16 and ResNet-50


def doubled(units: Units) -> Units:
    """The same units with doubled width and height."""
    return Units(units.table, units.pixels.repeat(2, axis=1).repeat(2, axis=2), units.labels)


DEEP = pytest.mark.skipif(not os.environ.get("ONCOLOOP_SOAK"), reason="a minute each: ONCOLOOP_SOAK=1")


@pytest.mark.parametrize("backbone", ["small", *(pytest.param(name, marks=DEEP) for name in model.BACKBONES[1:])])
def test_a_backbone_is_fitted_exported_and_served(samples: Any, backbone: str, tmp_path: Path) -> None:
    units = samples.units(24)
    units = doubled(units)
    task = replace(samples.TASK, pixels=replace(samples.TASK.pixels, size=SIZE))
    settings = replace(samples.FIT, backbone=backbone, epochs=1, batch_size=24, learning_rate=1e-4)
    report = fit.fit(units, task, settings, tmp_path / "model")
    assert report.parity is not None and report.parity < onnx_export.PARITY
    graph = Graph.load(tmp_path / "model" / "graph.onnx")
    with np.load(tmp_path / "model" / "head.npz") as head:
        kernel, bias = head["kernel"], head["bias"]
    logits, features = graph.run(units.pixels[:3])
    assert features.shape[1:3] == ((8, 8) if backbone == "small" else (2, 2))
    assert np.allclose(features.mean(axis=(1, 2)) @ kernel + bias, logits, atol=1e-3)
    onnxruntime_logits = Graph.load(tmp_path / "model" / "graph.onnx", "onnxruntime").run(units.pixels[:3])[0]
    assert np.allclose(onnxruntime_logits, logits, atol=1e-3)
    prediction = predict_phantom(task, units, samples, tmp_path)
    assert prediction.classes == task.classes and sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
    assert prediction.engine["engine"] == "openvino"


def predict_phantom(task: Task, units: Units, samples: Any, folder: Path) -> Prediction:
    """The prediction of a release of that model for one slice of a phantom."""
    rough = replace(samples.EVALUATE, bootstrap=20)
    evaluate.evaluate(units, task, folder / "model", samples.CALIBRATE, rough, folder / "model")
    calibrated = json.loads((folder / "model" / "calibration.json").read_text())
    facts = {
        "title": task.title,
        "modality": "CT",
        "body_parts": list(task.body_parts),
        "classes": list(task.classes),
        "positive": list(task.positive),
        "pixels": {"size": SIZE, "window": [-400, 1500]},
        "pooling": {"rule": "topk", "k": 3},
        "temperature": calibrated["temperature"],
        "threshold": calibrated["threshold"],
        "prevalence": calibrated["prevalence"],
        "conformal": None,
        "precision": "float32",
        "version": "1",
        "note": "",
        "outlier_distance": 1e9,
    }
    serving = {"engine": "openvino", "abstain_below": 0.5, "max_upload_mb": 64}
    manifest = {"release": "r1", "created": "2026-01-31T12:00:00Z", "tasks": {task.name: facts}, "serving": serving}
    release = load_release(bento_build.assemble(folder / "release", manifest, {task.name: folder / "model"}))
    study = phantom_study.make_study(task, phantom_study.usual_scanner(task), 1, 1, "malignant")
    stored, pixel = study.slice(4, 10)
    return predict(release, [Upload("a.dcm", files.dicom(study, stored, pixel, 0))], task.name)
