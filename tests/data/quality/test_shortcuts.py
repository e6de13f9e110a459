from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data.quality.shortcuts import GREYS, NUMBERS, shortcuts
from data.scan.slice_features import FACTS
from data.scan.thumbnail import encoded

LIMIT = 0.98


def clusters(count: int, seed: int = 0) -> pd.DataFrame:
    """So many clusters of three units, two labels, facts that say nothing."""
    random = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(count), 3)
    numbers = {name: random.normal(size=3 * count) for name in (*NUMBERS, *GREYS)}
    texts = dict.fromkeys((*FACTS, "site", "scanner"), "same")
    shown = [encoded(random.integers(0, 64, (40, 40)).astype(np.uint8)) for _ in cluster]
    label = np.where(cluster % 2 == 0, "normal", "tumour")
    return pd.DataFrame({"label": label, "cluster": cluster.astype(str), "thumbnail": shown, **numbers, **texts})


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    return clusters(40)


def test_facts_that_say_nothing_predict_nothing(manifest: pd.DataFrame) -> None:
    told = shortcuts(manifest, LIMIT)
    assert [one.source for one in told] and all(0.25 < one.accuracy < 0.75 for one in told)
    assert not any(one.rings(LIMIT) for one in told)


@pytest.mark.parametrize(
    ("column", "values", "source"),
    [
        ("columns", (801, 512), "header, size and border"),
        ("site", ("A", "B"), "header, size and border"),
        ("p99", (255.0, 240.0), "greys"),
    ],
)
def test_what_goes_with_the_label_is_found_and_named(
    manifest: pd.DataFrame, column: str, values: tuple[object, object], source: str
) -> None:
    betrayed = manifest.assign(**{column: np.where(manifest["label"] == "tumour", *values)})
    first = shortcuts(betrayed, LIMIT)[0]
    assert first.accuracy == 1.0 and first.source == source and first.rings(LIMIT)
    assert first.told_by[0].startswith(column) and "may stand for its source" in first.sentence()


def test_a_frame_around_the_pictures_of_one_label_is_found(manifest: pd.DataFrame) -> None:
    framed = np.full((40, 40), 63, np.uint8)
    framed[4:-4, 4:-4] = 20
    shown = manifest["thumbnail"].where(manifest["label"] == "normal", encoded(framed))
    first = shortcuts(manifest.assign(thumbnail=shown), LIMIT)[0]
    assert first.rings(LIMIT) and first.told_by[0].startswith("border grey")


def test_a_small_set_does_not_ring_by_luck() -> None:
    """Six clusters are told apart by any fact of three: one deal of the labels in ten does as well."""
    few = clusters(6)
    lucky = few.assign(columns=np.where(few["label"] == "tumour", 801, 512))
    first = shortcuts(lucky, LIMIT)[0]
    assert first.accuracy == 1.0 and first.p is not None and first.p > 0.01
    assert not first.rings(LIMIT)


def test_chance_alone_hardly_ever_rings() -> None:
    """At a limit that luck can reach, the permutations hold the false alarms near one in a hundred."""
    alarms = [one.rings(0.55) for seed in range(6) for one in shortcuts(clusters(8, seed + 1), 0.55)]
    assert len(alarms) == 12 and sum(alarms) <= 1


def test_a_fact_of_single_clusters_is_no_shortcut(manifest: pd.DataFrame) -> None:
    """What only names the patient can't be carried over to another one: clusters are never divided by the folds."""
    told = shortcuts(manifest.assign(rows=manifest["cluster"].astype(float)), LIMIT)
    assert all(one.accuracy < 0.8 for one in told)


def test_too_few_clusters_or_facts_give_no_figure(manifest: pd.DataFrame) -> None:
    assert shortcuts(manifest[manifest["cluster"].isin(["0", "1", "2", "3"])], LIMIT) == []
    assert shortcuts(manifest[manifest["label"] == "tumour"], LIMIT) == []
    plain = manifest.assign(**dict.fromkeys((*NUMBERS, *GREYS), 1.0), thumbnail="")
    assert shortcuts(plain, LIMIT) == []
