"""Cross-validation: each unit is predicted once, by a model fitted and calibrated without its cluster."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lineage.errors import Fault
from training.evaluation import cross_validation

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize("folds", [0, 3, 5])
def test_each_cluster_is_tested_once_and_has_one_split_per_fold(samples: Any, folds: int) -> None:
    units = samples.units(40)
    test_counts: Counter[str] = Counter()
    folds_units = list(cross_validation.assign_folds(units, folds, 7))
    assert len(folds_units) == (folds or units.table["cluster"].nunique())
    for fold_units in folds_units:
        split_counts = fold_units.table.groupby("cluster")["side"].nunique()
        assert (split_counts == 1).all()
        test = fold_units.table[fold_units.table["side"] == "test"]
        test_counts.update(test["unit_id"])
        assert {"training", "validation"} <= set(fold_units.table["side"])
        assert set(fold_units.table.loc[fold_units.table["side"] == "training", "label"]) == set(units.table["label"])
    assert set(test_counts.values()) == {1} and set(test_counts) == set(units.table["unit_id"])


def test_the_same_seed_gives_the_same_folds(samples: Any) -> None:
    first, second = (
        [fold_units.table["side"].tolist() for fold_units in cross_validation.assign_folds(samples.units(40), 4, 7)]
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(("clusters", "folds"), [(2, 0), (4, 5), (8, 1)])
def test_too_few_clusters_are_refused(samples: Any, clusters: int, folds: int) -> None:
    units = samples.units(40)
    few_units = units.where(units.table["cluster"].isin(units.table["cluster"].unique()[:clusters]))
    with pytest.raises(Fault, match=f"{clusters} clusters cannot be split"):
        list(cross_validation.assign_folds(few_units, folds, 7))


def test_metrics_can_be_recomputed_and_test_clusters_are_not_in_validation(samples: Any, tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    units = samples.units(40)
    metrics = cross_validation.cross_validate(
        units, samples.TASK, samples.FIT, samples.CALIBRATE, samples.EVALUATE, 2, tmp_path
    )
    predictions = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert metrics["test"]["coverage"]["value"] == pytest.approx((predictions["withheld"] == "").mean())
    assert set(metrics["baselines"]) == {"slice position", "lesion size", "header facts"}
    assert sorted(predictions["unit_id"]) == sorted(units.table["unit_id"])
    assert metrics["test"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(predictions["positive"], predictions["score"])
    )
    assert metrics["test"]["clusters"] == units.table["cluster"].nunique()
    folds = [
        roc_auc_score(fold_predictions["positive"], fold_predictions["score"])
        for _, fold_predictions in predictions.groupby("fold")
    ]
    assert metrics["fold_auroc"]["each"] == pytest.approx(folds)
    assert metrics["fold_auroc"]["mean"] == pytest.approx(np.mean(folds))
    baseline = pd.read_csv(tmp_path / "baseline.csv")
    assert metrics["baseline"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(baseline["positive"], baseline["score"])
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for fold, fold_predictions in predictions.groupby("fold"):
        fold_table = pd.read_csv(tmp_path / f"fold-{fold}" / "evaluation" / "predictions.csv")
        validation_clusters = set(fold_table.loc[fold_table["side"] == "validation", "cluster"])
        assert not validation_clusters & set(fold_predictions["cluster"])
