"""Fit a network on the training side, stop early on the validation side, and export its graph."""

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

from data.dataset.shards import Units
from data.record import Task
from lineage import paths
from lineage.errors import Fault
from training.fitting import checkpoint, training_split, warm_start
from training.fitting.checkpoint import Progress
from training.network import devices, onnx_export
from training.settings import FitSettings

log = logging.getLogger(__name__)

HISTORY = "history.csv"
PRODUCTS = (HISTORY, onnx_export.WEIGHTS, onnx_export.REPORT, onnx_export.EXPECTED, onnx_export.GRAPH, onnx_export.HEAD)
EXHAUSTED = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "Out of memory")  # as the backends say it


@dataclass(frozen=True)
class FitReport:
    """What a fit was and gave; `fit.json` holds the same.

    `parity` is the largest difference of a probability between graph and network; it and `graph_sha256` are None
    until the graph is exported. `resumed_epochs` were done before an interruption. `batches` are those that the
    weights have learned from, a parent's included; `parent_sha256` is of the weights that a warm fit started from.
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

    The test side is never looked at. The progress is kept after every epoch: an interrupted fit that is asked for
    again goes on after its last whole epoch, and ends with the same weights as one that was not interrupted, on the
    same machine. Without TensorFlow the graph is left to training.network.onnx_export.finish.
    Raises Fault for units that can't be learned from (training/fitting/training_split.py), a loss that is not a
    number, or a device that ran out of memory; `folder` then holds no model.
    """
    paths.set_environment()
    training, validation = training_split.sides(units, task)
    folder.mkdir(parents=True, exist_ok=True)
    for name in PRODUCTS:
        (folder / name).unlink(missing_ok=True)
    import keras

    devices.deterministic(settings.seed)
    from training.fitting import training_loop
    from training.network import model

    started = time.perf_counter()
    ancestor = warm_start.pinned(task, settings)
    if ancestor:
        training = warm_start.replayed(training, ancestor, settings.warm.replay, settings.seed)
    computing = devices.chosen(settings.devices, settings.batch_size)
    device = ", ".join(computing)
    inputs = (keras.backend.backend(), device, ancestor.sha256 if ancestor else "")
    kept = checkpoint.checkpoint(training, validation, task, settings, inputs)
    resumed = len(checkpoint.load(kept).history)
    start = _start(settings, ancestor)
    try:
        with devices.side_by_side(computing):
            network = model.build(start, len(task.classes), task.pixels.size)
            done = training_loop.train(network, training, validation, start, task, kept)
    except Exception as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in EXHAUSTED):
            raise
        raise Fault(
            f"{task.name}: {device} ran out of memory at fit.batch_size {settings.batch_size} and size "
            f"{task.pixels.size}; lower fit.batch_size, or take a smaller backbone"
        ) from error
    network = network if settings.precision == "float32" and len(computing) == 1 else _plain(network, settings, task)
    seen = {*training.table["batch"], *(ancestor.batches if ancestor else ())}
    report = FitReport(
        task=task.name,
        classes=task.classes,
        size=task.pixels.size,
        settings=dataclasses.asdict(settings),
        strategy="warm" if ancestor else "full",
        parent_sha256=ancestor.sha256 if ancestor else None,
        batches=tuple(sorted(seen)),
        parameters=int(network.count_params()),
        units={"training": len(training.labels), "validation": len(validation.labels)},
        epochs=len(done.history),
        best_epoch=(best := done.best_epoch(settings)),
        best_validation_loss=done.history[best - 1]["val_loss"],
        seconds=round(time.perf_counter() - started, 2),
        backend=keras.backend.backend(),
        device=device,
        resumed_epochs=resumed,
        weights_sha256=_weights_sha256(network),
    )
    report = _keep(network, report, done, validation, folder)
    kept.unlink(missing_ok=True)
    return report


def _start(settings: FitSettings, ancestor: warm_start.Parent | None) -> FitSettings:
    """The settings of a warm fit: the parent's weights, and a rate that goes on rather than begins."""
    if ancestor is None:
        return settings
    return dataclasses.replace(
        settings,
        weights=str(ancestor.weights),
        learning_rate=settings.warm.learning_rate,
        head_epochs=0,
        unfreeze_from="all",
    )


def _plain(network: Any, settings: FitSettings, task: Task) -> Any:
    """The network computing in float32 on one device, as it is exported."""
    from training.network import model

    same = dataclasses.replace(settings, precision="float32", weights="none")
    plain = model.build(same, len(task.classes), task.pixels.size)
    plain.set_weights(network.get_weights())
    return plain


def _keep(network: Any, report: FitReport, done: Progress, validation: Units, folder: Path) -> FitReport:
    """Write what the fit gave, the graph where it can be exported here."""
    from serving.inference.predict import probabilities

    history = pd.DataFrame(done.history)
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    history.to_csv(folder / HISTORY, index=False)
    network.save_weights(str(folder / onnx_export.WEIGHTS))
    expected = probabilities(np.asarray(network.predict(validation.pixels, verbose=0), np.float32), 1.0)
    onnx_export.expect(folder, validation, expected)
    text = json.dumps(dataclasses.asdict(report), indent=1, sort_keys=True)
    (folder / onnx_export.REPORT).write_text(text + "\n", encoding="utf-8")
    if not onnx_export.possible():
        log.warning(
            "%s: fitted, but there is no TensorFlow here to export the graph: run `oncoloop stage export "
            "--task %s` where it is installed",
            folder,
            report.task,
        )
        return report
    parity, graph_sha256 = onnx_export.finish(folder, validation, network)
    return dataclasses.replace(report, parity=parity, graph_sha256=graph_sha256)


def _weights_sha256(network: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
