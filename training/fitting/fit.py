"""Fit a network on the training units, stop early on the validation units, and export the graph."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.core_types import Task
from data.dataset.shards import Units
from lineage import paths
from lineage.errors import Fault
from training.fitting import checkpoint, training_split, warm_start
from training.fitting.checkpoint import Progress
from training.network import devices, onnx_export
from training.settings import FitSettings

log = logging.getLogger(__name__)

HISTORY = "history.csv"
PRODUCTS = (HISTORY, onnx_export.WEIGHTS, onnx_export.REPORT, onnx_export.EXPECTED, onnx_export.GRAPH, onnx_export.HEAD)
OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "OOM when allocating",
    "out of memory",
    "Out of memory",
)  # messages of the backends


@dataclass(frozen=True)
class FitReport:
    """Settings and results of a fit; written to `fit.json`.

    `parity` is the largest difference of a probability between graph and network; it and `graph_sha256` are None
    until the graph is exported. `resumed_epochs` were finished before an interruption. `batches` are all batches that
    the weights were trained on, including those of a parent. `parent_sha256` is of the weights that a warm fit
    started from.
    """

    task: str
    classes: tuple[str, ...]
    size: int
    settings: dict[str, Any]
    strategy: str
    parent_sha256: str | None
    batches: tuple[str, ...]
    parameters: int
    units: dict[str, int]
    epochs: int
    best_epoch: int
    best_validation_loss: float
    seconds: float
    backend: str
    device: str
    resumed_epochs: int
    weights_sha256: str
    parity: float | None = None
    graph_sha256: str | None = None


def fit(units: Units, task: Task, settings: FitSettings, folder: Path) -> FitReport:
    """Fit `settings.backbone` on the units of one task and write weights, history, graph, linear layer and report.

    Test units are not used. A checkpoint is saved after every epoch: an interrupted fit that is started again resumes
    after its last complete epoch, and ends with the same weights as an uninterrupted one on the same machine. Without
    TensorFlow the graph is left to training.network.onnx_export.export_and_verify.
    Raises Fault for unusable units (training/fitting/training_split.py), a loss that is not a number, or a device out
    of memory; `folder` then holds no model.
    """
    paths.set_environment()
    training, validation = training_split.split_units(units, task)
    folder.mkdir(parents=True, exist_ok=True)
    for name in PRODUCTS:
        (folder / name).unlink(missing_ok=True)
    import keras

    devices.make_deterministic(settings.seed)
    from training.fitting import training_loop
    from training.network import model

    started = time.perf_counter()
    parent = warm_start.pinned_parent(task, settings)
    if parent:
        training = warm_start.replay_units(training, parent, settings.warm.replay, settings.seed)
    device_names = devices.select_devices(settings.devices, settings.batch_size)
    device = ", ".join(device_names)
    inputs = (keras.backend.backend(), device, parent.sha256 if parent else "")
    checkpoint_path = checkpoint.checkpoint_path(training, validation, task, settings, inputs)
    resumed_epochs = len(checkpoint.load(checkpoint_path).history)
    start_settings = _warm_settings(settings, parent)
    try:
        with devices.data_parallel(device_names):
            network = model.build(start_settings, len(task.classes), task.pixels.size)
            progress = training_loop.train(network, training, validation, start_settings, task, checkpoint_path)
    except Exception as error:
        if not isinstance(error, MemoryError) and not any(message in str(error) for message in OUT_OF_MEMORY):
            raise
        raise Fault(
            f"{task.name}: {device} ran out of memory at fit.batch_size {settings.batch_size} and size "
            f"{task.pixels.size}; lower fit.batch_size, or take a smaller backbone"
        ) from error
    if settings.precision != "float32" or len(device_names) != 1:
        network = _as_exported(network, settings, task)
    batches = {*training.table["batch"], *(parent.batches if parent else ())}
    report = FitReport(
        task=task.name,
        classes=task.classes,
        size=task.pixels.size,
        settings=dataclasses.asdict(settings),
        strategy="warm" if parent else "full",
        parent_sha256=parent.sha256 if parent else None,
        batches=tuple(sorted(batches)),
        parameters=int(network.count_params()),
        units={"training": len(training.labels), "validation": len(validation.labels)},
        epochs=len(progress.history),
        best_epoch=(best_epoch := progress.best_epoch(settings)),
        best_validation_loss=progress.history[best_epoch - 1]["val_loss"],
        seconds=round(time.perf_counter() - started, 2),
        backend=keras.backend.backend(),
        device=device,
        resumed_epochs=resumed_epochs,
        weights_sha256=_weights_sha256(network),
    )
    report = _write_products(network, report, progress, validation, folder)
    checkpoint_path.unlink(missing_ok=True)
    return report


def _warm_settings(settings: FitSettings, parent: warm_start.Parent | None) -> FitSettings:
    """The settings of a warm fit: the weights of the parent, its own learning rate, and all layers trainable."""
    if parent is None:
        return settings
    return dataclasses.replace(
        settings,
        weights=str(parent.weights),
        learning_rate=settings.warm.learning_rate,
        head_epochs=0,
        unfreeze_from="all",
    )


def _as_exported(network: Any, settings: FitSettings, task: Task) -> Any:
    """The network in float32 on one device, for the export."""
    from training.network import model

    export_settings = dataclasses.replace(settings, precision="float32", weights="none")
    export_network = model.build(export_settings, len(task.classes), task.pixels.size)
    export_network.set_weights(network.get_weights())
    return export_network


def _write_products(network: Any, report: FitReport, progress: Progress, validation: Units, folder: Path) -> FitReport:
    """Write weights, history and report, and the graph if it can be exported here."""
    from serving.inference.predict import probabilities

    history = pd.DataFrame(progress.history)
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    history.to_csv(folder / HISTORY, index=False)
    network.save_weights(str(folder / onnx_export.WEIGHTS))
    expected = probabilities(np.asarray(network.predict(validation.pixels, verbose=0), np.float32), 1.0)
    onnx_export.save_expected(folder, validation, expected)
    text = json.dumps(dataclasses.asdict(report), indent=1, sort_keys=True)
    (folder / onnx_export.REPORT).write_text(text + "\n", encoding="utf-8")
    if not onnx_export.can_export():
        log.warning(
            "%s: fitted, but this machine has no TensorFlow to export the graph: run `oncoloop stage export "
            "--task %s` where it is installed",
            folder,
            report.task,
        )
        return report
    parity, graph_sha256 = onnx_export.export_and_verify(folder, validation, network)
    return dataclasses.replace(report, parity=parity, graph_sha256=graph_sha256)


def _weights_sha256(network: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
