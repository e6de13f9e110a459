"""The settings under `ingest` and `split` of `params.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from data.ranges import Range


class Disagreement(StrEnum):
    """How to handle a scan whose readers disagree: take the majority, or refuse the scan."""

    MAJORITY = "majority"
    REFUSE = "refuse"


@dataclass(frozen=True)
class IngestSettings:
    """The thresholds of the data gate.

    `quarantine`: `scan` (only failing units are kept out) or `batch` (one failing unit keeps the whole batch out).
    `max_failing`: the share of failing units above which the whole batch is kept out in any case.
    `near_duplicate_likeness`: the correlation of the detail of two aligned images from which they are near-duplicates
    (data/duplicates/image_alignment.py).
    `shortcut_accuracy`: the balanced accuracy from which header and border facts alone count as a shortcut.
    `disagreement` of several readers of one scan: `majority` (a tie is refused) or `refuse` (any is refused).
    """

    quarantine: Literal["scan", "batch"]
    max_failing: Annotated[float, Range(least=0, most=1, unit="share of the units")]
    min_clusters_per_class: Annotated[int, Range(least=0, unit="patients")]
    near_duplicate_likeness: Annotated[float, Range(above=0, most=1, unit="correlation")]
    shortcut_accuracy: Annotated[float, Range(above=0, most=1, unit="balanced accuracy")]
    disagreement: Disagreement = Disagreement.MAJORITY


@dataclass(frozen=True)
class SplitSettings:
    """The shares of the clusters of each stratum for test and validation; the rest is for training."""

    seed: int  # part of a text that is hashed: any number
    test: Annotated[float, Range(above=0, below=1, unit="share of the patients")]
    validation: Annotated[float, Range(above=0, below=1, unit="share of the patients")]
