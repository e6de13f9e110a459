"""The DVC stages: each a pure function of data, params and code. Run by `oncoloop stage STAGE --task TASK`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from lineage import fingerprint
from lineage.fault import Fault
from pipelines import params
from pipelines.workspace import shipped

log = logging.getLogger(__name__)

ROOMS = ("data", "serving", "training")


def write_code(folder: Path) -> dict[str, object]:
    """Write `code.json`: the fingerprint of each room a stage uses, and of the locked packages."""
    rooms = {room: fingerprint.code((room,))["files"] for room in ROOMS}
    record: dict[str, object] = {**rooms, "lock": fingerprint.file_sha256(shipped("requirements.lock"))}
    (folder / "code.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return record


def prepare(task: str) -> None:
    """Pack the admitted batches of a task into pixel shards and one table of units."""
    from data import batches, split

    settings = params.load().task(task)
    folders = sorted(path.parent for path in Path("data/batches", task).glob("*/manifest.csv"))
    if not folders:
        raise Fault(f"no admitted batch of {task} yet; put one into inbox/ and run `oncoloop ingest`")
    cohorts = split.named(split.read_cohorts(Path("data/cohorts", f"{task}.csv")), folders)
    batches.pack(folders, cohorts, settings, Path("data/processed", task))


def fit(task: str) -> None:
    """Fit the network on the training side and export its graph."""
    from data import batches
    from pipelines import parents
    from training import fit as fitting

    settings = params.load()
    units = batches.load(Path("data/processed", task))
    fitting.fit(units, settings.task(task), parents.settings(settings.fit_of(task), task), Path("models", task))


def export(task: str) -> None:
    """The graph of a network that was fitted where there is no TensorFlow; no DVC stage, `fit` does it elsewhere."""
    from data import batches
    from data.record import Side
    from training import export as exporting

    params.load().task(task)
    validation = batches.load(Path("data/processed", task), [Side.VALIDATION])
    exporting.finish(Path("models", task), validation)


def evaluate(task: str) -> None:
    """Calibrate on the validation side and evaluate on the test side, both on the exported graph."""
    from data import batches
    from training import evaluate as evaluation

    settings = params.load()
    units = batches.load(Path("data/processed", task))
    evaluation.evaluate(
        units, settings.task(task), Path("models", task), settings.calibrate, settings.evaluate,
        Path("evaluation", task),
    )  # fmt: skip


RUN: dict[str, Callable[[str], None]] = {"prepare": prepare, "fit": fit, "export": export, "evaluate": evaluate}
