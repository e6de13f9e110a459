"""Late labels are kept with who and how, and tell how often the answers were right."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from data.record import Task
from lineage.errors import Fault
from lineage.record import ledger
from monitoring import late_labels
from monitoring.window import window

Predicted = Callable[..., str]


def test_a_label_is_kept_with_its_source_and_in_the_ledger(predicted: Predicted, task: Task) -> None:
    late_labels.add(predicted(1), "benign", "pathology", "dr-lee", task.classes)
    row = late_labels.labels().iloc[0]
    assert (row["prediction_id"], row["label"], row["source"], row["actor"]) == (
        "prediction-1",
        "benign",
        "pathology",
        "dr-lee",
    )
    event = ledger.events(kind="outcome.added")[0]
    assert (event.subject, event.actor, event.payload["label"]) == ("prediction-1", "dr-lee", "benign")


def test_a_later_label_corrects_the_first(predicted: Predicted) -> None:
    predicted(1)
    late_labels.add("prediction-1", "benign", "report", "dr-lee")
    late_labels.add("prediction-1", "malignant", "pathology", "dr-ito")
    assert late_labels.labels()["label"].tolist() == ["malignant"]


def test_what_cannot_be_a_label_is_refused_in_a_sentence(predicted: Predicted, task: Task) -> None:
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
    figures = late_labels.outcomes(task, window(task.name, hours=24))
    assert (figures["labelled"], figures["abstained"], figures["clusters"]) == (6, 1, 5)
    assert figures["sensitivity"]["value"] == 0.5  # of two malignant ones that were answered, one was found
    assert figures["specificity"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["wanted_sensitivity"] == 0.9


def test_without_labels_there_are_no_figures(predicted: Predicted, task: Task) -> None:
    predicted(1)
    figures = late_labels.outcomes(task, window(task.name, hours=24))
    assert (figures["labelled"], figures["sensitivity"], figures["specificity"]) == (0, None, None)


def test_an_interval_of_independent_cases_is_the_exact_one() -> None:
    from scipy.stats import binomtest

    right = pd.Series([True] * 15 + [False] * 5)
    found = late_labels.share(right, pd.Series([f"P{place}" for place in range(20)]))
    wanted = binomtest(15, 20).proportion_ci(0.95, "exact")
    assert found is not None
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high), abs=0.02)


def test_many_slices_of_few_patients_give_a_wider_interval() -> None:
    right = pd.Series([True] * 30 + [False] * 10)
    alone = late_labels.share(right, pd.Series([f"P{place}" for place in range(40)]))
    together = late_labels.share(right, pd.Series([f"P{place // 10}" for place in range(40)]))
    assert alone is not None
    assert together is not None
    assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])


def test_where_all_agree_the_patients_count() -> None:
    found = late_labels.share(pd.Series([True] * 40), pd.Series([f"P{place // 10}" for place in range(40)]))
    assert found is not None
    assert found["high"] == 1.0
    assert found["low"] == pytest.approx(0.025 ** (1 / 4), abs=1e-3)


def test_an_empty_window_has_no_figures_though_others_have_labels(predicted: Predicted, task: Task) -> None:
    late_labels.add(predicted(1), "benign", "pathology", "dr-lee")
    assert late_labels.outcomes(task, window("brain-mr", hours=24))["labelled"] == 0
