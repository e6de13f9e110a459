"""Plots of an evaluation: curves, confusion matrix, learning curve, and the worst errors with their heat maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Task
from serving.inference import heatmap

Array = NDArray[np.float32]
MAX_ERRORS = 12  # in the gallery
BINS = 8  # of the reliability diagram, each with as many units


def plot_curves(target: Path, judged: pd.DataFrame, threshold: float, task: Task) -> None:
    """ROC, precision-recall and reliability of the positive score; skipped without both kinds of unit."""
    positive, scores = judged["positive"].to_numpy(bool), judged["score"].to_numpy(np.float64)
    if positive.all() or not positive.any():
        return
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true_positive_counts, false_positive_counts = np.cumsum(positive[order])[ends], np.cumsum(~positive[order])[ends]
    flagged = scores >= threshold
    operating_point = float(flagged[positive].mean()), float(flagged[~positive].mean())
    precision = positive[flagged].mean() if flagged.any() else 1.0
    recall, false_alarms = true_positive_counts / positive.sum(), false_positive_counts / (~positive).sum()
    _plot_curve(
        target / "roc.png",
        (np.append(0, false_alarms), np.append(0, recall)),
        (operating_point[1], operating_point[0]),
        ("1 - specificity", "sensitivity"),
        f"ROC, test set: {_positive_classes(task)} against the rest",
    )
    _plot_curve(
        target / "precision_recall.png",
        (recall, true_positive_counts / (true_positive_counts + false_positive_counts)),
        (operating_point[0], float(precision)),
        ("recall (sensitivity)", "precision"),
        f"Precision and recall, test set: {_positive_classes(task)}",
    )
    _plot_reliability(target / "reliability.png", scores, positive)


def plot_risk_coverage(path: Path, judged: pd.DataFrame, task: Task) -> None:
    """The share of wrong answers if only the most confident units are answered (El-Yaniv and Wiener, JMLR 2010).

    The point is what the serving gate answers, by the column `withheld`.
    """
    confidence = judged[[f"p_{name}" for name in task.classes]].to_numpy(np.float64).max(axis=1)
    is_wrong = (judged["label"] != judged["predicted"]).to_numpy(bool)
    is_answered = (judged["withheld"] == "").to_numpy(bool)
    ranked = is_wrong[np.argsort(-confidence, kind="stable")]
    counts = np.arange(1, len(ranked) + 1)
    risk = float(is_wrong[is_answered].mean()) if is_answered.any() else 0.0
    _plot_curve(
        path,
        (counts / len(ranked), np.cumsum(ranked) / counts),
        (float(is_answered.mean()), risk),
        ("coverage (share of units answered)", "risk (share of wrong answers among these)"),
        "Risk and coverage, test set",
    )


def plot_confusion(path: Path, judged: pd.DataFrame, task: Task) -> None:
    """The confusion matrix of the test units."""
    table = pd.crosstab(judged["label"], judged["predicted"]).reindex(
        index=list(task.classes), columns=list(task.classes), fill_value=0
    )
    figure, axes = _new_figure()
    axes.imshow(table.to_numpy(), cmap="Blues")
    for (row, column), count in np.ndenumerate(table.to_numpy()):
        is_dark = count > table.to_numpy().max() / 2
        axes.text(column, row, str(count), ha="center", va="center", color="white" if is_dark else "black")
    axes.set_xticks(range(len(task.classes)), task.classes)
    axes.set_yticks(range(len(task.classes)), task.classes, rotation=90, va="center")
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.set_title("Test units")
    _save(figure, path)


def plot_learning(path: Path, history: Path) -> None:
    """Training and validation loss of each epoch; skipped if there is no history file."""
    if not history.is_file():
        return
    table = pd.read_csv(history)
    figure, axes = _new_figure()
    axes.plot(table["epoch"], table["loss"], label="training (augmented, class-weighted)")
    axes.plot(table["epoch"], table["val_loss"], label="validation")
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy")
    axes.set_title("Learning curve")
    axes.legend()
    _save(figure, path)


def plot_errors(path: Path, judged: pd.DataFrame, pixels: Array, features: Array, kernel: Array, task: Task) -> None:
    """The wrong test units with the lowest probability of the true class, each with the map of the predicted class."""
    true_probabilities = np.array([row[f"p_{row['label']}"] for _, row in judged.iterrows()])
    wrong_rows = np.flatnonzero((judged["label"] != judged["predicted"]).to_numpy())
    worst_rows = wrong_rows[np.argsort(true_probabilities[wrong_rows], kind="stable")][:MAX_ERRORS]
    rows = max(1, -(-len(worst_rows) // 2))
    figure, grid = _new_grid(rows, 4)
    for cell in grid.ravel():
        cell.axis("off")
    if not len(worst_rows):
        grid.ravel()[0].text(0, 0.5, "No test unit was answered wrongly.", fontsize=11)
    for number, row_number in enumerate(worst_rows):
        row = judged.iloc[row_number]
        image_axes, overlay_axes = grid.ravel()[2 * number : 2 * number + 2]
        image_axes.imshow(pixels[row_number, :, :, 0], cmap="gray", vmin=0, vmax=1)
        image_axes.set_title(
            f"{row['unit_id'][:18]}\ntruth {row['label']}, p = {true_probabilities[row_number]:.2f}", fontsize=8
        )
        overlay_axes.imshow(pixels[row_number, :, :, 0], cmap="gray", vmin=0, vmax=1)
        heat = heatmap.class_activation_map(features[row_number], kernel, task.classes.index(row["predicted"]))
        size = pixels.shape[1]
        overlay_axes.imshow(
            heat,
            cmap="inferno",
            alpha=0.45,
            extent=(-0.5, size - 0.5, size - 0.5, -0.5),
            interpolation="bilinear",
            vmin=0,
            vmax=1,
        )
        overlay_axes.set_title(f"answer {row['predicted']}, score {row['score']:.2f}\nits evidence", fontsize=8)
    _save(figure, path)


def _positive_classes(task: Task) -> str:
    return " or ".join(task.positive)


def _plot_curve(
    path: Path, line: tuple[Any, Any], point: tuple[float, float], names: tuple[str, str], title: str
) -> None:
    figure, axes = _new_figure()
    axes.plot(*line)
    axes.plot(*point, "o", label="operating point")
    axes.set(xlabel=names[0], ylabel=names[1], title=title, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(loc="lower right")
    _save(figure, path)


def _plot_reliability(path: Path, scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> None:
    bins = [bin_rows for bin_rows in np.array_split(np.argsort(scores, kind="stable"), BINS) if len(bin_rows)]
    figure, axes = _new_figure()
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.plot([scores[bin_rows].mean() for bin_rows in bins], [positive[bin_rows].mean() for bin_rows in bins], "o-")
    axes.set(xlabel="calibrated probability", ylabel="share that is positive", title="Reliability, test set")
    _save(figure, path)


def _new_figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    return figure, figure.subplots()


def _new_grid(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
