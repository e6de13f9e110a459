"""The reference of a model: its held-out patients as numbers, for the serving gate and the watch; no pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset.shards import Units
from data.scan import slice_features
from serving.inference import outlier

ARRAYS, TABLE = "reference.npz", "reference.csv"
JUDGED = ("unit_id", "cluster", "case", "side", "epoch", "site", "scanner", "label", "score", "predicted")


def write(target: Path, held: Units, judged: pd.DataFrame, features: NDArray[np.float32]) -> None:
    """Write `reference.npz` and `reference.csv` of the validation and test units, one row per unit in both.

    Arrays: `centre`, `scale` and `distances` (serving/inference/outlier.py), `embeddings` (n, 32) of the frozen
    descriptor, `scores` and `clusters` (n). Table: what was judged, then the descriptions and the facts of the header.
    """
    near = outlier.fit(features)
    np.savez(
        target / ARRAYS,
        centre=near.centre,
        scale=near.scale,
        distances=outlier.distance(near, features),
        embeddings=np.stack([slice_features.embed(picture[:, :, 0]) for picture in held.pixels]).astype(np.float32),
        scores=judged["score"].to_numpy(np.float32),
        clusters=judged["cluster"].to_numpy(str),
    )
    columns = [name for name in (*slice_features.DESCRIPTION, *slice_features.FACTS) if name in held.table]
    told = held.table[columns].reset_index(drop=True)
    pd.concat([judged[list(JUDGED)], told], axis=1).to_csv(target / TABLE, index=False)
