"""Calibrate on the validation side, evaluate on the test side: on the exported graph, as it will be served."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset.shards import Units
from data.record import Side, Task
from lineage import paths
from lineage.errors import Fault
from serving.inference.graph import Graph
from serving.inference.predict import decide, probabilities
from training.evaluation import baseline, heatmap_checks, plots, reference_set, subgroup_metrics
from training.evaluation import calibration as evaluation_calibration
from training.evaluation import metrics as evaluation_metrics
from training.evaluation.calibration import Calibration
from training.settings import CalibrateSettings, EvaluateSettings

log = logging.getLogger(__name__)

GRAPH, HEAD = "graph.onnx", "head.npz"
CALIBRATION, METRICS, PREDICTIONS = "calibration.json", "metrics.json", "predictions.csv"
FACTS = ("unit_id", "cluster", "case", "batch", "side", "epoch", "site", "scanner", "label")
HALF_DIFFERENCE = 0.03  # of a probability: bfloat16 against float32 on the validation side
HALF_FLIPS = 0.01  # share of validation units whose answer may differ
Array = NDArray[np.float32]


def evaluate(
    units: Units,
    task: Task,
    graph_folder: Path,
    calibration: CalibrateSettings,
    settings: EvaluateSettings,
    target: Path,
) -> dict[str, Any]:
    """Write calibration, metrics, predictions of the held-out units, reference and plots; give the metrics.

    Validation units serve the calibration alone; every figure under `test` is of test units, with intervals by
    cluster; `baseline` is the logistic regression beside it, where training units are given for it to learn from.
    Raises Fault where the validation or the test side is empty.
    """
    paths.set_environment()
    held = units.where(units.table["side"].isin([Side.VALIDATION.value, Side.TEST.value]))
    validation = (held.table["side"] == Side.VALIDATION.value).to_numpy()
    for side, present in (("validation", validation.any()), ("test", (~validation).any())):
        if not present:
            raise Fault(f"{task.name}: no unit on the {side} side; admit more patients, or change `split`")
    target.mkdir(parents=True, exist_ok=True)
    precision, check = _precision(graph_folder / GRAPH, held.where(validation), task, settings.precision)
    logits, features = Graph.load(graph_folder / GRAPH, "openvino", precision).run(held.pixels)
    calibrated = evaluation_calibration.calibrate(
        logits[validation],
        held.labels[validation],
        held.table["cluster"].to_numpy(str)[validation],
        task,
        calibration,
        precision,
        check,
    )
    judged = judge(held.table, logits, calibrated.temperature, calibrated.threshold, task)
    metrics = _metrics(units, judged, task, settings)
    test = (~validation).nonzero()[0]
    metrics["conformal"] = evaluation_metrics.conformal(judged.iloc[test], calibrated.conformal, settings)
    metrics["maps"] = _maps(judged, features, held.masks, graph_folder, task, settings)
    if len(held.labels) < len(units.labels):
        simple, names = baseline.judge(units, task, settings.seed)
        simple.to_csv(target / baseline.PREDICTIONS, index=False)
        metrics["baseline"] = baseline.compare(judged, simple, names, task, settings)
    _write_json(target / CALIBRATION, calibrated.to_dict())
    _write_json(target / METRICS, metrics)
    judged.to_csv(target / PREDICTIONS, index=False)
    reference_set.write(target, held, judged, features)
    _plots(target, graph_folder, held, judged, features, calibrated, task)
    log.info("%s: test AUROC %s over %d clusters", task.name, metrics["test"]["auroc"], metrics["test"]["clusters"])
    return metrics


def predictions(units: Units, folder: Path, task: Task, engine: str = "openvino") -> pd.DataFrame:
    """What the model in `folder` (graph.onnx, calibration.json) says about the held-out units, as it is served.

    The table has the columns of `predictions.csv`. It is how a champion meets the newest test units.
    """
    if not (folder / CALIBRATION).is_file():
        raise Fault(f"{folder / CALIBRATION} is missing: evaluate the task again")
    calibrated = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    held = units.where(units.table["side"].isin([Side.VALIDATION.value, Side.TEST.value]))
    logits, _ = Graph.load(folder / GRAPH, engine, calibrated["precision"]).run(held.pixels)
    return judge(held.table, logits, calibrated["temperature"], calibrated["threshold"], task)


def read_predictions(folder: Path) -> pd.DataFrame:
    """The table that `evaluate` wrote to a folder."""
    path = folder / PREDICTIONS
    if not path.is_file():
        raise Fault(f"{path} is missing: evaluate the task again")
    texts = dict.fromkeys((name for name in FACTS if name != "epoch"), str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False, float_precision="round_trip")


def judge(table: pd.DataFrame, logits: Array, temperature: float, threshold: float, task: Task) -> pd.DataFrame:
    """One row per unit: who it is of, the truth (`positive` 0 or 1), `score`, `flagged` (score at or over the
    operating point), `predicted`, and the probability `p_<class>` of each class."""
    sure = probabilities(logits, temperature)
    scores = sure[:, task.positive_index].sum(axis=1).astype(np.float64)  # exact in the CSV and back
    facts = table[list(FACTS)].reset_index(drop=True).fillna({name: "" for name in FACTS if name != "epoch"})
    return facts.assign(
        positive=facts["label"].isin(task.positive).astype(int),
        score=scores,
        flagged=(scores >= threshold).astype(int),
        predicted=[task.classes[decide(row, task.positive_index, threshold)] for row in sure],
        **{f"p_{name}": sure[:, index].astype(np.float64) for index, name in enumerate(task.classes)},
    )


def _precision(graph: Path, validation: Units, task: Task, wanted: str) -> tuple[str, dict[str, Any]]:
    """`auto` takes bfloat16 where this CPU runs it and the validation units' probabilities hardly move."""
    if wanted != "auto":
        return wanted, {"asked": wanted}
    half = Graph.load(graph, "openvino", "bfloat16")
    if half.precision != "bfloat16":
        return "float32", {"asked": "auto", "reason": "this CPU has no bfloat16"}
    sure = [probabilities(each.run(validation.pixels)[0], 1.0) for each in (Graph.load(graph, "openvino"), half)]
    difference = float(np.abs(sure[0] - sure[1]).max())
    flips = float((sure[0].argmax(axis=1) != sure[1].argmax(axis=1)).mean())
    passed = difference <= HALF_DIFFERENCE and flips <= HALF_FLIPS
    figures_of = {"asked": "auto", "difference": difference, "flips": flips, "units": len(sure[0])}
    log.info("%s: bfloat16 moves a probability by at most %.4f", task.name, difference)
    return ("bfloat16" if passed else "float32"), figures_of


def _metrics(units: Units, judged: pd.DataFrame, task: Task, settings: EvaluateSettings) -> dict[str, Any]:
    test = judged[judged["side"] == Side.TEST.value]
    sides = {side.value: _count(units.table[units.table["side"] == side.value], task) for side in Side}
    return {
        "task": task.name,
        "classes": list(task.classes),
        "positive": list(task.positive),
        "unit": task.unit,
        "counts": sides,
        "test": evaluation_metrics.figures(test, task.classes, settings, task.ordered),
        **subgroup_metrics.groups(test, units.table, task.classes, settings),
    }


def _maps(
    judged: pd.DataFrame,
    features: Array,
    masks: Array | None,
    graph_folder: Path,
    task: Task,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """The checks of the heat maps on the test units that were called positive; hits count where that was right."""
    called = np.flatnonzero((judged["side"] == Side.TEST.value) & (judged["flagged"] == 1))
    answers = np.array([task.classes.index(name) for name in judged["predicted"].to_numpy()[called]], np.int64)
    with np.load(graph_folder / HEAD, allow_pickle=False) as head:
        kernel = head["kernel"]
    random = heatmap_checks.randomised(features[called], kernel, answers, settings.seed)
    drawn = None if masks is None else masks[called]
    labels = np.array([task.classes.index(name) for name in judged["label"].to_numpy()[called]], np.int64)
    clusters = judged["cluster"].to_numpy(str)[called]
    return random | {"hits": heatmap_checks.hits(features[called], kernel, answers, drawn, clusters, settings, labels)}


def _count(table: pd.DataFrame, task: Task) -> dict[str, Any]:
    return {
        "units": len(table),
        "clusters": int(table["cluster"].nunique()),
        "labels": {name: int((table["label"] == name).sum()) for name in task.classes},
    }


def _plots(
    target: Path,
    graph_folder: Path,
    held: Units,
    judged: pd.DataFrame,
    features: Array,
    calibrated: Calibration,
    task: Task,
) -> None:
    with np.load(graph_folder / HEAD, allow_pickle=False) as head:
        kernel = head["kernel"]
    test = (judged["side"] == Side.TEST.value).to_numpy()
    plots.curves(target, judged[test], calibrated.threshold, task)
    plots.confusion(target / "confusion.png", judged[test], task)
    plots.learning(target / "learning.png", graph_folder / "history.csv")
    plots.errors(target / "errors.png", judged[test], held.pixels[test], features[test], kernel, task)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
