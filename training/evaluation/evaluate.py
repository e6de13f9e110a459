"""Evaluation of the exported graph: calibration on validation units, metrics on test units, reference, plots."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Side, Task
from data.dataset.shards import Units
from lineage import paths
from lineage.errors import Fault
from serving.inference.graph import Graph
from serving.inference.predict import decide, probabilities
from training.evaluation import (
    answered,
    baseline,
    heatmap_checks,
    plots,
    reference_set,
    site_calibration,
    subgroup_metrics,
)
from training.evaluation import calibration as evaluation_calibration
from training.evaluation import metrics as evaluation_metrics
from training.evaluation.calibration import Calibration
from training.settings import CalibrateSettings, EvaluateSettings

log = logging.getLogger(__name__)

ABSTAIN_BELOW = "abstain_below"  # key of the confidence under which the release would withhold
GRAPH, HEAD = "graph.onnx", "head.npz"
CALIBRATION, METRICS, PREDICTIONS = "calibration.json", "metrics.json", "predictions.csv"
FACTS = ("unit_id", "cluster", "case", "batch", "side", "epoch", "site", "scanner", "label")
MAX_BFLOAT16_DIFFERENCE = 0.03  # of a probability: bfloat16 against float32 on the validation units
MAX_BFLOAT16_CHANGED = 0.01  # share of validation units whose answer may differ
Array = NDArray[np.float32]


def evaluate(
    units: Units,
    task: Task,
    graph_folder: Path,
    calibration: CalibrateSettings,
    settings: EvaluateSettings,
    target: Path,
    abstain_below: float = 0.0,
    further_features: Mapping[str, NDArray[np.floating]] | None = None,
) -> dict[str, Any]:
    """Write calibration, metrics, predictions of the held-out units, reference and plots; return the metrics.

    Validation units are used for calibration only. Every metric under `test` is of test units, with intervals by
    cluster; coverage and the metrics of the answered units are those of a release that withholds answers with a
    confidence under `abstain_below`. `baseline` is the logistic regression on intensities of the same units, if `units`
    includes training units for its fit; `baselines` are those on other simple features, and on each of
    `further_features`, a matrix (n, d) of all units.
    Raises Fault if there are no validation or no test units.
    """
    paths.set_environment()
    held_out = units.where(units.table["side"].isin([Side.VALIDATION.value, Side.TEST.value]))
    validation = (held_out.table["side"] == Side.VALIDATION.value).to_numpy()
    for side, has_units in (("validation", validation.any()), ("test", (~validation).any())):
        if not has_units:
            raise Fault(f"{task.name}: no unit in the {side} split; admit more patients, or change `split`")
    target.mkdir(parents=True, exist_ok=True)
    precision, precision_check = _choose_precision(
        graph_folder / GRAPH, held_out.where(validation), task, settings.precision
    )
    logits, features = Graph.load(graph_folder / GRAPH, "openvino", precision).run(held_out.pixels)
    calibrated = evaluation_calibration.calibrate(
        logits[validation],
        held_out.labels[validation],
        held_out.table["cluster"].to_numpy(str)[validation],
        task,
        calibration,
        precision,
        precision_check,
        abstain_below,
    )
    judged = judge(held_out.table, logits, calibrated.temperature, calibrated.threshold, task)
    judged = _with_reasons(judged, calibrated.conformal, abstain_below, task)
    metrics = _test_metrics(units, judged, task, settings)
    metrics["answering"] = {ABSTAIN_BELOW: abstain_below, "level": calibrated.conformal["level"]}
    test_rows = (~validation).nonzero()[0]
    metrics["conformal"] = evaluation_metrics.conformal(judged.iloc[test_rows], calibrated.conformal, settings)
    metrics["maps"] = _check_heatmaps(judged, features, held_out.masks, graph_folder, task, settings)
    if len(held_out.labels) < len(units.labels):
        baseline_predictions, feature_names = baseline.judge(units, task, settings.seed)
        baseline_predictions.to_csv(target / baseline.PREDICTIONS, index=False)
        metrics["baseline"] = baseline.compare(judged, baseline_predictions, feature_names, task, settings)
        further_baselines = baseline.predict_further(units, task, settings.seed, further_features)
        metrics["baselines"] = baseline.compare_further(judged, further_baselines, task, settings)
    scores = site_calibration.reference_scores(
        _class_probabilities(judged[validation], task),
        held_out.labels[validation],
        held_out.table["cluster"].to_numpy(str)[validation],
        task,
    )
    _write_json(
        target / CALIBRATION, calibrated.to_dict() | {site_calibration.SCORES: scores, ABSTAIN_BELOW: abstain_below}
    )
    _write_json(target / METRICS, metrics)
    judged.to_csv(target / PREDICTIONS, index=False)
    reference_set.write(target, held_out, judged, features)
    _write_plots(target, graph_folder, held_out, judged, features, calibrated, task)
    log.info("%s: test AUROC %s over %d clusters", task.name, metrics["test"]["auroc"], metrics["test"]["clusters"])
    return metrics


def predict_held_out(units: Units, folder: Path, task: Task, engine: str = "openvino") -> pd.DataFrame:
    """Predictions of the model in `folder` (graph.onnx, calibration.json) for the held-out units, as in serving.

    The table has the columns of `predictions.csv`. A champion is evaluated on the newest test units with it.
    """
    if not (folder / CALIBRATION).is_file():
        raise Fault(f"{folder / CALIBRATION} is missing: evaluate the task again")
    calibrated = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    held_out = units.where(units.table["side"].isin([Side.VALIDATION.value, Side.TEST.value]))
    logits, _ = Graph.load(folder / GRAPH, engine, calibrated["precision"]).run(held_out.pixels)
    judged = judge(held_out.table, logits, calibrated["temperature"], calibrated["threshold"], task)
    return _with_reasons(judged, calibrated["conformal"], calibrated.get(ABSTAIN_BELOW, 0.0), task)


def read_predictions(folder: Path) -> pd.DataFrame:
    """The table that `evaluate` wrote to a folder."""
    path = folder / PREDICTIONS
    if not path.is_file():
        raise Fault(f"{path} is missing: evaluate the task again")
    texts = dict.fromkeys((name for name in FACTS if name != "epoch"), str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False, float_precision="round_trip")


def judge(table: pd.DataFrame, logits: Array, temperature: float, threshold: float, task: Task) -> pd.DataFrame:
    """One row per unit: its facts, the truth (`positive` 0 or 1), `score`, `flagged` (score at or over the operating
    point), `predicted`, and the probability `p_<class>` of each class."""
    calibrated_probabilities = probabilities(logits, temperature)
    # float64, so that the CSV file holds the exact score
    scores = calibrated_probabilities[:, task.positive_index].sum(axis=1).astype(np.float64)
    facts = table[list(FACTS)].reset_index(drop=True).fillna({name: "" for name in FACTS if name != "epoch"})
    return facts.assign(
        positive=facts["label"].isin(task.positive).astype(int),
        score=scores,
        flagged=(scores >= threshold).astype(int),
        predicted=[task.classes[decide(row, task.positive_index, threshold)] for row in calibrated_probabilities],
        **{
            f"p_{name}": calibrated_probabilities[:, index].astype(np.float64)
            for index, name in enumerate(task.classes)
        },
    )


def _with_reasons(judged: pd.DataFrame, conformal: dict[str, Any], abstain_below: float, task: Task) -> pd.DataFrame:
    """Predicted units with the column `withheld`: the reason of a withheld answer, "" if it is given."""
    reasons = answered.withheld_reasons(_class_probabilities(judged, task), conformal, abstain_below)
    return judged.assign(**{evaluation_metrics.WITHHELD: reasons})


def _class_probabilities(judged: pd.DataFrame, task: Task) -> Array:
    return judged[[f"p_{name}" for name in task.classes]].to_numpy(np.float32)


def _choose_precision(graph: Path, validation: Units, task: Task, requested: str) -> tuple[str, dict[str, Any]]:
    """With `auto` bfloat16 if this CPU supports it and the validation probabilities change little."""
    if requested != "auto":
        return requested, {"asked": requested}
    bfloat16_graph = Graph.load(graph, "openvino", "bfloat16")
    if bfloat16_graph.precision != "bfloat16":
        return "float32", {"asked": "auto", "reason": "this CPU has no bfloat16"}
    probabilities_by_precision = [
        probabilities(loaded.run(validation.pixels)[0], 1.0)
        for loaded in (Graph.load(graph, "openvino"), bfloat16_graph)
    ]
    difference = float(np.abs(probabilities_by_precision[0] - probabilities_by_precision[1]).max())
    changed_share = float(
        (probabilities_by_precision[0].argmax(axis=1) != probabilities_by_precision[1].argmax(axis=1)).mean()
    )
    is_close = difference <= MAX_BFLOAT16_DIFFERENCE and changed_share <= MAX_BFLOAT16_CHANGED
    check = {
        "asked": "auto",
        "difference": difference,
        "flips": changed_share,
        "units": len(probabilities_by_precision[0]),
    }
    log.info("%s: bfloat16 changes a probability by at most %.4f", task.name, difference)
    return ("bfloat16" if is_close else "float32"), check


def _test_metrics(units: Units, judged: pd.DataFrame, task: Task, settings: EvaluateSettings) -> dict[str, Any]:
    test = judged[judged["side"] == Side.TEST.value]
    counts = {side.value: _count_side(units.table[units.table["side"] == side.value], task) for side in Side}
    return {
        "task": task.name,
        "classes": list(task.classes),
        "positive": list(task.positive),
        "unit": task.unit,
        "counts": counts,
        "test": evaluation_metrics.compute_metrics(test, task.classes, settings, task.ordered),
        **subgroup_metrics.metrics_by_subgroup(test, units.table, task.classes, settings),
    }


def _check_heatmaps(
    judged: pd.DataFrame,
    features: Array,
    masks: Array | None,
    graph_folder: Path,
    task: Task,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """The heat-map checks on flagged test units; the pointing game uses those of the correct class."""
    flagged = np.flatnonzero((judged["side"] == Side.TEST.value) & (judged["flagged"] == 1))
    answered_classes = np.array(
        [task.classes.index(name) for name in judged["predicted"].to_numpy()[flagged]], np.int64
    )
    with np.load(graph_folder / HEAD, allow_pickle=False) as head:
        kernel = head["kernel"]
    sanity_check = heatmap_checks.compare_with_random_layer(features[flagged], kernel, answered_classes, settings.seed)
    flagged_masks = None if masks is None else masks[flagged]
    labels = np.array([task.classes.index(name) for name in judged["label"].to_numpy()[flagged]], np.int64)
    clusters = judged["cluster"].to_numpy(str)[flagged]
    return sanity_check | {
        "hits": heatmap_checks.pointing_game(
            features[flagged], kernel, answered_classes, flagged_masks, clusters, settings, labels
        )
    }


def _count_side(table: pd.DataFrame, task: Task) -> dict[str, Any]:
    return {
        "units": len(table),
        "clusters": int(table["cluster"].nunique()),
        "labels": {name: int((table["label"] == name).sum()) for name in task.classes},
    }


def _write_plots(
    target: Path,
    graph_folder: Path,
    held_out: Units,
    judged: pd.DataFrame,
    features: Array,
    calibrated: Calibration,
    task: Task,
) -> None:
    with np.load(graph_folder / HEAD, allow_pickle=False) as head:
        kernel = head["kernel"]
    test = (judged["side"] == Side.TEST.value).to_numpy()
    plots.plot_curves(target, judged[test], calibrated.threshold, task)
    plots.plot_risk_coverage(target / "risk_coverage.png", judged[test], task)
    plots.plot_confusion(target / "confusion.png", judged[test], task)
    plots.plot_learning(target / "learning.png", graph_folder / "history.csv")
    plots.plot_errors(target / "errors.png", judged[test], held_out.pixels[test], features[test], kernel, task)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
