"""The split of a fit into training and validation units, without test units; masks and class weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.core_types import Side, Task
from data.dataset.shards import Units
from lineage.errors import Fault

MIN_CLUSTERS = 2  # for training: with one patient a network learns that patient


def split_units(units: Units, task: Task) -> tuple[Units, Units]:
    """The training and the validation units.

    Raises Fault for an empty split, training units of a single cluster, a class without training units, or pixels that
    are not finite (it names the unit).
    """
    training, validation = (units.where(units.table["side"] == side.value) for side in (Side.TRAINING, Side.VALIDATION))
    for side, side_units in (("training", training), ("validation", validation)):
        if not len(side_units.labels):
            raise Fault(f"{task.name}: no unit in the {side} split; admit more patients, or change `split`")
        _check_pixels(side_units, task)
    if training.table["cluster"].nunique() < MIN_CLUSTERS:
        cluster = training.table["cluster"].iloc[0]
        raise Fault(f"{task.name}: all training units are of one {task.cluster} ({cluster}); admit more of them first")
    counts = np.bincount(training.labels, minlength=len(task.classes))
    empty = [name for name, count in zip(task.classes, counts, strict=True) if not count]
    if empty:
        raise Fault(f"{task.name}: no training unit of class {', '.join(empty)}; admit labelled scans of it first")
    return training, validation


def training_masks(units: Units, task: Task, weight: float) -> NDArray[np.float32] | None:
    """The masks for the localisation loss; None if `weight` (`fit.mask_weight`) is 0 or no positive unit has a lesion.

    A mask marks evidence for a positive class, so masks of benign lesions become empty, whatever `mask` means to the
    task. A positive unit with an empty mask (its label is the patient's) is left out: NaN. Raises Fault for a negative
    weight.
    """
    if weight < 0:
        raise Fault(f"fit.mask_weight is {weight}: use 0 (off) or a positive number")
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


def _check_pixels(units: Units, task: Task) -> None:
    for position, image in enumerate(units.pixels):
        if not np.isfinite(image).all():
            row = units.table.iloc[position]
            raise Fault(
                f"{task.name}: the pixels of unit {row['unit_id']} of batch {row['batch']} are not finite; run "
                "the stage prepare again, or withdraw it"
            )
