"""MLflow runs: one run for each training, with all that people and promotion need."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lineage import paths
from lineage.errors import Fault
from lineage.fingerprint import file_sha256
from lineage.record.verdict import Verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MODEL_FOLDER = "model"
MODEL_FILES = (
    "graph.onnx",
    "head.npz",
    "fit.json",
    "calibration.json",
    "metrics.json",
    "reference.npz",
    "reference.csv",
    "predictions.csv",
    "weights.weights.h5",
)
BASELINE = "baseline.csv"
PARAM_LENGTH = 6000  # MLflow's limit for the text of a parameter
STATE_TAG = "oncoloop.state"
COMPLETE = "complete"


def log_run(
    task: str, evaluation_folder: Path, model_folder: Path, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Log one finished training from its files and return the run's id.

    The experiment is the task. Logged are: flattened params, metrics of each epoch, test metrics with their bounds,
    plots, the data set under the name of `tags["data_version"]`, and under `model/` the files of a release with a
    signature. An interrupted run is marked FAILED, and `find_run` does not return it.
    """
    client = _client()
    files = [_find_file(name, model_folder, evaluation_folder) for name in MODEL_FILES]
    experiment = client.get_experiment_by_name(task)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(task)
    run_id = str(client.create_run(experiment_id, run_name=_run_name(tags), tags={**tags, "task": task}).info.run_id)
    try:
        _log_params_and_metrics(client, run_id, evaluation_folder, model_folder, params)
        _log_data_set(client, run_id, evaluation_folder, tags)
        for path in files:
            client.log_artifact(run_id, str(path), MODEL_FOLDER)
        client.log_artifact(run_id, str(_find_file(BASELINE, evaluation_folder)), "baseline")
        client.log_text(run_id, _signature(model_folder), f"{MODEL_FOLDER}/signature.json")
        for path in sorted(evaluation_folder.glob("*.png")):
            client.log_artifact(run_id, str(path), "plots")
        client.set_tag(run_id, STATE_TAG, COMPLETE)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    log.info("%s: logged to MLflow as run %s", task, run_id)
    return run_id


def artifact_hashes(evaluation_folder: Path, model_folder: Path) -> dict[str, str]:
    """SHA-256 by file name of each file under `model/`, which a gate, a release, a watch or a warm fit reads."""
    return {name: file_sha256(_find_file(name, model_folder, evaluation_folder)) for name in MODEL_FILES}


def find_run(task: str, lock_hash: str) -> str | None:
    """The id of a task's complete run with that tag `lock_hash`, or None."""
    client = _client()
    experiment = client.get_experiment_by_name(task)
    if experiment is None:
        return None
    condition = f"tags.lock_hash = '{lock_hash}' and tags.`{STATE_TAG}` = '{COMPLETE}'"
    runs = client.search_runs([experiment.experiment_id], condition, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def log_verdict(run_id: str, verdict: Verdict) -> None:
    """Log a verdict to its run: an artifact `verdict.json`, and tags that MLflow's list of runs shows.

    The comparison on earlier epochs and sites is also logged as `earlier.csv`, which MLflow shows as a table.
    """
    client = _client()
    client.log_dict(run_id, verdict.to_dict(), "verdict.json")
    if earlier := _earlier_rows(verdict):
        client.log_text(run_id, pd.DataFrame(earlier).to_csv(index=False), "earlier.csv")
    client.set_tag(run_id, "verdict", verdict.outcome.value)
    client.set_tag(run_id, "verdict.reason", verdict.reasons[0][:500])


def _earlier_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """One row for each rival and each earlier epoch or site: both AUROCs, their difference, bounds and p-values."""
    rivals = [verdict.figures.get(role) for role in ("champion", "anchor")]
    return [
        {"against": rival["rival"], "on": name, **row}
        for rival in rivals
        if rival
        for name, row in rival.get("earlier", {}).items()
    ]


def _log_params_and_metrics(
    client: MlflowClient, run_id: str, evaluation_folder: Path, model_folder: Path, params: Mapping[str, Any]
) -> None:
    """Log params, one metric series for each column of the history, and each test metric with its bounds."""
    from mlflow.entities import Metric, Param

    fitted = _read_json(model_folder / "fit.json")
    fit_params = {
        f"fitted.{key}": fitted[key]
        for key in ("parameters", "best_epoch", "backend", "device", "weights_sha256", "graph_sha256")
    }
    all_params = {**dict(_flatten(params)), **fit_params}
    timestamp = int(time.time() * 1000)
    history = pd.read_csv(model_folder / "history.csv")
    metrics = [
        Metric(f"epoch.{name}", float(row[name]), timestamp, int(row["epoch"]))
        for _, row in history.iterrows()
        for name in history.columns
        if name != "epoch"
    ]
    metrics += [
        Metric(name, value, timestamp, 0)
        for name, value in _metric_values(_read_json(evaluation_folder / "metrics.json"))
    ]
    metrics += [Metric(f"fit.{key}", float(fitted[key]), timestamp, 0) for key in ("seconds", "parity", "epochs")]
    client.log_batch(run_id, params=[Param(key, str(value)[:PARAM_LENGTH]) for key, value in all_params.items()])
    for start in range(0, len(metrics), 900):  # MLflow accepts at most 1000 in a batch
        client.log_batch(run_id, metrics=metrics[start : start + 900])


def _metric_values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values: `test.auroc`, `test.auroc.low`, `test.auroc.high`; `baseline.` and `maps.` alike; counts.

    Those of a further baseline are under its name, as `slice_position.auroc`.
    """
    if (chance := metrics["maps"]["hits"]["chance"]) is not None:
        yield "maps.hits.chance", float(chance)
    groups = {group: metrics[group] for group in ("test", "baseline", "maps")}
    further = {name.replace(" ", "_"): entry for name, entry in metrics.get("baselines", {}).items()}
    for group, entries in (groups | further).items():
        for name, entry in entries.items():
            if isinstance(entry, dict) and "value" in entry:
                for bound, suffix in (("value", ""), ("low", ".low"), ("high", ".high")):
                    if entry[bound] is not None:
                        yield f"{group}.{name}{suffix}", float(entry[bound])
            elif isinstance(entry, int | float):
                yield f"{group}.{name}", float(entry)


def _log_data_set(client: MlflowClient, run_id: str, evaluation_folder: Path, tags: Mapping[str, str]) -> None:
    """Log the held-out units as the run's data set, named by the data version; no pixels."""
    import mlflow.data
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = ["unit_id", "cluster", "batch", "side", "epoch", "label"]
    table = pd.read_csv(evaluation_folder / "predictions.csv", usecols=columns)
    name = tags.get("data_version", "unversioned")
    source = CodeDatasetSource({"data_version": name})
    data_set = mlflow.data.from_pandas(table.astype({"epoch": float}), source=source, name=name)
    data_set_input = DatasetInput(Dataset(**data_set.to_dict()), [InputTag("mlflow.data.context", "evaluation")])
    client.log_inputs(run_id, [data_set_input])


def _signature(model_folder: Path) -> str:
    """The graph's inputs and outputs as an MLflow signature (JSON)."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    fitted = _read_json(model_folder / "fit.json")
    with np.load(model_folder / "head.npz", allow_pickle=False) as head:
        depth = int(head["kernel"].shape[0])
    float32, size = np.dtype(np.float32), fitted["size"]
    signature = ModelSignature(
        Schema([TensorSpec(float32, (-1, size, size, 1), "pixels")]),
        Schema(
            [
                TensorSpec(float32, (-1, len(fitted["classes"])), "logits"),
                TensorSpec(float32, (-1, -1, -1, depth), "features"),
            ]
        ),
    )
    return json.dumps(signature.to_dict(), indent=1)


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _run_name(tags: Mapping[str, str]) -> str:
    return f"{tags.get('data_version', 'unversioned')[:8]} {tags.get('reason', '')}".strip()[:100]


def _find_file(name: str, *folders: Path) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise Fault(f"{name} is in none of {', '.join(map(str, folders))}: run the stages fit and evaluate again")


def _read_json(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _client() -> MlflowClient:
    paths.set_environment()
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    return MlflowClient()
