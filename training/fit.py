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
from numpy.typing import NDArray

from data.batches import Units
from data.record import Side, Task
from lineage import fingerprint, places
from lineage.fault import Fault
from training import export
from training.settings import FitSettings

log = logging.getLogger(__name__)

HISTORY = "history.csv"
BETTER = 0.002  # of the validation loss: what counts as better for early stopping
PARITY = 1e-3  # of a probability: float32 in another order of summing stays well under it
Trained = tuple[pd.DataFrame, int]


@dataclass(frozen=True)
class FitReport:
    """What a fit was and gave; `fit.json` holds the same. `parity` is the largest difference of a probability."""

    task: str
    classes: tuple[str, ...]
    size: int
    settings: dict[str, Any]
    parameters: int
    units: dict[str, int]
    epochs: int
    best_epoch: int
    best_validation_loss: float
    seconds: float
    backend: str
    device: str
    parity: float
    weights_sha256: str
    graph_sha256: str


def fit(units: Units, task: Task, settings: FitSettings, folder: Path) -> FitReport:
    """Fit `settings.backbone` on the units of one task and write weights, history, graph, linear layer and report.

    The test side is never looked at. Raises Fault for a side without units, a class without training units, or a
    loss that is not a number. The same units, settings and machine give the same weights.
    """
    places.set_environment()
    training, validation = _sides(units, task)
    folder.mkdir(parents=True, exist_ok=True)
    import keras

    _deterministic(settings.seed)
    from training import model

    started = time.perf_counter()
    network = model.build(settings, len(task.classes), task.pixels.size)
    history, best_epoch = _train(network, training, validation, settings, len(task.classes))
    history.to_csv(folder / HISTORY, index=False)
    network.save_weights(str(folder / export.WEIGHTS))
    report = FitReport(
        task=task.name, classes=task.classes, size=task.pixels.size, settings=dataclasses.asdict(settings),
        parameters=int(network.count_params()),
        units={"training": len(training.labels), "validation": len(validation.labels)},
        epochs=len(history), best_epoch=best_epoch,
        best_validation_loss=float(history["val_loss"].iloc[best_epoch - 1]),
        seconds=round(time.perf_counter() - started, 2), backend=keras.backend.backend(), device=_device(),
        parity=float("nan"), weights_sha256=_weights_sha256(network), graph_sha256="",
    )  # fmt: skip
    _write(report, folder)
    return _export(network, validation.pixels, report, folder)


def _sides(units: Units, task: Task) -> tuple[Units, Units]:
    training, validation = (units.where(units.table["side"] == side.value) for side in (Side.TRAINING, Side.VALIDATION))
    for side, part in (("training", training), ("validation", validation)):
        if not len(part.labels):
            raise Fault(f"{task.name}: no unit on the {side} side; admit more patients, or change `split`")
    counts = np.bincount(training.labels, minlength=len(task.classes))
    empty = [name for name, count in zip(task.classes, counts, strict=True) if not count]
    if empty:
        raise Fault(f"{task.name}: no training unit of class {', '.join(empty)}; admit labelled scans of it first")
    return training, validation


def _deterministic(seed: int) -> None:
    """One seed for Python, NumPy and the backend, and no kernel whose sums depend on the order of threads."""
    import keras

    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _train(network: Any, training: Units, validation: Units, settings: FitSettings, classes: int) -> Trained:
    """Fit with AdamW, a cosine schedule and early stopping; the network keeps the weights of its best epoch (given)."""
    import keras

    from training.augment import Augment

    pixels = keras.Input(network.input_shape[1:], name="pixels")
    learner = keras.Model(pixels, network(Augment(settings.augment, settings.seed)(pixels)))
    steps = -(-len(training.labels) // settings.batch_size) * settings.epochs
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate / 10, steps, alpha=0.02,
        warmup_target=settings.learning_rate, warmup_steps=max(1, steps // 20))  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss, weighted_metrics=["accuracy"])
    weights = _class_weights(training.labels, classes) if settings.class_weights else np.ones(classes)
    callbacks = _callbacks(settings)
    recorded = learner.fit(
        training.pixels, training.labels, sample_weight=weights[training.labels].astype(np.float32),
        validation_data=(validation.pixels, validation.labels), batch_size=settings.batch_size,
        epochs=settings.epochs, shuffle=True, verbose=0, callbacks=callbacks,
    )  # fmt: skip
    history = pd.DataFrame(recorded.history)
    if not np.isfinite(history[["loss", "val_loss"]].to_numpy()).all():
        raise Fault("the loss is not a number; lower fit.learning_rate, or look for damaged scans")
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    return history, int(callbacks[0].best_epoch) + 1


def _callbacks(settings: FitSettings) -> list[Any]:
    import keras

    def tell(epoch: int, logs: dict[str, float]) -> None:
        log.info("epoch %d/%d loss %.4f validation %.4f", epoch + 1, settings.epochs, logs["loss"], logs["val_loss"])

    stop = keras.callbacks.EarlyStopping(
        "val_loss", patience=settings.patience, min_delta=BETTER, restore_best_weights=True
    )
    return [stop, keras.callbacks.TerminateOnNaN(), keras.callbacks.LambdaCallback(on_epoch_end=tell)]


def _class_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Weights that give each class the same sum; their mean over the units is 1."""
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(len(labels) / (classes * counts), np.float64)


def _export(network: Any, pixels: NDArray[np.float32], report: FitReport, folder: Path) -> FitReport:
    from serving.predict import probabilities

    graph = export.export(folder, network)
    expected = probabilities(np.asarray(network.predict(pixels, verbose=0), np.float32), 1.0)
    difference = export.parity(graph, pixels, expected)
    if not difference <= PARITY:
        raise Fault(f"{graph}: the exported graph differs from Keras by {difference:.2g} of a probability")
    report = dataclasses.replace(report, parity=difference, graph_sha256=fingerprint.file_sha256(graph))
    _write(report, folder)
    return report


def _write(report: FitReport, folder: Path) -> None:
    text = json.dumps(dataclasses.asdict(report), indent=1, sort_keys=True)
    (folder / export.REPORT).write_text(text + "\n", encoding="utf-8")


def _weights_sha256(network: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _device() -> str:
    import keras

    found = keras.distribution.list_devices()
    return str(found[0]) if found else "cpu"
