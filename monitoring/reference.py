"""The reference: held-out patients of the release, made comparable with what the journal keeps of an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.record import Pooling
from lineage.errors import Fault
from monitoring.window import with_clusters
from serving.inference.pooling import among, looks

SEED = 7


def read(folder: Path) -> pd.DataFrame:
    """What the evaluation wrote of held-out patients: `reference.csv` with the `embeddings` of `reference.npz`.

    One row per unit: descriptions, facts, `cluster`, `score` and `embedding` (32 numbers each); `case` where known.
    """
    table, arrays = folder / "reference.csv", folder / "reference.npz"
    for path in (table, arrays):
        if not path.is_file():
            raise Fault(f"{path} is missing: the watch needs the reference of the release; run the evaluation again")
    rows = pd.read_csv(table, dtype={"cluster": str, "case": str}, low_memory=False)
    with np.load(arrays, allow_pickle=False) as content:
        if "embeddings" not in content.files:
            raise Fault(f"{arrays} holds {content.files} but no embeddings; run the evaluation again")
        embeddings = np.asarray(content["embeddings"], dtype=np.float64)
    if len(embeddings) != len(rows):
        raise Fault(f"{arrays} holds {len(embeddings)} embeddings but {table} has {len(rows)} rows; evaluate again")
    return with_clusters(rows.assign(embedding=list(embeddings)))


def as_answered(
    reference: pd.DataFrame, current: pd.DataFrame, pooling: Pooling, prevalence: float, seed: int = SEED
) -> pd.DataFrame:
    """The reference as if it had been asked like the window: one row per answer instead of one per slice.

    The journal keeps, of an answer over n slices, the description of the most positive one and the pooled score; held
    against all slices of the reference that would look like drift. So each reference case is dealt into groups as
    large as the window's answers are (drawn from their sizes), and each group gives one row in the same way.
    `prevalence` is that of the side that calibrated the model.
    """
    sizes, seen = _sizes(current)
    if len(sizes) == 0 or sizes.max() <= 1:
        return reference
    generator = np.random.default_rng(seed)
    rows = reference.iloc[generator.permutation(len(reference))].reset_index(drop=True)
    keys = ["cluster", "case"] if "case" in rows else ["cluster"]
    place = rows.groupby(keys, sort=False, dropna=False).cumcount()
    case = rows.groupby(keys, sort=False, dropna=False).ngroup()
    like = generator.integers(len(sizes), size=int(case.max()) + 1)
    drawn = sizes[like]
    group = [case, place // drawn[case]]
    whole = case.map(case.value_counts()).clip(upper=pd.Series(drawn[case]))
    full = rows.groupby(group)["score"].transform("size") >= whole
    pooled = _pooled(rows["score"], group, seen[like][case], pooling, prevalence)
    top = rows["score"].groupby(group).transform("max") == rows["score"]
    answers = rows.assign(score=pooled)[full & top]
    return answers[~pd.DataFrame({"case": case, "group": group[1]})[full & top].duplicated()].reset_index(drop=True)


def _sizes(current: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """How many slices counted for each answer of the window, and how many looks they were."""
    if "slices" not in current:
        return np.zeros(0, dtype=np.intp), np.zeros(0)
    counts = current["slices"].map(lambda slices: max(1, sum(one.get("counted", True) for one in slices)))
    distances = current["d_thickness"] if "d_thickness" in current else pd.Series(0.0, index=current.index)
    seen = [looks(count, distance) for count, distance in zip(counts, distances.fillna(0.0), strict=True)]
    return counts.to_numpy(dtype=np.intp), np.array(seen)


def _pooled(
    scores: pd.Series[float],
    group: list[pd.Series[int]],
    seen: NDArray[np.float64],
    pooling: Pooling,
    prevalence: float,
) -> pd.Series[float]:
    """The positive score of each row's group, pooled as an answer over so many looks would be (serving/pooling)."""
    if pooling.rule != "topk":
        return scores.groupby(group).transform("mean")
    share = np.minimum(1.0, pooling.k / seen)
    rare = pd.Series(among(scores.to_numpy(np.float64), prevalence, np.asarray(share)), index=scores.index)
    return rare.groupby(group).transform(lambda one: one.nlargest(pooling.k).mean())
