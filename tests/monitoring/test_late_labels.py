"""Late labels: their record with actor and source, and sensitivity and specificity against them."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from data.core_types import Task
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from monitoring import late_labels
from monitoring.window import read_window

Predicted = Callable[..., str]


def test_a_label_is_stored_with_its_source_and_recorded_in_the_ledger(predicted: Predicted, task: Task) -> None:
    late_labels.add(predicted(1), "benign", "pathology", "dr-lee", task.classes)
    row = late_labels.labels().iloc[0]
    assert (row["prediction_id"], row["label"], row["source"], row["actor"]) == (
        "prediction-1",
        "benign",
        "pathology",
        "dr-lee",
    )
    event = ledger.events(kind=EventKind.OUTCOME_ADDED)[0]
    assert (event.subject, event.actor, event.payload["label"]) == ("prediction-1", "dr-lee", "benign")


def test_a_later_label_replaces_the_first(predicted: Predicted) -> None:
    predicted(1)
    late_labels.add("prediction-1", "benign", "report", "dr-lee")
    late_labels.add("prediction-1", "malignant", "pathology", "dr-ito")
    assert late_labels.labels()["label"].tolist() == ["malignant"]


def test_an_invalid_label_is_refused(predicted: Predicted, task: Task) -> None:
    predicted(1)
    with pytest.raises(Fault, match="prediction-9"):
        late_labels.add("prediction-9", "benign", "pathology", "dr-lee")
    with pytest.raises(Fault, match="source of a label"):
        late_labels.add("prediction-1", "benign", "hearsay", "dr-lee")
    with pytest.raises(Fault, match="normal, benign, malignant"):
        late_labels.add("prediction-1", "tumour", "pathology", "dr-lee", task.classes)
    assert len(late_labels.labels()) == 0


def test_sensitivity_and_specificity_of_the_window(predicted: Predicted, task: Task) -> None:
    answers = ["malignant", "malignant", "benign", "benign", "normal", None]
    truths = ["malignant", "benign", "malignant", "benign", "benign", "malignant"]
    for number, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        late_labels.add(predicted(number, answer=answer), truth, "pathology", "dr-lee", task.classes)
    predicted(99)
    figures = late_labels.compute_outcomes(task, read_window(task.name, hours=24))
    assert (figures["labelled"], figures["abstained"], figures["clusters"]) == (6, 1, 5)
    assert figures["sensitivity"]["value"] == 0.5  # one of two answered malignant cases is correct
    assert figures["specificity"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["wanted_sensitivity"] == 0.9


def test_without_labels_there_are_no_metrics(predicted: Predicted, task: Task) -> None:
    predicted(1)
    figures = late_labels.compute_outcomes(task, read_window(task.name, hours=24))
    assert (figures["labelled"], figures["sensitivity"], figures["specificity"]) == (0, None, None)


def test_an_interval_of_independent_cases_is_the_exact_one() -> None:
    from scipy.stats import binomtest

    is_correct = pd.Series([True] * 15 + [False] * 5)
    interval = late_labels.share_with_interval(is_correct, pd.Series([f"P{number}" for number in range(20)]))
    expected = binomtest(15, 20).proportion_ci(0.95, "exact")
    assert interval is not None
    assert (interval["low"], interval["high"]) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_many_slices_of_few_patients_give_a_wider_interval() -> None:
    is_correct = pd.Series([True] * 30 + [False] * 10)
    independent = late_labels.share_with_interval(is_correct, pd.Series([f"P{number}" for number in range(40)]))
    clustered = late_labels.share_with_interval(is_correct, pd.Series([f"P{number // 10}" for number in range(40)]))
    assert independent is not None
    assert clustered is not None
    assert clustered["high"] - clustered["low"] > 1.5 * (independent["high"] - independent["low"])


def test_if_all_cases_agree_the_patients_count() -> None:
    interval = late_labels.share_with_interval(
        pd.Series([True] * 40), pd.Series([f"P{number // 10}" for number in range(40)])
    )
    assert interval is not None
    assert interval["high"] == 1.0
    assert interval["low"] == pytest.approx(0.025 ** (1 / 4), abs=1e-3)


def test_an_empty_window_has_no_metrics_even_if_others_have_labels(predicted: Predicted, task: Task) -> None:
    late_labels.add(predicted(1), "benign", "pathology", "dr-lee")
    assert late_labels.compute_outcomes(task, read_window("brain-mr", hours=24))["labelled"] == 0
