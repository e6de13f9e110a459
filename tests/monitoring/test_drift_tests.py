"""Drift tests: correct false-alarm rate without a shift, power with a shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lineage.errors import Fault
from monitoring.drift_tests import measure

COLUMNS = [f"column_{number}" for number in range(8)]
Side = Callable[..., pd.DataFrame]


def patient_rows(*values: float, clusters: str = "", **columns: list[Any]) -> pd.DataFrame:
    """One row a value; a letter of `clusters` is the patient of each row; if empty, every row is another patient."""
    names = list(clusters) or [f"P{number}" for number in range(len(values))]
    table = pd.DataFrame({"cluster": names, "noise": list(values), "score": 0.5, **columns})
    return table.assign(embedding=[np.zeros(0)] * len(table))


def measure_noise_shift(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, Any]:
    columns = measure(reference, current, 19, ["noise"])["columns"]
    return next(column for column in columns if column["name"] == "noise")


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ([4.0, 5.0, 6.0], {"reference": 2.0, "window": 5.0, "sd": 3.0, "spread": 1.0}),
        ([-4.0, -5.0, -6.0], {"reference": 2.0, "window": -5.0, "sd": -7.0, "spread": 1.0}),
        ([0.0, 4.0, 8.0], {"reference": 2.0, "window": 4.0, "sd": 2.0, "spread": 4.0}),
        ([4.0, np.nan, 6.0, np.inf], {"window": 5.0, "sd": 3.0, "missing_window": 0.5, "missing_reference": 0.0}),
    ],
)
def test_a_shift_has_the_sign_and_the_size_of_the_means(window: list[float], expected: dict[str, float]) -> None:
    """The reference patients have 1, 2 and 3: mean 2, SD 1."""
    shift = measure_noise_shift(patient_rows(1, 2, 3), patient_rows(*window))
    assert {name: shift[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_a_shift_compares_patients_and_not_slices() -> None:
    reference = patient_rows(1, 2, 3, np.nan)
    shift = measure_noise_shift(reference, patient_rows(*[8.0] * 9, 2.0, np.nan, clusters="aaaaaaaaabc"))
    assert (shift["window"], shift["sd"]) == (5.0, 3.0)
    assert shift["spread"] == pytest.approx(np.sqrt(18), abs=1e-4)
    assert (shift["missing_reference"], shift["missing_window"]) == (0.25, pytest.approx(1 / 11, abs=1e-4))


def test_a_constant_reference_gives_no_size_of_a_shift() -> None:
    for constant_values in ([0.3, 0.3, 0.3], [0.3, 0.1 + 0.2, 0.3]):  # equal, and equal up to rounding
        shift = measure_noise_shift(patient_rows(*constant_values), patient_rows(4, 5, 6))
        assert (shift["reference"], shift["window"], shift["sd"], shift["spread"]) == (0.3, 5.0, None, None)


def test_the_most_shifted_column_comes_first_and_all_figures_are_correct(side: Side) -> None:
    generator = np.random.default_rng(21)
    reference, current = side(generator, 12), side(generator, 9)
    current["column_5"] += 4.0
    figures = measure(reference, current, 199, COLUMNS, ["absent"])
    assert figures["columns"][0]["name"] == "column_5"
    sizes = [column["t"] for column in figures["columns"]]
    assert sizes == [round(size, 4) for size in sizes]
    assert sizes == sorted(sizes, reverse=True)
    assert [column["name"] for column in figures["columns"]].count("column_5") == 1
    assert len(figures["columns"]) == 9  # with the score
    assert figures["clusters"] == {"reference": 12, "window": 9}
    per_cluster = figures["rows"].pop("per_cluster")
    assert figures["rows"] == {"reference": len(reference), "window": len(current)}
    assert 1 <= per_cluster <= 5
    assert (figures["permutations"], figures["unseen"], figures["not_compared"]) == (199, [], [])
    families = {name: family["p"] for name, family in figures["families"].items()}
    assert figures["p"] == pytest.approx(min(1, 3 * min(families.values())))
    assert families["description"] == min(column["p"] for column in figures["columns"] if column["name"] != "score")
    assert families["score"] == next(column["p"] for column in figures["columns"] if column["name"] == "score")
    assert figures["smallest_p"] == pytest.approx(3 / 200)


def test_a_p_value_is_corrected_for_the_number_of_columns_and_of_families(side: Side) -> None:
    """The same column alone and with 40 other columns without a shift."""
    generator = np.random.default_rng(22)
    other_columns = [f"other_{number}" for number in range(40)]
    reference, current = (side(generator, 30, slices=1, columns=["noise", *other_columns]) for _ in range(2))
    current["noise"] += 0.8
    single, with_others = (
        measure(reference, current, 999, columns) for columns in (["noise"], ["noise", *other_columns])
    )
    p = [
        next(column["p"] for column in figures["columns"] if column["name"] == "noise")
        for figures in (single, with_others)
    ]
    assert p[0] < p[1]
    assert single["families"]["description"]["p"] == p[0]


def test_constant_rows_are_no_drift() -> None:
    constant_rows = patient_rows(2, 2, 2, 2)
    figures = measure(constant_rows, constant_rows.assign(cluster="Q" + constant_rows["cluster"]), 19, ["noise"])
    assert (figures["p"], figures["columns"]) == (None, [])
    assert figures["families"] == {name: {"p": None} for name in ("embedding", "description", "score")}


@pytest.mark.parametrize("embedded", [1, 2])
def test_embeddings_need_two_patients_on_each_side(side: Side, embedded: int) -> None:
    generator = np.random.default_rng(23)
    reference, current = side(generator, 10), side(generator, 10, slices=1)
    current["embedding"] = [
        vector if number < embedded else np.zeros(0) for number, vector in enumerate(current["embedding"])
    ]
    for pair in ((reference, current), (current, reference)):
        assert (measure(*pair, 99, COLUMNS)["families"]["embedding"]["p"] is not None) is (embedded == 2)


def test_unseen_facts_are_counted_the_most_frequent_first() -> None:
    reference = patient_rows(1, 2, 3, kernel=["B30", "B30", None], site=["a", "b", "c"])
    current = patient_rows(
        1, 2, 3, 4, 5, 6, kernel=["B30", "B40", "B50", "B50", "", None], site=["a", "a", "b", "b", "c", "d"]
    )
    assert measure(reference, current, 19, ["noise"], ["kernel", "site", "absent"])["unseen"] == [
        {"fact": "kernel", "value": "B50", "rows": 2},
        {"fact": "kernel", "value": "B40", "rows": 1},
        {"fact": "site", "value": "d", "rows": 1},
    ]
    assert measure(reference, current.drop(columns="site"), 19, ["noise"], ["site"])["unseen"] == []


@pytest.mark.parametrize(
    ("reference", "window", "permutations", "smallest"),
    [(3, 3, 1999, 3 / 20), (12, 9, 199, 3 / 200), (2, 2, 1999, 0.5), (2, 2, 1, 1.0)],
)
def test_the_smallest_possible_p_value(
    side: Side, reference: int, window: int, permutations: int, smallest: float
) -> None:
    generator = np.random.default_rng(18)
    sides = side(generator, reference, slices=1), side(generator, window, slices=1)
    assert measure(*sides, permutations, COLUMNS)["smallest_p"] == pytest.approx(smallest)


def test_either_side_needs_two_patients(side: Side) -> None:
    generator = np.random.default_rng(19)
    one_patient, two_patients = side(generator, 1), side(generator, 2)
    with pytest.raises(Fault, match="the window has fewer than two patients"):
        measure(two_patients, one_patient, 19, COLUMNS)
    with pytest.raises(Fault, match="the reference has fewer than two patients"):
        measure(one_patient, two_patients, 19, COLUMNS)
    assert measure(two_patients, two_patients, 19, COLUMNS)["clusters"] == {"reference": 2, "window": 2}


def test_false_alarms_stay_at_alpha_without_a_shift(side: Side) -> None:
    generator = np.random.default_rng(11)
    pairs = [(side(generator, 40), side(generator, 25)) for _ in range(40)]
    p_values = np.array([measure(*pair, 299, COLUMNS)["p"] for pair in pairs])
    assert (p_values < 0.05).mean() <= 0.1
    assert p_values.min() < 0.3  # the p-value is not constant


def test_uneven_numbers_of_slices_are_no_drift(side: Side) -> None:
    generator = np.random.default_rng(12)
    pairs = [(side(generator, 30, slices=12), side(generator, 30, slices=1)) for _ in range(20)]
    assert np.mean([measure(*pair, 299, COLUMNS)["p"] < 0.05 for pair in pairs]) <= 0.1


def test_many_slices_of_few_patients_are_not_many_patients(side: Side) -> None:
    generator = np.random.default_rng(13)
    reference = side(generator, 40)
    windows = [side(generator, 2, slices=1) for _ in range(10)]
    p_values = [measure(reference, pd.concat([rows] * 50), 299, COLUMNS)["p"] for rows in windows]
    assert min(p_values) > 0.01  # two patients with fifty times the rows are still two patients


@pytest.mark.parametrize("kind", ["level", "spread", "missing", "score", "embedding"])
def test_an_added_shift_is_detected(side: Side, kind: str) -> None:
    generator = np.random.default_rng(14)
    results = []
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
        results.append(measure(reference, current, 999, COLUMNS))
    assert np.mean([figures["p"] < 0.01 for figures in results]) >= 0.9
    if kind in ("level", "spread", "missing"):
        largest_shifts = [(figures["columns"][0]["name"], figures["columns"][0]["kind"]) for figures in results]
        assert largest_shifts.count(("column_3", kind)) >= 9


def test_the_size_of_a_shift_is_in_sds_of_reference_patients(side: Side) -> None:
    generator = np.random.default_rng(15)
    reference, current = side(generator, 300, slices=1), side(generator, 300, slices=1)
    current["column_0"] -= 3.0
    largest_shift: dict[str, Any] = measure(reference, current, 99, COLUMNS)["columns"][0]
    assert largest_shift["name"] == "column_0"
    assert largest_shift["sd"] == pytest.approx(-3.0, abs=0.3)
    assert largest_shift["window"] - largest_shift["reference"] == pytest.approx(-3.0, abs=0.3)


def test_facts_without_a_reference_patient_are_listed(side: Side) -> None:
    generator = np.random.default_rng(16)
    reference = side(generator, 10).assign(manufacturer="ACME", kernel="B30")
    current = side(generator, 10).assign(manufacturer="Other", kernel="B30")
    figures = measure(reference, current, 99, [*COLUMNS, "absent"], ["manufacturer", "kernel", "site"])
    assert figures["unseen"] == [{"fact": "manufacturer", "value": "Other", "rows": len(current)}]
    assert figures["not_compared"] == ["absent"]


def test_without_embeddings_the_other_families_are_tested(side: Side) -> None:
    generator = np.random.default_rng(17)
    current = side(generator, 10)
    current["embedding"] = [np.zeros(0)] * len(current)
    figures = measure(side(generator, 10), current, 99, COLUMNS)
    assert figures["families"]["embedding"]["p"] is None
    assert figures["p"] is not None


def test_the_figures_are_json_and_reproducible(side: Side) -> None:
    import json

    generator = np.random.default_rng(20)
    pair = side(generator, 20), side(generator, 20)
    first, second = (measure(*pair, 199, COLUMNS) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first)) == first
