"""Pictures of an evaluation that people look at: curves, matrices, and the worst errors with their heat maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.record import Task
from serving.inference import heatmap

Array = NDArray[np.float32]
WORST = 12  # errors in the gallery
BINS = 8  # of the reliability diagram, each with as many units


def curves(target: Path, judged: pd.DataFrame, threshold: float, task: Task) -> None:
    """ROC, precision-recall and reliability of the positive score; skipped where one class alone was judged."""
    positive, scores = judged["positive"].to_numpy(bool), judged["score"].to_numpy(np.float64)
    if positive.all() or not positive.any():
        return
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits, alarms = np.cumsum(positive[order])[ends], np.cumsum(~positive[order])[ends]
    called = scores >= threshold
    point = float(called[positive].mean()), float(called[~positive].mean())
    precision = positive[called].mean() if called.any() else 1.0
    recall, false_alarms = hits / positive.sum(), alarms / (~positive).sum()
    _curve(
        target / "roc.png",
        (np.append(0, false_alarms), np.append(0, recall)),
        (point[1], point[0]),
        ("1 - specificity", "sensitivity"),
        f"ROC, test side: {_positive(task)} against the rest",
    )
    _curve(
        target / "precision_recall.png",
        (recall, hits / (hits + alarms)),
        (point[0], float(precision)),
        ("recall (sensitivity)", "precision"),
        f"Precision and recall, test side: {_positive(task)}",
    )
    _reliability(target / "reliability.png", scores, positive)


def confusion(path: Path, judged: pd.DataFrame, task: Task) -> None:
    """The confusion matrix of the test units."""
    table = pd.crosstab(judged["label"], judged["predicted"]).reindex(
        index=list(task.classes), columns=list(task.classes), fill_value=0
    )
    figure, axes = _figure()
    axes.imshow(table.to_numpy(), cmap="Blues")
    for (row, column), count in np.ndenumerate(table.to_numpy()):
        dark = count > table.to_numpy().max() / 2
        axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(task.classes)), task.classes)
    axes.set_yticks(range(len(task.classes)), task.classes, rotation=90, va="center")
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.set_title("Test units")
    _save(figure, path)


def learning(path: Path, history: Path) -> None:
    """Loss of each epoch on the training and the validation side; skipped where no history was kept."""
    if not history.is_file():
        return
    table = pd.read_csv(history)
    figure, axes = _figure()
    axes.plot(table["epoch"], table["loss"], label="training (augmented, class-weighted)")
    axes.plot(table["epoch"], table["val_loss"], label="validation")
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy")
    axes.set_title("Learning curve")
    axes.legend()
    _save(figure, path)


def errors(path: Path, judged: pd.DataFrame, pixels: Array, features: Array, kernel: Array, task: Task) -> None:
    """The test units whose true class got the least probability, each beside the map of the class that was answered."""
    truth = np.array([row[f"p_{row['label']}"] for _, row in judged.iterrows()])
    wrong = np.flatnonzero((judged["label"] != judged["predicted"]).to_numpy())
    worst = wrong[np.argsort(truth[wrong], kind="stable")][:WORST]
    rows = max(1, -(-len(worst) // 2))
    figure, grid = _grid(rows, 4)
    for cell in grid.ravel():
        cell.axis("off")
    if not len(worst):
        grid.ravel()[0].text(0, 0.5, "No test unit was answered wrongly.", fontsize=11)
    for place, unit in enumerate(worst):
        row = judged.iloc[unit]
        picture, overlay = grid.ravel()[2 * place : 2 * place + 2]
        picture.imshow(pixels[unit, :, :, 0], cmap="gray", vmin=0, vmax=1)
        picture.set_title(f"{row['unit_id'][:18]}\ntruth {row['label']}, p = {truth[unit]:.2f}", fontsize=8)
        overlay.imshow(pixels[unit, :, :, 0], cmap="gray", vmin=0, vmax=1)
        heat = heatmap.heat(features[unit], kernel, task.classes.index(row["predicted"]))
        size = pixels.shape[1]
        overlay.imshow(
            heat,
            cmap="inferno",
            alpha=0.45,
            extent=(-0.5, size - 0.5, size - 0.5, -0.5),
            interpolation="bilinear",
            vmin=0,
            vmax=1,
        )
        overlay.set_title(f"answer {row['predicted']}, score {row['score']:.2f}\nits evidence", fontsize=8)
    _save(figure, path)


def _positive(task: Task) -> str:
    return " or ".join(task.positive)


def _curve(path: Path, line: tuple[Any, Any], point: tuple[float, float], names: tuple[str, str], title: str) -> None:
    figure, axes = _figure()
    axes.plot(*line)
    axes.plot(*point, "o", label="operating point")
    axes.set(xlabel=names[0], ylabel=names[1], title=title, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(loc="lower right")
    _save(figure, path)


def _reliability(path: Path, scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> None:
    parts = [part for part in np.array_split(np.argsort(scores, kind="stable"), BINS) if len(part)]
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.plot([scores[part].mean() for part in parts], [positive[part].mean() for part in parts], "o-")
    axes.set(xlabel="calibrated probability", ylabel="share that is positive", title="Reliability, test side")
    _save(figure, path)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    return figure, figure.subplots()


def _grid(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
