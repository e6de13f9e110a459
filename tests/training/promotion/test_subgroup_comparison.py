"""Slices of the population: which there are, which are too small, and Holm over the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from training.promotion import subgroup_comparison
from training.promotion.comparison import compare


@pytest.fixture
def both(samples: Any) -> pd.DataFrame:
    """120 patients, equal models, with every fact that makes a slice."""
    mine, theirs = samples.pair(120, 3, auroc=0.9, epochs=np.repeat([1, 2, 3], 40))
    random = np.random.default_rng(3)
    lesion = np.where(mine["positive"] == 1, random.uniform(3, 40, 120), np.nan)
    return mine.assign(
        score_rival=theirs["score"],
        flagged_rival=theirs["flagged"],
        site=random.choice(["north", "south"], 120),
        scanner="one",
        sex=random.choice(["F", "M", ""], 120),
        age=random.uniform(10, 90, 120),
        lesion_mm=lesion,
    )


def test_every_fact_that_differs_makes_slices(samples: Any, both: pd.DataFrame) -> None:
    rows = subgroup_comparison.population(both, samples.PROMOTION)
    assert set(rows) == {
        "site north",
        "site south",
        "sex F",
        "sex M",
        "age under 18 years",
        "age 18 to 40 years",
        "age 40 to 60 years",
        "age 60 to 75 years",
        "age from 75 years",
        "lesion under 10 mm",
        "lesion 10 to 20 mm",
        "lesion 20 to 30 mm",
        "lesion from 30 mm",
    }  # (one scanner alone is no slice)
    north = both[both["site"] == "north"]
    areas = [roc_auc_score(north["positive"], north[name]) for name in ("score", "score_rival")]
    assert [rows["site north"]["challenger"], rows["site north"]["rival"]] == pytest.approx(areas)


def test_a_lesion_size_is_judged_against_every_negative(samples: Any, both: pd.DataFrame) -> None:
    row = subgroup_comparison.population(both, samples.PROMOTION)["lesion 10 to 20 mm"]
    assert row["negative_clusters"] == int((both["positive"] == 0).sum())
    assert row["positive_clusters"] == int(both["lesion_mm"].between(10, 20, inclusive="left").sum())


def test_too_few_patients_are_unknown(samples: Any, both: pd.DataFrame) -> None:
    few = both.assign(site=np.where(np.arange(120) < 6, "tiny", "large"))
    rows = subgroup_comparison.population(few, samples.PROMOTION)
    assert rows["site tiny"]["status"] == "unknown"
    assert rows["site tiny"]["wanted_clusters"] == samples.PROMOTION.slice_clusters
    assert "p_holm" not in rows["site tiny"]


def test_what_was_learnt_before_is_every_earlier_epoch_and_site(samples: Any, both: pd.DataFrame) -> None:
    rows = subgroup_comparison.earlier(both, samples.PROMOTION)
    assert set(rows) == {"epoch 1", "epoch 2", "site north before", "site south before"}
    assert rows["epoch 1"]["positive_clusters"] + rows["epoch 1"]["negative_clusters"] == 40


def test_holm_is_statsmodels_holm(samples: Any, both: pd.DataFrame) -> None:
    from statsmodels.stats.multitest import multipletests

    known = [
        row for row in subgroup_comparison.population(both, samples.PROMOTION).values() if row["status"] == "known"
    ]
    adjusted = multipletests([row["p_worse"] for row in known], method="holm")[1]
    assert [row["p_holm"] for row in known] == pytest.approx(list(adjusted))


def test_facts_of_the_units_join_the_comparison(samples: Any) -> None:
    mine, theirs = samples.pair(60, 5)
    facts = pd.DataFrame({"unit_id": mine["unit_id"], "sex": np.where(np.arange(60) % 2, "F", "M"), "age": np.nan})
    told = compare(mine, theirs, samples.PROMOTION, "x", facts)
    assert set(told["slices"]) == {"sex F", "sex M"}
    assert told["earlier"] == {}
    assert compare(mine, theirs, samples.PROMOTION, "x")["slices"] == {}
