"""A window: the predictions of a task in a time span, from the journal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lineage.errors import Fault
from monitoring.window import count_patients, read_window

Predicted = Callable[..., str]


def test_a_window_has_only_its_task_and_hours(predicted: Predicted) -> None:
    predicted(1)
    predicted(2, task="brain-mr")
    predicted(3, at="2020-01-01T00:00:00Z")
    assert read_window("lung-ct", hours=24)["id"].tolist() == ["prediction-1"]
    assert read_window("lung-ct", since="2019-01-01T00:00:00Z")["id"].tolist() == ["prediction-3", "prediction-1"]
    assert read_window("lung-ct")["id"].tolist() == ["prediction-3", "prediction-1"]


def test_a_window_can_be_of_one_release(predicted: Predicted) -> None:
    predicted(1)
    predicted(2, release="r2")
    assert read_window("lung-ct", hours=24, release="r2")["id"].tolist() == ["prediction-2"]


def test_descriptions_have_the_names_of_the_reference(predicted: Predicted) -> None:
    predicted(1, description={"noise": 4.5, "manufacturer": "ACME"})
    row = read_window("lung-ct", hours=24).iloc[0]
    assert (row["noise"], row["manufacturer"]) == (4.5, "ACME")
    assert row["embedding"].shape == (32,)


def test_unknown_patients_are_not_one_patient(predicted: Predicted) -> None:
    for number, cluster in enumerate(["", "", "P1", "P1"]):
        predicted(number, cluster=cluster)
    assert count_patients(read_window("lung-ct", hours=24)) == 3


def test_an_empty_window_is_empty_and_not_an_error(home: object) -> None:
    rows = read_window("lung-ct", hours=24)
    assert len(rows) == 0
    assert count_patients(rows) == 0


def test_hours_and_since_exclude_each_other(home: object) -> None:
    with pytest.raises(Fault, match="not by both"):
        read_window("lung-ct", hours=1, since="2020-01-01T00:00:00Z")
