"""Shortcut detection: whether header, size, border or greys alone predict the label."""

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
BORDER, BINS = 4, 8  # width of the border of a thumbnail in pixels; bins of the histogram of the border
RARE = 0.01  # minimum share of the units for a text to get its own column
DEPTH = 4
FOLDS = 5
MIN_CLUSTERS = 3  # of each class, so that every fold can train and test on each class
PERMUTATIONS = 99  # the smallest p-value is then 0.01
ALPHA = 0.01
MAX_UNITS = 4000  # for the trees; more units take time and do not change the result


@dataclass(frozen=True)
class Shortcut:
    """The performance of a small tree that does not see the picture.

    `accuracy` is the balanced accuracy on unseen clusters. `source` is "header, size and border" or "greys".
    `main_facts` are the most important facts of the tree. `p` is the p-value of a permutation of labels between
    clusters; None if the accuracy is under the limit.
    """

    accuracy: float
    source: str
    main_facts: tuple[str, ...]
    p: float | None

    def is_shortcut(self, limit: float) -> bool:
        """Whether the accuracy is at least `limit`, and significant."""
        return self.accuracy >= limit and self.p is not None and self.p <= ALPHA

    def warning(self) -> str:
        """A warning text."""
        return (
            f"{self.source} alone ({', '.join(self.main_facts)}) predict the label with a balanced accuracy of "
            f"{self.accuracy:.2f} on unseen clusters (p = {self.p:.2f}): the label may stand for its source"
        )


def find_shortcuts(manifest: pd.DataFrame, limit: float) -> list[Shortcut]:
    """The results of both sources, the better one first; empty if a class has fewer than 3 clusters.

    Header, size and border (with its histogram) do not show the disease. The histogram of the whole picture can show
    it, but not nearly perfectly. From the accuracy `limit` on, the labels are permuted between clusters 99 times
    (Phipson and Smyth 2010). In a small set chance alone reaches a high accuracy, and then p is large. A source whose
    facts are constant gives no result.
    """
    clusters = manifest.groupby("label")["cluster"].nunique()
    if len(clusters) < 2 or clusters.min() < MIN_CLUSTERS:
        return []
    manifest = manifest.reset_index(drop=True)
    if len(manifest) > MAX_UNITS:
        manifest = manifest.sample(MAX_UNITS, random_state=0).reset_index(drop=True)
        if manifest.groupby("label")["cluster"].nunique().min() < MIN_CLUSTERS:
            return []
    sources = {"header, size and border": _facts(manifest), "greys": _greys(manifest)}
    results = [_measure_source(name, facts, manifest, limit) for name, facts in sources.items() if len(facts.columns)]
    return sorted(results, key=lambda shortcut: -shortcut.accuracy)


def _measure_source(source: str, facts: pd.DataFrame, manifest: pd.DataFrame, limit: float) -> Shortcut:
    labels, clusters = manifest["label"].to_numpy(str), manifest["cluster"].to_numpy(str)
    values = facts.to_numpy(np.float32)
    accuracy = _accuracy(values, labels, clusters)
    p = _permutation_p(values, labels, clusters, accuracy) if accuracy >= limit else None
    importances = pd.Series(_tree().fit(values, labels).feature_importances_, facts.columns)
    main_facts = importances[importances > 0].sort_values(ascending=False, kind="stable").head(3)
    return Shortcut(round(accuracy, 4), source, tuple(str(name).replace("_", " ") for name in main_facts.index), p)


def _accuracy(values: NDArray[np.float32], labels: NDArray[np.str_], clusters: NDArray[np.str_]) -> float:
    """The balanced accuracy of a tree in cross-validation by cluster."""
    from sklearn.model_selection import StratifiedGroupKFold

    min_clusters = min(len(set(clusters[labels == label])) for label in set(labels))
    folds = StratifiedGroupKFold(max(2, min(FOLDS, min_clusters)), shuffle=True, random_state=0)
    predicted = np.empty_like(labels)
    for train_rows, test_rows in folds.split(values, labels, clusters):
        predicted[test_rows] = _tree().fit(values[train_rows], labels[train_rows]).predict(values[test_rows])
    return float(np.mean([(predicted[labels == label] == label).mean() for label in sorted(set(labels))]))


def _permutation_p(
    values: NDArray[np.float32], labels: NDArray[np.str_], clusters: NDArray[np.str_], accuracy: float
) -> float:
    """The p-value of `accuracy` under permutation of the labels between clusters.

    The labels of a cluster with several units are repeated or cut to the number of units of the other cluster.
    """
    random, reached_count = np.random.default_rng(0), 0
    rows = [np.flatnonzero(clusters == name) for name in dict.fromkeys(clusters)]
    for _ in range(PERMUTATIONS):
        permuted = labels.copy()
        for target_rows, source_cluster in zip(rows, random.permutation(len(rows)), strict=True):
            permuted[target_rows] = np.resize(labels[rows[source_cluster]], len(target_rows))
        reached_count += len(set(permuted)) == len(set(labels)) and _accuracy(values, permuted, clusters) >= accuracy
    return (reached_count + 1) / (PERMUTATIONS + 1)


def _tree() -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=2, class_weight="balanced", random_state=0)


def _facts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Numbers, one column per frequent text, and greys of the border; constant columns are left out."""
    columns = {name: manifest[name].astype(float).fillna(0.0) for name in NUMBERS}
    for name in TEXTS:
        shares = manifest[name].value_counts(normalize=True)
        columns |= {f"{name} {text}": (manifest[name] == text).astype(float) for text in shares[shares >= RARE].index}
    greys = (
        thumbnail.decode_thumbnails(manifest["thumbnail"])
        if "thumbnail" in manifest
        else np.zeros((len(manifest), 9, 9))
    )
    is_border = np.ones(greys.shape[1:], bool)
    is_border[BORDER:-BORDER, BORDER:-BORDER] = False
    levels = greys[:, is_border] * BINS // thumbnail.GREYS
    columns |= {f"border grey {level}": pd.Series((levels == level).mean(1)) for level in range(BINS)}
    return _varying(pd.DataFrame(columns))


def _greys(manifest: pd.DataFrame) -> pd.DataFrame:
    return _varying(manifest[[name for name in GREYS if name in manifest]].astype(float).fillna(0.0))


def _varying(facts: pd.DataFrame) -> pd.DataFrame:
    return facts.loc[:, facts.nunique() > 1]
