"""The reference set of a model: its held-out patients as numbers, for the serving gate and monitoring."""

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


def write(target: Path, held_out: Units, judged: pd.DataFrame, features: NDArray[np.float32]) -> None:
    """Write `reference.npz` and `reference.csv` of the validation and test units, one row per unit, without pixels.

    Arrays: `centre`, `scale` and `distances` (serving/inference/outlier.py), `embeddings` (n, 32) of the frozen
    descriptor, `scores` and `clusters` (n). Table: the predictions, then the descriptions and the facts of the header.
    """
    distribution = outlier.fit(features)
    np.savez(
        target / ARRAYS,
        centre=distribution.centre,
        scale=distribution.scale,
        distances=outlier.distance(distribution, features),
        embeddings=np.stack([slice_features.embed(image[:, :, 0]) for image in held_out.pixels]).astype(np.float32),
        scores=judged["score"].to_numpy(np.float32),
        clusters=judged["cluster"].to_numpy(str),
    )
    columns = [name for name in (*slice_features.DESCRIPTION, *slice_features.FACTS) if name in held_out.table]
    descriptions = held_out.table[columns].reset_index(drop=True)
    pd.concat([judged[list(JUDGED)], descriptions], axis=1).to_csv(target / TABLE, index=False)
