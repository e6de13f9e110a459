"""A baseline on fine texture alone, which shows how well a set's labels are predictable without seeing a tumour.

Logistic regression on histograms of local binary patterns (Ojala, Pietikäinen and Mäenpää, IEEE TPAMI 24(7), 2002:
eight neighbours, uniform patterns, rotation-invariant) at three radii. They contain no shape, position or size. Folds
and rules are those of the product's baseline.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.core_types import Side, Task
from data.dataset.shards import Units
from training.evaluation import cross_validation, metrics
from training.settings import EvaluateSettings

RADII = (1, 2, 4)  # in pixels of the network's input
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
PATTERN_COUNT = len(NEIGHBOURS) + 2  # number of contiguous brighter neighbours (0 to 8), and one for all other patterns
STRENGTH, ROUNDS = 0.1, 3000


def patterns(picture: NDArray[np.float32], radius: int) -> NDArray[np.float64]:
    """The share of each pattern (PATTERN_COUNT) among the pixels of an image (h, w) in [0, 1]."""
    grey = np.round(picture * 255)  # the resolution of an 8-bit file
    inner = tuple(slice(radius, side - radius) for side in grey.shape)
    neighbours = [np.roll(grey, (-radius * down, -radius * across), (0, 1))[inner] for down, across in NEIGHBOURS]
    lighter = np.stack([neighbour >= grey[inner] for neighbour in neighbours])
    changes = (lighter != np.roll(lighter, 1, axis=0)).sum(axis=0)
    kind = np.where(changes <= 2, lighter.sum(axis=0), PATTERN_COUNT - 1)
    return np.bincount(kind.ravel(), minlength=PATTERN_COUNT) / kind.size


def judge_by_texture(units: Units, task: Task, settings: EvaluateSettings, folds: int) -> dict[str, Any]:
    """Figures of the out-of-fold predictions by texture alone; the answer is the most probable class."""
    histograms = np.stack(
        [np.concatenate([patterns(unit_pixels[..., 0], radius) for radius in RADII]) for unit_pixels in units.pixels]
    )
    predictions = []
    for fold in cross_validation.assign_folds(units, folds, settings.seed):
        test = (fold.table["side"] == Side.TEST.value).to_numpy()
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=ROUNDS)
        )
        model.fit(histograms[~test], units.labels[~test])
        probabilities = model.predict_proba(histograms[test])
        table = fold.table.loc[test, ["unit_id", "cluster", "label"]]
        predictions.append(_prediction_table(table, probabilities, task))
    return metrics.compute_metrics(pd.concat(predictions, ignore_index=True), task.classes, settings, task.ordered)


def _prediction_table(table: pd.DataFrame, probabilities: NDArray[np.float64], task: Task) -> pd.DataFrame:
    answers = [task.classes[index] for index in probabilities.argmax(axis=1)]
    probability_columns = {f"p_{name}": probabilities[:, index] for index, name in enumerate(task.classes)}
    return table.assign(
        positive=table["label"].isin(task.positive).astype(int),
        score=probabilities[:, task.positive_index].sum(axis=1),
        flagged=np.isin(answers, task.positive).astype(int),
        predicted=answers,
        **probability_columns,
    )
