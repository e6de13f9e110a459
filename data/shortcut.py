"""Source shortcuts: do header, size and border alone tell the label? Then a network may learn the scanner instead."""

from __future__ import annotations

import pandas as pd

from data.describe import FACTS

NUMBERS = ("rows", "columns", "row_spacing", "column_spacing", "thickness", "border_mean", "blank_share")
TEXTS = ("site", "scanner", *FACTS)
DEPTH = 4
FOLDS = 5
MIN_CLUSTERS = 3  # of each class, so that every fold can learn and ask both


def shortcut(manifest: pd.DataFrame) -> tuple[float | None, list[str]]:
    """Balanced accuracy with which a small decision tree predicts the label of clusters that it never saw.

    It sees no picture: only where a scan comes from, its size, its spacing and the brightness of its border. Returns
    None where fewer than 3 clusters hold a class. The names are the facts that the tree leans on most.
    """
    clusters = manifest.groupby("label")["cluster"].nunique()
    if len(clusters) < 2 or clusters.min() < MIN_CLUSTERS:
        return None, []
    facts = _facts(manifest)
    if facts.empty:
        return None, []
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    folds = StratifiedGroupKFold(min(FOLDS, int(clusters.min())), shuffle=True, random_state=0)
    tree = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=2, class_weight="balanced", random_state=0)
    predicted = cross_val_predict(tree, facts, manifest["label"], groups=manifest["cluster"], cv=folds)
    accuracy = float(balanced_accuracy_score(manifest["label"], predicted))
    weight = pd.Series(tree.fit(facts, manifest["label"]).feature_importances_, facts.columns)
    leaning = weight[weight > 0].sort_values(ascending=False).head(3)
    return round(accuracy, 4), [str(name).replace("_", " ") for name in leaning.index]


def _facts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Numbers as they are, texts as one column for each value; what never changes is left out."""
    texts = manifest[[name for name in TEXTS if manifest[name].nunique() > 1]]
    numbers = manifest[list(NUMBERS)].astype(float).fillna(0.0)
    coded = pd.get_dummies(texts, dtype=float) if len(texts.columns) else pd.DataFrame(index=manifest.index)
    facts = pd.concat([numbers, coded], axis=1)
    return facts.loc[:, facts.nunique() > 1]
