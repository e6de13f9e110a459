"""The DVC stages, pure functions of data, params and code; `oncoloop stage STAGE --task TASK` runs one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from lineage.errors import Fault
from pipelines import params

log = logging.getLogger(__name__)


def prepare(task: str) -> None:
    """Pack the admitted batches of a task into pixel shards and one table of units."""
    from data.dataset import cohorts as dataset_cohorts
    from data.dataset import shards

    settings = params.load().task(task)
    folders = sorted(path.parent for path in Path("data/batches", task).glob("*/manifest.csv"))
    if not folders:
        raise Fault(f"no admitted batch of {task} yet; put one into inbox/ and run `oncoloop ingest`")
    cohorts = dataset_cohorts.restore_cluster_names(
        dataset_cohorts.read_cohorts(Path("data/cohorts", f"{task}.csv")), folders
    )
    shards.pack_shards(folders, cohorts, settings, Path("data/processed", task))


def fit(task: str) -> None:
    """Fit the network on the training cohort and export its graph."""
    from data.dataset import shards
    from pipelines import warm_start_pins
    from training.fitting import fit as fitting

    settings = params.load()
    units = shards.load_units(Path("data/processed", task))
    fitting.fit(
        units,
        settings.task(task),
        warm_start_pins.fit_settings_with_pin(settings.fit_of(task), task),
        Path("models", task),
    )


def export(task: str) -> None:
    """Export the graph of a network that was fitted without TensorFlow. Not a DVC stage: otherwise `fit` exports it."""
    from data.core_types import Side
    from data.dataset import shards
    from training.network import onnx_export as exporting

    params.load().task(task)
    validation = shards.load_units(Path("data/processed", task), [Side.VALIDATION])
    exporting.export_and_verify(Path("models", task), validation)


def evaluate(task: str) -> None:
    """Calibrate on the validation cohort and evaluate on the test cohort, both with the exported graph."""
    from data.dataset import shards
    from training.evaluation import evaluate as evaluation

    settings = params.load()
    units = shards.load_units(Path("data/processed", task))
    evaluation.evaluate(
        units,
        settings.task(task),
        Path("models", task),
        settings.calibrate,
        settings.evaluate,
        Path("evaluation", task),
        settings.serving.abstain_below,
    )


STAGES: dict[str, Callable[[str], None]] = {"prepare": prepare, "fit": fit, "export": export, "evaluate": evaluate}
