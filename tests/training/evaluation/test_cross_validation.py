"""Cross-validation: each unit judged once, by a model whose fit, stop and calibration never saw its cluster."""

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
def test_each_cluster_is_judged_once_and_is_on_one_side(samples: Any, folds: int) -> None:
    units = samples.units(40)
    judged: Counter[str] = Counter()
    dealt = list(cross_validation.deal(units, folds, 7))
    assert len(dealt) == (folds or units.table["cluster"].nunique())
    for one in dealt:
        sides = one.table.groupby("cluster")["side"].nunique()
        assert (sides == 1).all()
        test = one.table[one.table["side"] == "test"]
        judged.update(test["unit_id"])
        assert {"training", "validation"} <= set(one.table["side"])
        assert set(one.table.loc[one.table["side"] == "training", "label"]) == set(units.table["label"])
    assert set(judged.values()) == {1} and set(judged) == set(units.table["unit_id"])


def test_the_same_seed_deals_the_same(samples: Any) -> None:
    first, second = (
        [one.table["side"].tolist() for one in cross_validation.deal(samples.units(40), 4, 7)] for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(("clusters", "folds"), [(2, 0), (4, 5), (8, 1)])
def test_too_few_clusters_are_named(samples: Any, clusters: int, folds: int) -> None:
    units = samples.units(40)
    few = units.where(units.table["cluster"].isin(units.table["cluster"].unique()[:clusters]))
    with pytest.raises(Fault, match=f"{clusters} clusters can't be dealt"):
        list(cross_validation.deal(few, folds, 7))


def test_a_stranger_can_recompute_the_figures_and_no_judge_has_seen_its_cluster(samples: Any, tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    units = samples.units(40)
    told = cross_validation.crossval(units, samples.TASK, samples.FIT, samples.CALIBRATE, samples.EVALUATE, 2, tmp_path)
    every = pd.read_csv(tmp_path / "predictions.csv")
    assert sorted(every["unit_id"]) == sorted(units.table["unit_id"])
    assert told["test"]["auroc"]["value"] == pytest.approx(roc_auc_score(every["positive"], every["score"]))
    assert told["test"]["clusters"] == units.table["cluster"].nunique()
    folds = [roc_auc_score(part["positive"], part["score"]) for _, part in every.groupby("fold")]
    assert told["fold_auroc"]["each"] == pytest.approx(folds)
    assert told["fold_auroc"]["mean"] == pytest.approx(np.mean(folds))
    simple = pd.read_csv(tmp_path / "baseline.csv")
    assert told["baseline"]["auroc"]["value"] == pytest.approx(roc_auc_score(simple["positive"], simple["score"]))
    assert json.loads((tmp_path / "metrics.json").read_text()) == told
    for number, part in every.groupby("fold"):
        own = pd.read_csv(tmp_path / f"fold-{number}" / "evaluation" / "predictions.csv")
        chosen = set(own.loc[own["side"] == "validation", "cluster"])
        assert not chosen & set(part["cluster"])
