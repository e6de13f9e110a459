from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data.quality.shortcuts import GREYS, NUMBERS, find_shortcuts
from data.scan.slice_features import FACTS
from data.scan.thumbnail import encode_thumbnail

LIMIT = 0.98


def manifest_of(count: int, seed: int = 0) -> pd.DataFrame:
    """A manifest of clusters with three units each, two labels, and random facts."""
    random = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(count), 3)
    numbers = {name: random.normal(size=3 * count) for name in (*NUMBERS, *GREYS)}
    texts = dict.fromkeys((*FACTS, "site", "scanner"), "same")
    thumbnails = [encode_thumbnail(random.integers(0, 64, (40, 40)).astype(np.uint8)) for _ in cluster]
    label = np.where(cluster % 2 == 0, "normal", "tumour")
    return pd.DataFrame({"label": label, "cluster": cluster.astype(str), "thumbnail": thumbnails, **numbers, **texts})


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    return manifest_of(40)


def test_random_facts_predict_nothing(manifest: pd.DataFrame) -> None:
    results = find_shortcuts(manifest, LIMIT)
    assert [shortcut.source for shortcut in results] and all(0.25 < shortcut.accuracy < 0.75 for shortcut in results)
    assert not any(shortcut.is_shortcut(LIMIT) for shortcut in results)


@pytest.mark.parametrize(
    ("column", "values", "source"),
    [
        ("columns", (801, 512), "header, size and border"),
        ("site", ("A", "B"), "header, size and border"),
        ("p99", (255.0, 240.0), "greys"),
    ],
)
def test_a_fact_correlated_with_the_label_is_found_and_named(
    manifest: pd.DataFrame, column: str, values: tuple[object, object], source: str
) -> None:
    predictable = manifest.assign(**{column: np.where(manifest["label"] == "tumour", *values)})
    first = find_shortcuts(predictable, LIMIT)[0]
    assert first.accuracy == 1.0 and first.source == source and first.is_shortcut(LIMIT)
    assert first.main_facts[0].startswith(column) and "may stand for its source" in first.warning()


def test_a_frame_around_the_pictures_of_one_label_is_found(manifest: pd.DataFrame) -> None:
    framed = np.full((40, 40), 63, np.uint8)
    framed[4:-4, 4:-4] = 20
    thumbnails = manifest["thumbnail"].where(manifest["label"] == "normal", encode_thumbnail(framed))
    first = find_shortcuts(manifest.assign(thumbnail=thumbnails), LIMIT)[0]
    assert first.is_shortcut(LIMIT) and first.main_facts[0].startswith("border grey")


def test_a_small_set_is_no_shortcut_by_chance() -> None:
    """Any split of six clusters into three and three is predicted by one permutation in ten."""
    small = manifest_of(6)
    predictable = small.assign(columns=np.where(small["label"] == "tumour", 801, 512))
    first = find_shortcuts(predictable, LIMIT)[0]
    assert first.accuracy == 1.0 and first.p is not None and first.p > 0.01
    assert not first.is_shortcut(LIMIT)


def test_chance_rarely_gives_a_shortcut() -> None:
    """At a limit that chance can reach, the permutations keep false alarms near one in a hundred."""
    alarms = [
        shortcut.is_shortcut(0.55) for seed in range(6) for shortcut in find_shortcuts(manifest_of(8, seed + 1), 0.55)
    ]
    assert len(alarms) == 12 and sum(alarms) <= 1


def test_a_fact_of_single_clusters_is_no_shortcut(manifest: pd.DataFrame) -> None:
    """A fact that identifies the patient does not predict others: folds never divide clusters."""
    results = find_shortcuts(manifest.assign(rows=manifest["cluster"].astype(float)), LIMIT)
    assert all(shortcut.accuracy < 0.8 for shortcut in results)


def test_too_few_clusters_or_facts_give_no_figure(manifest: pd.DataFrame) -> None:
    assert find_shortcuts(manifest[manifest["cluster"].isin(["0", "1", "2", "3"])], LIMIT) == []
    assert find_shortcuts(manifest[manifest["label"] == "tumour"], LIMIT) == []
    constant = manifest.assign(**dict.fromkeys((*NUMBERS, *GREYS), 1.0), thumbnail="")
    assert find_shortcuts(constant, LIMIT) == []
