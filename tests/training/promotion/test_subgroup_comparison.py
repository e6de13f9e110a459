"""Subgroups: their definition, subgroups that are too small, and Holm's correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from training.promotion import subgroup_comparison
from training.promotion.comparison import compare


@pytest.fixture
def paired(samples: Any) -> pd.DataFrame:
    """120 patients, equal models, with every fact that makes a subgroup."""
    challenger, rival = samples.pair(120, 3, auroc=0.9, epochs=np.repeat([1, 2, 3], 40))
    random = np.random.default_rng(3)
    lesion = np.where(challenger["positive"] == 1, random.uniform(3, 40, 120), np.nan)
    return challenger.assign(
        score_rival=rival["score"],
        flagged_rival=rival["flagged"],
        site=random.choice(["north", "south"], 120),
        scanner="one",
        sex=random.choice(["F", "M", ""], 120),
        age=random.uniform(10, 90, 120),
        lesion_mm=lesion,
    )


def test_every_fact_that_differs_makes_subgroups(samples: Any, paired: pd.DataFrame) -> None:
    rows = subgroup_comparison.population(paired, samples.PROMOTION)
    assert set(rows) == {
        "site north",
        "site south",
        "sex F",
        "sex M",
        "age under 18 years",
        "age 18 to under 40 years",
        "age 40 to under 60 years",
        "age 60 to under 75 years",
        "age 75 years and more",
        "lesion under 10 mm",
        "lesion 10 to under 20 mm",
        "lesion 20 to under 30 mm",
        "lesion 30 mm and more",
    }  # (one scanner alone makes no subgroup)
    north = paired[paired["site"] == "north"]
    areas = [roc_auc_score(north["positive"], north[name]) for name in ("score", "score_rival")]
    assert [rows["site north"]["challenger"], rows["site north"]["rival"]] == pytest.approx(areas)


def test_a_lesion_size_is_compared_with_every_negative(samples: Any, paired: pd.DataFrame) -> None:
    row = subgroup_comparison.population(paired, samples.PROMOTION)["lesion 10 to under 20 mm"]
    assert row["negative_clusters"] == int((paired["positive"] == 0).sum())
    assert row["positive_clusters"] == int(paired["lesion_mm"].between(10, 20, inclusive="left").sum())


def test_too_few_patients_are_unknown(samples: Any, paired: pd.DataFrame) -> None:
    with_tiny_site = paired.assign(site=np.where(np.arange(120) < 6, "tiny", "large"))
    rows = subgroup_comparison.population(with_tiny_site, samples.PROMOTION)
    assert rows["site tiny"]["status"] == "unknown"
    assert rows["site tiny"]["wanted_clusters"] == samples.PROMOTION.slice_clusters
    assert "p_holm" not in rows["site tiny"]


def test_earlier_data_is_every_earlier_epoch_and_site(samples: Any, paired: pd.DataFrame) -> None:
    rows = subgroup_comparison.earlier(paired, samples.PROMOTION)
    assert set(rows) == {"epoch 1", "epoch 2", "site north before", "site south before"}
    assert rows["epoch 1"]["positive_clusters"] + rows["epoch 1"]["negative_clusters"] == 40


def test_holm_agrees_with_statsmodels(samples: Any, paired: pd.DataFrame) -> None:
    from statsmodels.stats.multitest import multipletests

    tested = [
        row for row in subgroup_comparison.population(paired, samples.PROMOTION).values() if row["status"] == "known"
    ]
    adjusted = multipletests([row["p_worse"] for row in tested], method="holm")[1]
    assert [row["p_holm"] for row in tested] == pytest.approx(list(adjusted))


def test_facts_of_the_units_join_the_comparison(samples: Any) -> None:
    challenger, rival = samples.pair(60, 5)
    facts = pd.DataFrame(
        {"unit_id": challenger["unit_id"], "sex": np.where(np.arange(60) % 2, "F", "M"), "age": np.nan}
    )
    comparison = compare(challenger, rival, samples.PROMOTION, "x", facts)
    assert set(comparison["slices"]) == {"sex F", "sex M"}
    assert comparison["earlier"] == {}
    assert compare(challenger, rival, samples.PROMOTION, "x")["slices"] == {}
