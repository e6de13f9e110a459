"""The reference: held-out patients of the release, made comparable with what the journal keeps of an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from data.record import Pooling
from lineage.fault import Fault
from monitoring.window import with_clusters

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


def as_answered(reference: pd.DataFrame, current: pd.DataFrame, pooling: Pooling, seed: int = SEED) -> pd.DataFrame:
    """The reference as if it had been asked like the window: one row per answer instead of one per slice.

    The journal keeps, of an answer over n slices, the description of the most positive one and the pooled score; held
    against all slices of the reference that would look like drift. So each reference case is dealt into groups as
    large as the window's answers are (drawn from their sizes), and each group gives one row in the same way.
    """
    sizes = _sizes(current)
    if len(sizes) == 0 or sizes.max() <= 1:
        return reference
    generator = np.random.default_rng(seed)
    rows = reference.iloc[generator.permutation(len(reference))].reset_index(drop=True)
    keys = ["cluster", "case"] if "case" in rows else ["cluster"]
    place = rows.groupby(keys, sort=False, dropna=False).cumcount()
    case = rows.groupby(keys, sort=False, dropna=False).ngroup()
    drawn = generator.choice(sizes, size=int(case.max()) + 1)
    group = [case, place // drawn[case]]
    whole = case.map(case.value_counts()).clip(upper=pd.Series(drawn[case]))
    full = rows.groupby(group)["score"].transform("size") >= whole
    pooled = rows["score"].groupby(group).transform(lambda scores: _pool(scores, pooling))
    top = rows["score"].groupby(group).transform("max") == rows["score"]
    answers = rows.assign(score=pooled)[full & top]
    return answers[~pd.DataFrame({"case": case, "group": group[1]})[full & top].duplicated()].reset_index(drop=True)


def _sizes(current: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """How many slices each answer of the window was made of."""
    if "slices" not in current:
        return np.zeros(0, dtype=np.intp)
    counts = current["slices"].map(lambda slices: len(slices) if isinstance(slices, list) else 1)
    return counts.clip(lower=1).to_numpy(dtype=np.intp)


def _pool(scores: pd.Series[float], pooling: Pooling) -> float:
    """A case's positive score from its slices': their mean, or that of the k most positive."""
    return float((scores.nlargest(pooling.k) if pooling.rule == "topk" else scores).mean())
