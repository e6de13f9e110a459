"""What the finest texture of a picture tells by itself: a probe for what else than a tumour a set betrays.

Histograms of local binary patterns (Ojala, Pietikäinen and Mäenpää, IEEE TPAMI 24(7), 2002: eight neighbours, uniform
patterns, rotation-invariant) at three radii: no shape, no place, no size is in them. Logistic regression on them, in
the folds and under the rules of the baseline.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.dataset.shards import Units
from data.record import Side, Task
from training.evaluation import cross_validation, metrics
from training.settings import EvaluateSettings

RADII = (1, 2, 4)  # pixels of what the network sees
AROUND = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
KINDS = len(AROUND) + 2  # how many of the neighbours are lighter, where these lie side by side; and all other patterns
STRENGTH, ROUNDS = 0.1, 3000


def patterns(picture: NDArray[np.float32], radius: int) -> NDArray[np.float64]:
    """The share (KINDS) of each kind of pattern among the pixels of a picture (h, w)."""
    grey = np.round(picture * 255)  # what a file of eight bits tells apart
    inner = tuple(slice(radius, side - radius) for side in grey.shape)
    near = [np.roll(grey, (-radius * down, -radius * across), (0, 1))[inner] for down, across in AROUND]
    lighter = np.stack([one >= grey[inner] for one in near])
    changes = (lighter != np.roll(lighter, 1, axis=0)).sum(axis=0)
    kind = np.where(changes <= 2, lighter.sum(axis=0), KINDS - 1)
    return np.bincount(kind.ravel(), minlength=KINDS) / kind.size


def judged(units: Units, task: Task, settings: EvaluateSettings, folds: int) -> dict[str, Any]:
    """Figures of the out-of-fold judgements by texture alone; the class of the largest probability is the answer."""
    told = np.stack([np.concatenate([patterns(one[..., 0], radius) for radius in RADII]) for one in units.pixels])
    found = []
    for dealt in cross_validation.deal(units, folds, settings.seed):
        test = (dealt.table["side"] == Side.TEST.value).to_numpy()
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=ROUNDS)
        )
        model.fit(told[~test], units.labels[~test])
        sure = model.predict_proba(told[test])
        table = dealt.table.loc[test, ["unit_id", "cluster", "label"]]
        found.append(_table(table, sure, task))
    return metrics.figures(pd.concat(found, ignore_index=True), task.classes, settings, task.ordered)


def _table(table: pd.DataFrame, sure: NDArray[np.float64], task: Task) -> pd.DataFrame:
    answers = [task.classes[place] for place in sure.argmax(axis=1)]
    chances = {f"p_{name}": sure[:, place] for place, name in enumerate(task.classes)}
    return table.assign(
        positive=table["label"].isin(task.positive).astype(int),
        score=sure[:, task.positive_index].sum(axis=1),
        flagged=np.isin(answers, task.positive).astype(int),
        predicted=answers,
        **chances,
    )
