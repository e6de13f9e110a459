"""Bands of age and lesion size: their labels, their edges, and unknown values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from training.evaluation import subgroup_metrics
from training.promotion import subgroup_comparison
from training.statistics import bands


@pytest.mark.parametrize(
    ("years", "label"),
    [
        (0, "under 18"),
        (17.9, "under 18"),
        (18, "18 to under 40"),
        (39.9, "18 to under 40"),
        (40, "40 to under 60"),
        (60, "60 to under 75"),
        (75, "75 and more"),
        (101, "75 and more"),
        (np.nan, ""),
        ("unknown", ""),
        ("63", "60 to under 75"),
    ],
)
def test_an_age_belongs_to_the_band_above_its_edge(years: object, label: str) -> None:
    assert bands.band_labels(pd.Series([years]), bands.AGES).tolist() == [label]


def test_labels_have_the_unit_and_the_index_of_the_values() -> None:
    labels = bands.band_labels(pd.Series([3.0, 10.0, 29.9, 30.0, np.nan], index=list("abcde")), bands.LESIONS, "mm")
    assert labels.to_dict() == {
        "a": "under 10 mm",
        "b": "10 to under 20 mm",
        "c": "20 to under 30 mm",
        "d": "30 mm and more",
        "e": "",
    }


def test_evaluation_and_gate_have_the_same_bands() -> None:
    assert bands.AGES == (18, 40, 60, 75) and bands.LESIONS == (10, 20, 30)
    for module in (subgroup_metrics, subgroup_comparison):
        assert module.bands is bands and not {"AGES", "LESIONS"} & set(vars(module))
