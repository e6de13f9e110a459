"""Triage: withheld answers first, then cases far from the reference, then close calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.triage import rank


@pytest.fixture
def held_out() -> pd.DataFrame:
    points = np.random.default_rng(1).normal(size=(60, 32))
    return pd.DataFrame({"cluster": [f"R{number // 2}" for number in range(60)], "embedding": list(points)})


def case(name: str, offset: float = 0.0, **values: Any) -> dict[str, Any]:
    embedding = np.random.default_rng(2).normal(size=32)
    row = {
        "id": name,
        "at": "2026-01-01T00:00:00Z",
        "cluster": name,
        "answer": "malignant",
        "score": 0.9,
        "probabilities": np.array([0.05, 0.05, 0.9]),
        "embedding": embedding + offset,
    }
    return row | values


def test_withheld_answers_come_first_then_far_ones_then_close_calls(held_out: pd.DataFrame) -> None:
    rows = pd.DataFrame(
        [
            case("usual"),
            case("close", probabilities=np.array([0.1, 0.44, 0.46])),
            case("far and close", 9.0, probabilities=np.array([0.1, 0.44, 0.46])),
            case("withheld", answer=None),
        ]
    )
    ranked = rank(rows, held_out)
    assert ranked["id"].tolist() == ["withheld", "far and close", "close", "usual"]
    assert "withheld" in ranked["why"][0]
    assert "farther from the reference" in ranked["why"][1]
    assert "close call" in ranked["why"][2]
    assert ranked["why"][3] == "nothing unusual"


def test_far_is_the_share_of_closer_reference_units(held_out: pd.DataFrame) -> None:
    ranked = rank(pd.DataFrame([case("usual"), case("far", 9.0)]), held_out).set_index("id")
    assert ranked.loc["far", "far"] == 1.0
    assert ranked.loc["usual", "far"] < 0.99


def test_distances_of_reference_units_exclude_their_own_patient() -> None:
    twins = np.repeat(np.random.default_rng(3).normal(size=(10, 32)), 6, axis=0)
    held_out = pd.DataFrame({"cluster": [f"R{number // 6}" for number in range(60)], "embedding": list(twins)})
    assert rank(pd.DataFrame([case("usual")]), held_out)["far"][0] < 0.9


def test_a_prediction_without_embedding_is_ranked(held_out: pd.DataFrame) -> None:
    ranked = rank(pd.DataFrame([case("bare", embedding=np.zeros(0)), case("usual")]), held_out)
    assert set(ranked["id"]) == {"bare", "usual"}


def test_the_list_can_be_limited_or_empty(held_out: pd.DataFrame) -> None:
    rows = pd.DataFrame([case(str(number)) for number in range(5)])
    assert len(rank(rows, held_out, limit=2)) == 2
    assert len(rank(rows.head(0), held_out)) == 0
