"""Fit a network on the training side, stop early on the validation side, and export its graph."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.batches import Units
from data.record import Task
from lineage import places
from lineage.fault import Fault
from training import export, parent, progress, sides
from training.progress import Arrays, Progress
from training.settings import FitSettings

log = logging.getLogger(__name__)

HISTORY = "history.csv"
PRODUCTS = (HISTORY, export.WEIGHTS, export.REPORT, export.EXPECTED, export.GRAPH, export.HEAD)
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
    same machine. Without TensorFlow the graph is left to training.export.finish.
    Raises Fault for units that can't be learned from (training/sides.py), a loss that is not a number, or a device
    that ran out of memory; `folder` then holds no model.
    """
    places.set_environment()
    training, validation = sides.sides(units, task)
    folder.mkdir(parents=True, exist_ok=True)
    for name in PRODUCTS:
        (folder / name).unlink(missing_ok=True)
    import keras

    _deterministic(settings.seed)
    from training import model

    started = time.perf_counter()
    ancestor = parent.pinned(task, settings)
    if ancestor:
        training = parent.replayed(training, ancestor, settings.warm.replay, settings.seed)
    inputs = (keras.backend.backend(), _device(), ancestor.sha256 if ancestor else "")
    kept = progress.checkpoint(training, validation, task, settings, inputs)
    resumed = len(progress.load(kept).history)
    network = model.build(_start(settings, ancestor), len(task.classes), task.pixels.size)
    try:
        done = _train(network, training, validation, _start(settings, ancestor), task, kept)
    except Exception as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in EXHAUSTED):
            raise
        raise Fault(f"{task.name}: {_device()} ran out of memory at fit.batch_size {settings.batch_size} and size "
                    f"{task.pixels.size}; lower fit.batch_size, or take a smaller backbone") from error  # fmt: skip
    network = _plain(network, settings, task)
    seen = {*training.table["batch"], *(ancestor.batches if ancestor else ())}
    report = FitReport(
        task=task.name, classes=task.classes, size=task.pixels.size, settings=dataclasses.asdict(settings),
        strategy="warm" if ancestor else "full", parent_sha256=ancestor.sha256 if ancestor else None,
        batches=tuple(sorted(seen)),
        parameters=int(network.count_params()),
        units={"training": len(training.labels), "validation": len(validation.labels)},
        epochs=len(done.history), best_epoch=done.best_epoch,
        best_validation_loss=done.history[done.best_epoch - 1]["val_loss"],
        seconds=round(time.perf_counter() - started, 2), backend=keras.backend.backend(), device=_device(),
        resumed_epochs=resumed, weights_sha256=_weights_sha256(network),
    )  # fmt: skip
    report = _keep(network, report, done, validation, folder)
    kept.unlink(missing_ok=True)
    return report


def _start(settings: FitSettings, ancestor: parent.Parent | None) -> FitSettings:
    """The settings of a warm fit: the parent's weights, and a rate that goes on rather than begins."""
    if ancestor is None:
        return settings
    return dataclasses.replace(settings, weights=str(ancestor.weights), learning_rate=settings.warm.learning_rate)


def _plain(network: Any, settings: FitSettings, task: Task) -> Any:
    """The network computing in float32, as it is exported."""
    from training import model

    if settings.precision == "float32":
        return network
    same = dataclasses.replace(settings, precision="float32", weights="none")
    plain = model.build(same, len(task.classes), task.pixels.size)
    plain.set_weights(network.get_weights())
    return plain


def _deterministic(seed: int) -> None:
    """One seed for Python, NumPy and the backend, and no kernel whose sums depend on the order of threads."""
    import keras

    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _train(network: Any, training: Units, validation: Units, settings: FitSettings, task: Task, kept: Path) -> Progress:
    """Fit epoch by epoch, each kept in the file `kept`; the network then holds the weights of the best one."""
    import keras

    from training.augment import Feed

    classes = len(task.classes)
    weights = sides.class_weights(training.labels, classes) if settings.class_weights else np.ones(classes)
    masks = sides.outlines(training, task, settings.mask_weight)
    feed = Feed(training.pixels, training.labels, weights[training.labels], settings.batch_size, settings.seed, masks)
    learner = _learner(network, settings, len(feed), task.ordered, task.positive_index, masks)
    variables = [*learner.variables, *learner.optimizer.variables]
    reached = progress.load(kept)
    if reached.history:
        log.info("goes on after epoch %d/%d, from %s", len(reached.history), settings.epochs, kept.name)
        for variable, value in zip(variables, reached.state, strict=True):
            variable.assign(value)

    def keep(epoch: int, logs: dict[str, float]) -> None:
        nonlocal reached
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            kept.unlink(missing_ok=True)
            raise Fault(f"the loss is not a number in epoch {epoch + 1}; lower fit.learning_rate")
        log.info("epoch %d/%d loss %.4f validation %.4f", epoch + 1, settings.epochs, logs["loss"], logs["val_loss"])
        reached = progress.after(reached, logs, _values(network.weights), _values(variables))
        progress.save(kept, reached)
        learner.stop_training = reached.ended(settings)

    if not reached.ended(settings):
        watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: feed.deal(epoch), on_epoch_end=keep)
        learner.fit(
            feed, validation_data=(_seen(validation, masks), validation.labels), batch_size=settings.batch_size,
            epochs=settings.epochs, initial_epoch=len(reached.history), shuffle=False, verbose=0,
            callbacks=[keras.callbacks.TerminateOnNaN(), watch],
        )  # fmt: skip
    network.set_weights(list(reached.best))
    return reached


def _seen(validation: Units, masks: NDArray[np.float32] | None) -> Any:
    """What the learner takes of the validation units. Their loss is the labels' alone: the masks are empty."""
    if masks is None:
        return validation.pixels
    return {"pixels": validation.pixels, "masks": np.zeros((len(validation.labels), *masks.shape[1:]), np.float32)}


def _learner(
    network: Any, settings: FitSettings, steps: int, ordered: bool, positive: Sequence[int] = (),
    masks: NDArray[np.float32] | None = None,
) -> Any:  # fmt: skip
    """The network behind its augmentation, with AdamW and a cosine schedule, ready for its variables to be set."""
    import keras

    from training.augment import Augment
    from training.model import loss, with_augmentation

    grid = None if masks is None else masks.shape[1]
    augment = Augment(settings.augment, settings.seed)
    learner = with_augmentation(network, augment, settings.mask_weight, positive, grid)
    whole = steps * settings.epochs
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate / 10, whole, alpha=0.02,
        warmup_target=settings.learning_rate, warmup_steps=max(1, whole // 20))  # fmt: skip
    learner.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss(ordered), weighted_metrics=["accuracy"])
    learner.optimizer.build(learner.trainable_variables)
    return learner


def _values(variables: list[Any]) -> Arrays:
    import keras

    return tuple(np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables)


def _keep(network: Any, report: FitReport, done: Progress, validation: Units, folder: Path) -> FitReport:
    """Write what the fit gave, the graph where it can be exported here."""
    from serving.predict import probabilities

    history = pd.DataFrame(done.history)
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    history.to_csv(folder / HISTORY, index=False)
    network.save_weights(str(folder / export.WEIGHTS))
    expected = probabilities(np.asarray(network.predict(validation.pixels, verbose=0), np.float32), 1.0)
    export.expect(folder, validation, expected)
    text = json.dumps(dataclasses.asdict(report), indent=1, sort_keys=True)
    (folder / export.REPORT).write_text(text + "\n", encoding="utf-8")
    if not export.possible():
        log.warning("%s: fitted, but there is no TensorFlow here to export the graph: run `oncoloop stage export "
                    "--task %s` where it is installed", folder, report.task)  # fmt: skip
        return report
    parity, graph_sha256 = export.finish(folder, validation, network)
    return dataclasses.replace(report, parity=parity, graph_sha256=graph_sha256)


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
