"""Which units a fit learns from and which tell it when to stop; the test side is never among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.dataset.shards import Units
from data.record import Side, Task
from lineage.errors import Fault

FEWEST_CLUSTERS = 2  # on the training side: from one patient alone a network learns that patient


def sides(units: Units, task: Task) -> tuple[Units, Units]:
    """The training and the validation units.

    Raises Fault for an empty side, training units of one cluster alone, a class without training units, or a picture
    that is not made of numbers (it names the unit).
    """
    training, validation = (units.where(units.table["side"] == side.value) for side in (Side.TRAINING, Side.VALIDATION))
    for side, part in (("training", training), ("validation", validation)):
        if not len(part.labels):
            raise Fault(f"{task.name}: no unit on the {side} side; admit more patients, or change `split`")
        _sound(part, task)
    if training.table["cluster"].nunique() < FEWEST_CLUSTERS:
        only = training.table["cluster"].iloc[0]
        raise Fault(f"{task.name}: all training units are of one {task.cluster} ({only}); admit more of them first")
    counts = np.bincount(training.labels, minlength=len(task.classes))
    empty = [name for name, count in zip(task.classes, counts, strict=True) if not count]
    if empty:
        raise Fault(f"{task.name}: no training unit of class {', '.join(empty)}; admit labelled scans of it first")
    return training, validation


def outlines(units: Units, task: Task, weight: float) -> NDArray[np.float32] | None:
    """The masks that a fit learns from under `fit.mask_weight`; None where it is 0, or no positive unit shows a lesion.

    They tell what should speak for a positive class: a benign lesion's is emptied, whatever `mask` means to the task. A
    positive unit whose mask is empty (its label is its patient's) is left out: NaN. Fault for a negative weight.
    """
    if weight < 0:
        raise Fault(f"fit.mask_weight is {weight}: use 0 (off) or a number above it")
    if units.masks is None or not weight:
        return None
    masks = units.masks.copy()
    positive = np.isin(units.labels, task.positive_index)
    masks[units.masked & ~positive] = 0
    masks[units.masked & positive & ~(units.masks > 0).any(axis=(1, 2, 3))] = np.nan
    return masks if (masks > 0).any() else None


def class_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Weights (classes) that give each class the same sum; their mean over the units is 1."""
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(len(labels) / (classes * counts), np.float64)


def _sound(units: Units, task: Task) -> None:
    for place, picture in enumerate(units.pixels):
        if not np.isfinite(picture).all():
            row = units.table.iloc[place]
            raise Fault(
                f"{task.name}: the pixels of unit {row['unit_id']} of batch {row['batch']} are no numbers; run "
                "the stage prepare again, or withdraw it"
            )
