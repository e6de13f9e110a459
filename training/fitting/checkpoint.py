"""Checkpoints: the progress of a fit, saved after every epoch, so that an interrupted fit resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Task
from data.dataset.shards import Units
from lineage import atomic_write, fingerprint, paths
from training.settings import FitSettings

log = logging.getLogger(__name__)

MIN_IMPROVEMENT = 0.002  # of the validation loss, to count as better for early stopping
ABANDONED_AFTER = 24 * 3600  # seconds without a write, after which a checkpoint of the task is removed
Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Progress:
    """The finished epochs of a fit.

    `history` holds the metrics of each epoch, `best` the weights of the best epoch, and `state` all that the next
    epoch starts from (weights, optimizer, seeds).
    """

    history: tuple[dict[str, float], ...] = ()
    best: Arrays = ()
    state: Arrays = ()

    def best_epoch(self, settings: FitSettings) -> int:
        """The last epoch whose validation loss beat the best one before it by `MIN_IMPROVEMENT`; 0 before the first.

        Without `settings.patience` the last epoch: validation units then do not select the weights.
        """
        if not settings.patience:
            return len(self.history)
        best_loss, best_number = math.inf, 0
        for epoch, metrics in enumerate(self.history, 1):
            if metrics["val_loss"] < best_loss - MIN_IMPROVEMENT:
                best_loss, best_number = metrics["val_loss"], epoch
        return best_number

    def is_finished(self, settings: FitSettings) -> bool:
        """Whether all epochs are done, or the last `settings.patience` epochs were not better.

        Patience does not count the epochs in which only the head trains.
        """
        epoch_count, patience_start = len(self.history), max(self.best_epoch(settings), settings.head_epochs)
        return epoch_count >= settings.epochs or (
            epoch_count > 0 and 0 < settings.patience <= epoch_count - patience_start
        )


def add_epoch(
    progress: Progress, metrics: Mapping[str, float], weights: Arrays, state: Arrays, settings: FitSettings
) -> Progress:
    """The progress with one more epoch; `weights` become `best` if that epoch is the best."""
    history = (*progress.history, {name: float(value) for name, value in metrics.items()})
    extended = Progress(history, weights, state)
    return (
        extended if extended.best_epoch(settings) == len(history) else dataclasses.replace(extended, best=progress.best)
    )


def checkpoint_path(
    training: Units, validation: Units, task: Task, settings: FitSettings, other_inputs: tuple[str, ...]
) -> Path:
    """The checkpoint file of this fit: its name is a hash of all that decides the result.

    These are settings, images, labels, package versions, our code and `other_inputs` (backend, devices, the parent's
    weights). Checkpoints of the same task without a write for a day are removed.
    """
    digest = hashlib.sha256()
    facts = [
        dataclasses.asdict(settings),
        task.classes,
        task.ordered,
        other_inputs,
        version("keras"),
        version("numpy"),
        fingerprint.describe_code(("training/top-level", "training/network", "training/fitting"))["files"],
    ]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for units in (training, validation):
        digest.update(str(units.pixels.shape).encode())
        digest.update(np.ascontiguousarray(units.labels).data)
        digest.update(np.ascontiguousarray(units.pixels).data)
        if units.masks is not None:
            digest.update(np.ascontiguousarray(units.masks).data)
    path = paths.state_path("checkpoints", f"{task.name}-{digest.hexdigest()[:24]}.npz")
    for old in path.parent.glob(f"{task.name}-*"):
        if old != path and time.time() - old.stat().st_mtime > ABANDONED_AFTER:
            old.unlink(missing_ok=True)
    return path


def save(path: Path, progress: Progress) -> None:
    """Write the progress atomically: after a crash the file of the previous epoch remains."""
    arrays = {f"best_{position:04d}": array for position, array in enumerate(progress.best)}
    arrays |= {f"state_{position:04d}": array for position, array in enumerate(progress.state)}
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with atomic_write.replace_file(path, durable=True, temporary=partial), partial.open("wb") as file:
        np.savez(file, history=np.array(json.dumps(progress.history)), **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Progress:
    """Read the saved progress; empty if there is no file, or if it is damaged (logged as a warning)."""
    if not path.is_file():
        return Progress()
    try:
        with np.load(path, allow_pickle=False) as content:
            history = tuple(json.loads(str(content["history"])))
            best, state = (
                tuple(content[name] for name in sorted(content.files) if name.startswith(prefix))
                for prefix in ("best", "state")
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): the fit starts again", path, " ".join(str(error).split()))
        return Progress()
    return Progress(history, best, state)
