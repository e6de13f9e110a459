"""The training loop: stages and epochs, a checkpoint after every epoch, early stopping."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from data.core_types import Task
from data.dataset.shards import Units
from lineage.errors import Fault
from training.fitting import checkpoint, fine_tuning, lesion_paste, sampling, training_split
from training.fitting.augmentation import Augment, EpochData, Feed
from training.fitting.checkpoint import Arrays, Progress
from training.fitting.fine_tuning import Stage
from training.network import batch_norm, model
from training.network.batch_norm import RecomputeStatistics
from training.settings import ALL, FitSettings

log = logging.getLogger(__name__)


def train(
    network: Any, training: Units, validation: Units, settings: FitSettings, task: Task, checkpoint_path: Path
) -> Progress:
    """Fit the remaining stages and set the weights of the best epoch.

    Every epoch is saved to `checkpoint_path`, from which an interrupted fit resumes. Raises Fault for a loss that is
    not a number.
    """
    feed = make_feed(training, settings, task)
    validation_inputs = _validation_inputs(validation, feed.masks, settings.batch_size)
    progress = checkpoint.load(checkpoint_path)
    if progress.history:
        log.info("resume after epoch %d/%d, from %s", len(progress.history), settings.epochs, checkpoint_path.name)
    for stage in fine_tuning.stages(settings):
        if len(progress.history) < stage.end and not progress.is_finished(settings):
            model.set_trainable(network, stage.trainable)
            learning_model = build_learning_model(
                network, settings, stage, len(feed), task.ordered, task.positive_index, feed.masks
            )
            recompute = batch_norm.RecomputeStatistics(network, training.pixels[feed.draw(0)[: batch_norm.MAX_UNITS]])
            progress = _train_stage(
                learning_model, recompute, feed, validation_inputs, stage, settings, checkpoint_path, progress
            )
    model.set_trainable(network, ALL)
    network.set_weights(list(progress.best))
    return progress


def make_feed(training: Units, settings: FitSettings, task: Task) -> Feed:
    """The feed of training units: sampled by `fit.sampling`, with lesions pasted by `fit.augment.paste`.

    `fit.class_weights` applies only without balanced sampling.
    """
    uses_class_weights = settings.class_weights and settings.sampling != "balanced"

    def epoch_data(units: Units) -> EpochData:
        classes = len(task.classes)
        weights = training_split.class_weights(units.labels, classes) if uses_class_weights else np.ones(classes)
        return (
            units.pixels,
            units.labels,
            weights[units.labels],
            training_split.training_masks(units, task, settings.mask_weight),
        )

    pixels, labels, weights, masks = epoch_data(training)
    lesion_paster = lesion_paste.LesionPaste(training, settings.augment.paste, settings.seed, task.unclear_index)
    return Feed(
        pixels,
        labels,
        weights,
        settings.batch_size,
        settings.seed,
        masks,
        partial(sampling.epoch_order, training, settings.sampling, settings.seed),
        (lambda epoch: epoch_data(lesion_paster.augment_epoch(epoch))) if settings.augment.paste else None,
    )


def build_learning_model(
    network: Any,
    settings: FitSettings,
    stage: Stage,
    steps: int,
    ordered: bool,
    positive: Sequence[int] = (),
    masks: NDArray[np.float32] | None = None,
) -> Any:
    """The compiled model: augmentation and network, AdamW with a cosine schedule, variables built."""
    grid = None if masks is None else masks.shape[1]
    augment = Augment(settings.augment, settings.seed)
    learning_model = model.with_augmentation(network, augment, settings.mask_weight, positive, grid)
    step_count = steps * (stage.end - stage.begin)
    schedule = keras.optimizers.schedules.CosineDecay(
        stage.learning_rate / 10,
        step_count,
        alpha=0.02,
        warmup_target=stage.learning_rate,
        warmup_steps=max(1, step_count // 20),
    )
    learning_model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01), model.loss(ordered), weighted_metrics=["accuracy"]
    )
    learning_model.optimizer.build(learning_model.trainable_variables)
    return learning_model


def _train_stage(
    learning_model: Any,
    recompute: RecomputeStatistics,
    feed: Feed,
    validation_inputs: Any,
    stage: Stage,
    settings: FitSettings,
    checkpoint_path: Path,
    progress: Progress,
) -> Progress:
    """Train the epochs of one stage; within a stage the optimizer state is resumed, a new stage has a new one."""
    variables = [*learning_model.variables, *learning_model.optimizer.variables]
    restored_count = len(variables) if len(progress.history) > stage.begin else len(learning_model.variables)
    for variable, value in zip(variables[:restored_count], progress.state, strict=False):
        variable.assign(value)

    def save_epoch(epoch: int, logs: dict[str, float]) -> None:
        nonlocal progress
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            checkpoint_path.unlink(missing_ok=True)
            raise Fault(f"the loss is not a number in epoch {epoch + 1}; lower fit.learning_rate")
        log.info("epoch %d/%d loss %.4f validation %.4f", epoch + 1, settings.epochs, logs["loss"], logs["val_loss"])
        progress = checkpoint.add_epoch(
            progress, logs, _as_arrays(recompute.network.weights), _as_arrays(variables), settings
        )
        checkpoint.save(checkpoint_path, progress)
        learning_model.stop_training = progress.is_finished(settings)

    epoch_callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: feed.deal(epoch), on_epoch_end=save_epoch
    )
    learning_model.fit(
        feed.source(),
        validation_data=validation_inputs,
        batch_size=None,
        validation_batch_size=feed.size,
        epochs=stage.end,
        initial_epoch=len(progress.history),
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN(), recompute, epoch_callback],
    )
    return progress


def _validation_inputs(validation: Units, masks: NDArray[np.float32] | None, size: int) -> Any:
    """The validation units as inputs of the learning model, padded to whole batches with units of weight 0.

    Masks are empty, so that the validation loss is the loss of the labels only.
    """
    count = len(validation.labels)
    positions = sampling.fill_batches(np.arange(count), size)
    weights = np.where(np.arange(len(positions)) < count, len(positions) / count, 0).astype(np.float32)
    pixels = validation.pixels[positions]
    if masks is None:
        return pixels, validation.labels[positions], weights
    empty = np.zeros((len(positions), *masks.shape[1:]), np.float32)
    return {"pixels": pixels, "masks": empty}, validation.labels[positions], weights


def _as_arrays(variables: list[Any]) -> Arrays:
    return tuple(np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables)
