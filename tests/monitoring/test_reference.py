"""The reference: reading it, and grouping its slices like answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.core_types import Pooling
from lineage.errors import Fault
from monitoring import reference
from serving.inference.pooling import adjust_to_prevalence

TOP = Pooling("topk", 2)


def write_reference(folder: Path, rows: int, embeddings: int) -> None:
    table = pd.DataFrame({"cluster": ["007", "", "007"][:rows], "noise": range(rows), "score": [0.1] * rows})
    table.to_csv(folder / "reference.csv", index=False)
    np.savez(folder / "reference.npz", embeddings=np.ones((embeddings, 32), dtype=np.float32))


def reference_slices(scores: list[float], case: str = "A", cluster: str = "P1") -> pd.DataFrame:
    return pd.DataFrame(
        {"cluster": cluster, "case": case, "score": scores, "noise": np.arange(len(scores), dtype=float)}
    )


def window_of(*sizes: int) -> pd.DataFrame:
    return pd.DataFrame({"slices": [[{"index": index, "score": 0.5} for index in range(size)] for size in sizes]})


def test_a_cluster_keeps_its_zeros_and_an_unknown_patient_is_its_own_cluster(tmp_path: Path) -> None:
    write_reference(tmp_path, 3, 3)
    rows = reference.read(tmp_path)
    assert rows["cluster"].iloc[0] == rows["cluster"].iloc[2] == "007"
    assert rows["cluster"].nunique() == 2
    assert rows["embedding"].iloc[1].shape == (32,)


def test_a_missing_or_broken_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"reference\.csv is missing"):
        reference.read(tmp_path)
    write_reference(tmp_path, 3, 2)
    with pytest.raises(Fault, match=r"2 embeddings but .* 3 rows"):
        reference.read(tmp_path)
    np.savez(tmp_path / "reference.npz", scores=np.ones(3))
    with pytest.raises(Fault, match="no embeddings"):
        reference.read(tmp_path)


def test_answers_over_one_slice_leave_the_reference_unchanged() -> None:
    rows = reference_slices([0.1, 0.2, 0.3])
    pd.testing.assert_frame_equal(reference.group_like_answers(rows, window_of(1, 1), TOP, 0.4), rows)
    pd.testing.assert_frame_equal(reference.group_like_answers(rows, pd.DataFrame({"id": []}), TOP, 0.4), rows)


def test_answers_over_whole_series_take_the_most_positive_slice_of_each_case() -> None:
    rows = pd.concat(
        [reference_slices([0.1, 0.9, 0.5]), reference_slices([0.2, 0.4, 0.3], "B"), reference_slices([0.7], "C", "P2")]
    )
    answers = reference.group_like_answers(rows, window_of(30), TOP, 0.4).sort_values("case")
    assert answers["case"].tolist() == ["A", "B", "C"]
    assert answers["noise"].tolist() == [1.0, 1.0, 0.0]
    adjusted = adjust_to_prevalence(np.array([0.9, 0.5, 0.4, 0.3, 0.7]), 0.4, TOP.k / 30)
    assert answers["score"].tolist() == pytest.approx([adjusted[:2].mean(), adjusted[2:4].mean(), adjusted[4]])


def test_answers_over_a_few_slices_split_a_case_into_full_groups() -> None:
    answers = reference.group_like_answers(reference_slices([0.5] * 10), window_of(4), Pooling("mean", 1), 0.4)
    assert len(answers) == 2  # 4 + 4; the remaining two make no full group


def test_pooled_answers_are_no_drift_against_the_grouped_reference() -> None:
    """Answers differ from single reference slices, but not from the grouped reference."""
    from monitoring.drift_tests import measure

    generator = np.random.default_rng(3)

    def series(patient: int) -> pd.DataFrame:
        scores = generator.uniform(size=12)
        rows = pd.DataFrame({"score": scores, "noise": 2 * scores + generator.normal(size=12)})
        embedding = [np.full(4, value) for value in generator.normal(size=12)]
        return rows.assign(cluster=f"P{patient}", case="A", embedding=embedding)

    held_out = pd.concat([series(patient) for patient in range(40)], ignore_index=True)
    window = pd.concat([series(patient).nlargest(1, "score") for patient in range(30)], ignore_index=True)
    window["slices"] = [[{}] * 12] * len(window)
    window["score"] = adjust_to_prevalence(window["score"].to_numpy(), 0.4, 1 / 12)
    grouped = reference.group_like_answers(held_out, window, Pooling("topk", 1), 0.4)
    assert measure(held_out, window, 499, ["noise"])["p"] < 0.01
    assert measure(grouped, window, 499, ["noise"])["p"] > 0.05
