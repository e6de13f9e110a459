"""The learning itself: stage by stage, epoch by epoch, each epoch kept, until it brings nothing better."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from data.dataset.shards import Units
from data.record import Task
from lineage.errors import Fault
from training.fitting import checkpoint, fine_tuning, lesion_paste, sampling, training_split
from training.fitting.augmentation import Augment, Feed, Shown
from training.fitting.checkpoint import Arrays, Progress
from training.fitting.fine_tuning import Stage
from training.network import batch_norm, model
from training.network.batch_norm import Recount
from training.settings import ALL, FitSettings

log = logging.getLogger(__name__)


def train(network: Any, training: Units, validation: Units, settings: FitSettings, task: Task, kept: Path) -> Progress:
    """Fit the stages that are not done yet; the network then holds the weights of the best epoch.

    Every epoch is kept in the file `kept`, from which an interrupted fit goes on. Raises Fault for a loss that is not
    a number.
    """
    feed = feed_of(training, settings, task)
    told = _told(validation, feed.masks, settings.batch_size)
    reached = checkpoint.load(kept)
    if reached.history:
        log.info("goes on after epoch %d/%d, from %s", len(reached.history), settings.epochs, kept.name)
    for stage in fine_tuning.stages(settings):
        if len(reached.history) < stage.end and not reached.ended(settings):
            model.freeze(network, stage.learns)
            made = learner(network, settings, stage, len(feed), task.ordered, task.positive_index, feed.masks)
            watch = batch_norm.Recount(network, training.pixels[feed.draw(0)[: batch_norm.UNITS]])
            reached = _through(made, watch, feed, told, stage, settings, kept, reached)
    model.freeze(network, ALL)
    network.set_weights(list(reached.best))
    return reached


def feed_of(training: Units, settings: FitSettings, task: Task) -> Feed:
    """The training units by `fit.sampling`, weighted by `fit.class_weights` where they are not drawn alike anyway;
    lesions go over from one to another by `fit.augment.paste`."""
    weighted = settings.class_weights and settings.sampling != "balanced"

    def shown(units: Units) -> Shown:
        classes = len(task.classes)
        weights = training_split.class_weights(units.labels, classes) if weighted else np.ones(classes)
        return (
            units.pixels,
            units.labels,
            weights[units.labels],
            training_split.outlines(units, task, settings.mask_weight),
        )

    pixels, labels, weights, masks = shown(training)
    moving = lesion_paste.Lesions(training, settings.augment.paste, settings.seed, task.unclear_index)
    return Feed(
        pixels,
        labels,
        weights,
        settings.batch_size,
        settings.seed,
        masks,
        partial(sampling.order, training, settings.sampling, settings.seed),
        (lambda epoch: shown(moving.shown(epoch))) if settings.augment.paste else None,
    )


def learner(
    network: Any,
    settings: FitSettings,
    stage: Stage,
    steps: int,
    ordered: bool,
    positive: Sequence[int] = (),
    masks: NDArray[np.float32] | None = None,
) -> Any:
    """The network behind its augmentation, with AdamW and a cosine schedule, ready for its variables to be set."""
    grid = None if masks is None else masks.shape[1]
    augment = Augment(settings.augment, settings.seed)
    made = model.with_augmentation(network, augment, settings.mask_weight, positive, grid)
    whole = steps * (stage.end - stage.begin)
    rate = keras.optimizers.schedules.CosineDecay(
        stage.rate / 10, whole, alpha=0.02, warmup_target=stage.rate, warmup_steps=max(1, whole // 20)
    )
    made.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), model.loss(ordered), weighted_metrics=["accuracy"])
    made.optimizer.build(made.trainable_variables)
    return made


def _through(
    made: Any, watch: Recount, feed: Feed, told: Any, stage: Stage, settings: FitSettings, kept: Path, reached: Progress
) -> Progress:
    """The epochs of one stage; within it the optimizer goes on too, a new stage has a new one."""
    variables = [*made.variables, *made.optimizer.variables]
    known = len(variables) if len(reached.history) > stage.begin else len(made.variables)
    for variable, value in zip(variables[:known], reached.state, strict=False):
        variable.assign(value)

    def keep(epoch: int, logs: dict[str, float]) -> None:
        nonlocal reached
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            kept.unlink(missing_ok=True)
            raise Fault(f"the loss is not a number in epoch {epoch + 1}; lower fit.learning_rate")
        log.info("epoch %d/%d loss %.4f validation %.4f", epoch + 1, settings.epochs, logs["loss"], logs["val_loss"])
        reached = checkpoint.after(reached, logs, _values(watch.network.weights), _values(variables), settings)
        checkpoint.save(kept, reached)
        made.stop_training = reached.ended(settings)

    rounds = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: feed.deal(epoch), on_epoch_end=keep)
    made.fit(
        feed.source(),
        validation_data=told,
        batch_size=None,
        validation_batch_size=feed.size,
        epochs=stage.end,
        initial_epoch=len(reached.history),
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN(), watch, rounds],
    )
    return reached


def _told(validation: Units, masks: NDArray[np.float32] | None, size: int) -> Any:
    """What the learner takes of the validation units, filled up to whole batches with units that count nothing.

    Their loss is the labels' alone: the masks are empty.
    """
    count = len(validation.labels)
    places = sampling.full(np.arange(count), size)
    weights = np.where(np.arange(len(places)) < count, len(places) / count, 0).astype(np.float32)
    seen = validation.pixels[places]
    if masks is None:
        return seen, validation.labels[places], weights
    empty = np.zeros((len(places), *masks.shape[1:]), np.float32)
    return {"pixels": seen, "masks": empty}, validation.labels[places], weights


def _values(variables: list[Any]) -> Arrays:
    return tuple(np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables)
