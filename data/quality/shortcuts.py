"""Source shortcuts: do header, size, border or greys alone tell the label? A network may learn the source instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.scan import thumbnail
from data.scan.slice_features import FACTS

NUMBERS = ("rows", "columns", "row_spacing", "column_spacing", "thickness", "border_mean", "blank_share")
TEXTS = ("site", "scanner", *FACTS)
GREYS = ("p01", "p05", "p25", "p50", "p75", "p95", "p99")  # the histogram of the whole picture, in its own units
BORDER, BINS = 4, 8  # pixels of a thumbnail that are its border; greys of the border's histogram
RARE = 0.01  # share of the units under which a text is no column of its own
DEPTH = 4
FOLDS = 5
MIN_CLUSTERS = 3  # of each class, so that every fold can learn and ask both
PERMUTATIONS = 99  # one per cent is then the smallest p-value
ALPHA = 0.01
MOST = 4000  # units that the trees learn from; more would cost time and tell no more


@dataclass(frozen=True)
class Shortcut:
    """What a small tree reaches without seeing the picture: `accuracy` is balanced, on clusters that it never saw.

    `source` is "header, size and border" or "greys"; `told_by` are the facts that the tree leans on most. `p` is how
    often labels dealt out by chance to whole clusters are told as well as that; None where nobody needed to ask.
    """

    accuracy: float
    source: str
    told_by: tuple[str, ...]
    p: float | None

    def rings(self, limit: float) -> bool:
        """The label is told nearly perfectly, and not by luck."""
        return self.accuracy >= limit and self.p is not None and self.p <= ALPHA

    def sentence(self) -> str:
        """Why, for people."""
        return (
            f"{self.source} alone ({', '.join(self.told_by)}) predict the label with a balanced accuracy of "
            f"{self.accuracy:.2f} on unseen clusters (p = {self.p:.2f}): the label may stand for its source"
        )


def shortcuts(manifest: pd.DataFrame, limit: float) -> list[Shortcut]:
    """The two sources, the better one first; empty where fewer than 3 clusters hold a class or nothing differs.

    Header, size and border (with its histogram) say nothing of the patient; the histogram of the whole picture may
    show a disease, but not nearly perfectly. From `limit` on, whole clusters have their labels dealt out anew 99 times
    (Phipson and Smyth 2010): a small set is told well by luck, and then p is large.
    """
    clusters = manifest.groupby("label")["cluster"].nunique()
    if len(clusters) < 2 or clusters.min() < MIN_CLUSTERS:
        return []
    manifest = manifest.reset_index(drop=True)
    if len(manifest) > MOST:
        manifest = manifest.sample(MOST, random_state=0).reset_index(drop=True)
        if manifest.groupby("label")["cluster"].nunique().min() < MIN_CLUSTERS:
            return []
    sources = {"header, size and border": _facts(manifest), "greys": _greys(manifest)}
    found = [_told(name, facts, manifest, limit) for name, facts in sources.items() if len(facts.columns)]
    return sorted(found, key=lambda one: -one.accuracy)


def _told(source: str, facts: pd.DataFrame, manifest: pd.DataFrame, limit: float) -> Shortcut:
    labels, clusters = manifest["label"].to_numpy(str), manifest["cluster"].to_numpy(str)
    values = facts.to_numpy(np.float32)
    accuracy = _accuracy(values, labels, clusters)
    p = _chance(values, labels, clusters, accuracy) if accuracy >= limit else None
    weight = pd.Series(_tree().fit(values, labels).feature_importances_, facts.columns)
    leaning = weight[weight > 0].sort_values(ascending=False, kind="stable").head(3)
    return Shortcut(round(accuracy, 4), source, tuple(str(name).replace("_", " ") for name in leaning.index), p)


def _accuracy(values: NDArray[np.float32], labels: NDArray[np.str_], clusters: NDArray[np.str_]) -> float:
    """Balanced accuracy of a tree on the clusters that were left out of it."""
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(set(clusters[labels == label])) for label in set(labels))
    folds = StratifiedGroupKFold(max(2, min(FOLDS, fewest)), shuffle=True, random_state=0)
    predicted = np.empty_like(labels)
    for learnt, asked in folds.split(values, labels, clusters):
        predicted[asked] = _tree().fit(values[learnt], labels[learnt]).predict(values[asked])
    return float(np.mean([(predicted[labels == label] == label).mean() for label in sorted(set(labels))]))


def _chance(
    values: NDArray[np.float32], labels: NDArray[np.str_], clusters: NDArray[np.str_], accuracy: float
) -> float:
    """The p-value of `accuracy`: how often it is reached when the labels of whole clusters are dealt out anew.

    A cluster with several labels passes on its list of them, repeated or cut to the other's number of units.
    """
    random, reached = np.random.default_rng(0), 0
    rows = [np.flatnonzero(clusters == name) for name in dict.fromkeys(clusters)]
    for _ in range(PERMUTATIONS):
        dealt = labels.copy()
        for mine, other in zip(rows, random.permutation(len(rows)), strict=True):
            dealt[mine] = np.resize(labels[rows[other]], len(mine))
        reached += len(set(dealt)) == len(set(labels)) and _accuracy(values, dealt, clusters) >= accuracy
    return (reached + 1) / (PERMUTATIONS + 1)


def _tree() -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=2, class_weight="balanced", random_state=0)


def _facts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Numbers as they are, frequent texts as one column each, greys of the border; what never changes is left out."""
    columns = {name: manifest[name].astype(float).fillna(0.0) for name in NUMBERS}
    for name in TEXTS:
        shares = manifest[name].value_counts(normalize=True)
        columns |= {f"{name} {text}": (manifest[name] == text).astype(float) for text in shares[shares >= RARE].index}
    shown = thumbnail.greys(manifest["thumbnail"]) if "thumbnail" in manifest else np.zeros((len(manifest), 9, 9))
    edge = np.ones(shown.shape[1:], bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    levels = shown[:, edge] * BINS // thumbnail.GREYS
    columns |= {f"border grey {level}": pd.Series((levels == level).mean(1)) for level in range(BINS)}
    return _changing(pd.DataFrame(columns))


def _greys(manifest: pd.DataFrame) -> pd.DataFrame:
    return _changing(manifest[[name for name in GREYS if name in manifest]].astype(float).fillna(0.0))


def _changing(facts: pd.DataFrame) -> pd.DataFrame:
    return facts.loc[:, facts.nunique() > 1]
