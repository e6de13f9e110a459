from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data.describe import FACTS
from data.shortcut import NUMBERS, shortcut


@pytest.fixture
def manifest() -> pd.DataFrame:
    """Forty clusters of three units, two labels, header facts that say nothing."""
    random = np.random.default_rng(0)
    cluster = np.repeat(np.arange(40), 3)
    numbers = {name: random.normal(size=120) for name in NUMBERS}
    texts = dict.fromkeys((*FACTS, "site", "scanner"), "same")
    label = np.where(cluster % 2 == 0, "normal", "tumour")
    return pd.DataFrame({"label": label, "cluster": cluster.astype(str), **numbers, **texts})


def test_facts_that_say_nothing_predict_nothing(manifest: pd.DataFrame) -> None:
    accuracy, _ = shortcut(manifest)
    assert accuracy is not None and 0.3 < accuracy < 0.7


def test_a_size_and_a_site_that_go_with_the_label_are_found_and_named(manifest: pd.DataFrame) -> None:
    tumour = manifest["label"] == "tumour"
    for facts, name in (
        (manifest.assign(columns=np.where(tumour, 801, 512)), "columns"),
        (manifest.assign(site=np.where(tumour, "A", "B")), "site"),
    ):
        accuracy, told_by = shortcut(facts)
        assert accuracy == 1.0
        assert told_by[0].startswith(name)


def test_a_fact_of_single_clusters_is_no_shortcut(manifest: pd.DataFrame) -> None:
    """What only names the patient can't be carried over to another one: clusters are never divided by the folds."""
    accuracy, _ = shortcut(manifest.assign(rows=manifest["cluster"].astype(float)))
    assert accuracy is not None and accuracy < 0.8


def test_too_few_clusters_or_facts_give_no_figure(manifest: pd.DataFrame) -> None:
    assert shortcut(manifest[manifest["cluster"].isin(["0", "1", "2", "3"])]) == (None, [])
    assert shortcut(manifest[manifest["label"] == "tumour"]) == (None, [])
    assert shortcut(manifest.assign(**dict.fromkeys(NUMBERS, 1.0))) == (None, [])
