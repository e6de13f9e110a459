"""How far a fit has come: kept on disk after every epoch, so that an interrupted fit goes on where it was."""

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

from data.dataset.shards import Units
from data.record import Task
from lineage import fingerprint, paths
from training.settings import FitSettings

log = logging.getLogger(__name__)

BETTER = 0.002  # of the validation loss: what counts as better for early stopping
FORGOTTEN = 24 * 3600  # seconds after which another checkpoint of the task is taken for abandoned
Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Progress:
    """The finished epochs of a fit: `history` with a record of each, `best` the weights of the best one, and `state`
    all that the next one starts from (weights, optimizer, seeds)."""

    history: tuple[dict[str, float], ...] = ()
    best: Arrays = ()
    state: Arrays = ()

    def best_epoch(self, settings: FitSettings) -> int:
        """The last epoch whose validation loss was better by `BETTER` than the best before it; 0 before the first.

        Without `settings.patience` the last of all: the validation side then has no say in the weights.
        """
        if not settings.patience:
            return len(self.history)
        best, found = math.inf, 0
        for epoch, record in enumerate(self.history, 1):
            if record["val_loss"] < best - BETTER:
                best, found = record["val_loss"], epoch
        return found

    def ended(self, settings: FitSettings) -> bool:
        """Whether all epochs are done, or `settings.patience` of them brought nothing better; epochs of the head alone
        are not counted."""
        done, best = len(self.history), max(self.best_epoch(settings), settings.head_epochs)
        return done >= settings.epochs or (done > 0 and 0 < settings.patience <= done - best)


def after(
    earlier: Progress, record: Mapping[str, float], weights: Arrays, state: Arrays, settings: FitSettings
) -> Progress:
    """The progress with one more epoch; `weights` become the best if it was the best epoch."""
    history = (*earlier.history, {name: float(value) for name, value in record.items()})
    fresh = Progress(history, weights, state)
    return fresh if fresh.best_epoch(settings) == len(history) else dataclasses.replace(fresh, best=earlier.best)


def checkpoint(training: Units, validation: Units, task: Task, settings: FitSettings, inputs: tuple[str, ...]) -> Path:
    """Where the progress of this fit lives: the name is a hash of all that decides its result.

    `inputs` says what else does (backend, precision, the parent's weights). Another setting, picture, label, package
    or line of code is another fit. Checkpoints of the same task that nobody touched for a day are removed.
    """
    digest = hashlib.sha256()
    facts = [
        dataclasses.asdict(settings),
        task.classes,
        task.ordered,
        inputs,
        version("keras"),
        version("numpy"),
        fingerprint.code(("training/top-level", "training/network", "training/fitting"))["files"],
    ]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for units in (training, validation):
        digest.update(str(units.pixels.shape).encode())
        digest.update(np.ascontiguousarray(units.labels).data)
        digest.update(np.ascontiguousarray(units.pixels).data)
        if units.masks is not None:
            digest.update(np.ascontiguousarray(units.masks).data)
    path = paths.place("checkpoints", f"{task.name}-{digest.hexdigest()[:24]}.npz")
    for other in path.parent.glob(f"{task.name}-*"):
        if other != path and time.time() - other.stat().st_mtime > FORGOTTEN:
            other.unlink(missing_ok=True)
    return path


def save(path: Path, progress: Progress) -> None:
    """Write the progress whole or not at all: a crash leaves the file of the epoch before."""
    arrays = {f"best_{place:04d}": array for place, array in enumerate(progress.best)}
    arrays |= {f"state_{place:04d}": array for place, array in enumerate(progress.state)}
    fresh = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with fresh.open("wb") as file:
        np.savez(file, history=np.array(json.dumps(progress.history)), **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load(path: Path) -> Progress:
    """The progress that was kept; an empty one where there is none, or where the file is damaged (which is logged)."""
    if not path.is_file():
        return Progress()
    try:
        with np.load(path, allow_pickle=False) as kept:
            history = tuple(json.loads(str(kept["history"])))
            best, state = (
                tuple(kept[name] for name in sorted(kept.files) if name.startswith(part)) for part in ("best", "state")
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): the fit begins again", path, " ".join(str(error).split()))
        return Progress()
    return Progress(history, best, state)
