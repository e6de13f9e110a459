"""One p-value over three families: true to its alpha without a shift, powerful with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lineage.fault import Fault
from monitoring.measure import measure

COLUMNS = [f"column_{place}" for place in range(8)]
Side = Callable[..., pd.DataFrame]


def test_false_alarms_stay_at_alpha_without_a_shift(side: Side) -> None:
    generator = np.random.default_rng(11)
    pairs = [(side(generator, 40), side(generator, 25)) for _ in range(40)]
    p = np.array([measure(*pair, 299, COLUMNS)["p"] for pair in pairs])
    assert (p < 0.05).mean() <= 0.1
    assert p.min() < 0.3  # it is a test, not a constant


def test_uneven_numbers_of_slices_are_no_drift(side: Side) -> None:
    generator = np.random.default_rng(12)
    pairs = [(side(generator, 30, slices=12), side(generator, 30, slices=1)) for _ in range(20)]
    assert np.mean([measure(*pair, 299, COLUMNS)["p"] < 0.05 for pair in pairs]) <= 0.1


def test_slices_of_few_patients_are_not_taken_for_many(side: Side) -> None:
    generator = np.random.default_rng(13)
    reference = side(generator, 40)
    one = [side(generator, 2, slices=1) for _ in range(10)]
    p = [measure(reference, pd.concat([rows] * 50), 299, COLUMNS)["p"] for rows in one]
    assert min(p) > 0.01  # two patients asked fifty times over stay two patients


@pytest.mark.parametrize("kind", ["level", "spread", "missing", "score", "embedding"])
def test_a_planted_shift_is_found(side: Side, kind: str) -> None:
    generator = np.random.default_rng(14)
    found = []
    for _ in range(10):
        reference, current = side(generator, 40), side(generator, 30)
        if kind == "level":
            current["column_3"] += 2.0
        elif kind == "spread":
            current["column_3"] *= 4.0
        elif kind == "missing":
            current["column_3"] = np.nan
        elif kind == "score":
            current["score"] = current["score"] ** 4
        else:
            current["embedding"] = [vector + 0.6 for vector in current["embedding"]]
        found.append(measure(reference, current, 999, COLUMNS))
    assert np.mean([figures["p"] < 0.01 for figures in found]) >= 0.9
    if kind in ("level", "spread", "missing"):
        first = [(figures["columns"][0]["name"], figures["columns"][0]["kind"]) for figures in found]
        assert first.count(("column_3", kind)) >= 9


def test_the_size_of_a_shift_is_in_sds_of_reference_patients(side: Side) -> None:
    generator = np.random.default_rng(15)
    reference, current = side(generator, 300, slices=1), side(generator, 300, slices=1)
    current["column_0"] -= 3.0
    moved: dict[str, Any] = measure(reference, current, 99, COLUMNS)["columns"][0]
    assert moved["name"] == "column_0"
    assert moved["sd"] == pytest.approx(-3.0, abs=0.3)
    assert moved["window"] - moved["reference"] == pytest.approx(-3.0, abs=0.3)


def test_facts_that_no_reference_patient_has_are_named(side: Side) -> None:
    generator = np.random.default_rng(16)
    reference = side(generator, 10).assign(manufacturer="ACME", kernel="B30")
    current = side(generator, 10).assign(manufacturer="Other", kernel="B30")
    figures = measure(reference, current, 99, [*COLUMNS, "absent"], ["manufacturer", "kernel", "site"])
    assert figures["unseen"] == [{"fact": "manufacturer", "value": "Other", "rows": len(current)}]
    assert figures["not_compared"] == ["absent"]


def test_without_embeddings_the_other_families_still_speak(side: Side) -> None:
    generator = np.random.default_rng(17)
    current = side(generator, 10)
    current["embedding"] = [np.zeros(0)] * len(current)
    figures = measure(side(generator, 10), current, 99, COLUMNS)
    assert figures["families"]["embedding"]["p"] is None
    assert figures["p"] is not None


def test_too_few_ways_to_permute_are_said(side: Side) -> None:
    generator = np.random.default_rng(18)
    figures = measure(side(generator, 3), side(generator, 3), 1999, COLUMNS)
    assert figures["smallest_p"] == pytest.approx(3 / 20)


def test_one_patient_cannot_be_compared(side: Side) -> None:
    generator = np.random.default_rng(19)
    with pytest.raises(Fault, match="window has fewer than two patients"):
        measure(side(generator, 10), side(generator, 1), 99, COLUMNS)


def test_the_figures_are_plain_and_repeatable(side: Side) -> None:
    import json

    generator = np.random.default_rng(20)
    pair = side(generator, 20), side(generator, 20)
    first, second = (measure(*pair, 199, COLUMNS) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first)) == first
