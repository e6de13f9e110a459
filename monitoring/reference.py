"""The reference of a release: its held-out patients, in a form comparable with answers in the journal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Pooling
from lineage.errors import Fault
from monitoring.window import with_clusters
from serving.inference.pooling import adjust_to_prevalence, independent_slice_count

SEED = 7


def read(folder: Path) -> pd.DataFrame:
    """Read the held-out patients from `reference.csv`, with the `embeddings` of `reference.npz`.

    One row per unit: descriptions, facts, `cluster`, `score` and `embedding` (32 numbers each); `case` where known.
    """
    table, arrays = folder / "reference.csv", folder / "reference.npz"
    for path in (table, arrays):
        if not path.is_file():
            raise Fault(f"{path} is missing: monitoring needs the reference of the release; run the evaluation again")
    rows = pd.read_csv(table, dtype={"cluster": str, "case": str}, low_memory=False)
    with np.load(arrays, allow_pickle=False) as content:
        if "embeddings" not in content.files:
            raise Fault(f"{arrays} holds {content.files} but no embeddings; run the evaluation again")
        embeddings = np.asarray(content["embeddings"], dtype=np.float64)
    if len(embeddings) != len(rows):
        raise Fault(f"{arrays} holds {len(embeddings)} embeddings but {table} has {len(rows)} rows; evaluate again")
    return with_clusters(rows.assign(embedding=list(embeddings)))


def group_like_answers(
    reference: pd.DataFrame, current: pd.DataFrame, pooling: Pooling, prevalence: float, seed: int = SEED
) -> pd.DataFrame:
    """The reference with one row per simulated answer instead of one per slice.

    For an answer over n slices the journal has the description of the most positive slice and the pooled score. A
    comparison with single reference slices would show drift where there is none. So each reference case is split into
    groups with sizes drawn from the answers of the window, and each group gives one row in the same way.
    `prevalence` is that of the units that calibrated the model.
    """
    sizes, look_counts = _answer_sizes(current)
    if len(sizes) == 0 or sizes.max() <= 1:
        return reference
    generator = np.random.default_rng(seed)
    rows = reference.iloc[generator.permutation(len(reference))].reset_index(drop=True)
    keys = ["cluster", "case"] if "case" in rows else ["cluster"]
    slice_number = rows.groupby(keys, sort=False, dropna=False).cumcount()
    case_number = rows.groupby(keys, sort=False, dropna=False).ngroup()
    answer_of_case = generator.integers(len(sizes), size=int(case_number.max()) + 1)
    group_sizes = sizes[answer_of_case]
    group = [case_number, slice_number // group_sizes[case_number]]
    full_size = case_number.map(case_number.value_counts()).clip(upper=pd.Series(group_sizes[case_number]))
    is_full = rows.groupby(group)["score"].transform("size") >= full_size
    pooled = _pool_scores(rows["score"], group, look_counts[answer_of_case][case_number], pooling, prevalence)
    is_highest = rows["score"].groupby(group).transform("max") == rows["score"]
    answers = rows.assign(score=pooled)[is_full & is_highest]
    return answers[
        ~pd.DataFrame({"case": case_number, "group": group[1]})[is_full & is_highest].duplicated()
    ].reset_index(drop=True)


def _answer_sizes(current: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Number of counted slices of each answer in the window, and number of looks (serving/inference/pooling.py)."""
    if "slices" not in current:
        return np.zeros(0, dtype=np.intp), np.zeros(0)
    counts = current["slices"].map(
        lambda slices: max(1, sum(slice_record.get("counted", True) for slice_record in slices))
    )
    distances = current["d_thickness"] if "d_thickness" in current else pd.Series(0.0, index=current.index)
    look_counts = [
        independent_slice_count(count, distance) for count, distance in zip(counts, distances.fillna(0.0), strict=True)
    ]
    return counts.to_numpy(dtype=np.intp), np.array(look_counts)


def _pool_scores(
    scores: pd.Series[float],
    group: list[pd.Series[int]],
    look_counts: NDArray[np.float64],
    pooling: Pooling,
    prevalence: float,
) -> pd.Series[float]:
    """The positive score of each row's group, pooled like an answer (serving/inference/pooling.py)."""
    if pooling.rule != "topk":
        return scores.groupby(group).transform("mean")
    share = np.minimum(1.0, pooling.k / look_counts)
    adjusted = pd.Series(
        adjust_to_prevalence(scores.to_numpy(np.float64), prevalence, np.asarray(share)), index=scores.index
    )
    return adjusted.groupby(group).transform(lambda group_scores: group_scores.nlargest(pooling.k).mean())
