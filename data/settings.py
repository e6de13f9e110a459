"""The settings of a batch's way in, as `params.yaml` names them under `ingest` and `split`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Disagreement(StrEnum):
    """What becomes of a scan whose readers disagree: the majority speaks, or the scan is sent back."""

    MAJORITY = "majority"
    REFUSE = "refuse"


@dataclass(frozen=True)
class IngestSettings:
    """What the data gate tolerates.

    `quarantine` is `scan` (only what fails stays out) or `batch` (one failing unit keeps the whole batch out);
    `max_failing` is the share of failing units above which the whole batch stays out all the same;
    `near_duplicate_likeness` is the correlation of the detail of two pictures laid over each other
    (data/duplicates/image_alignment.py);
    `shortcut_accuracy` is the balanced accuracy at which header and border facts alone are called a shortcut;
    `disagreement` of several readers of one scan: `majority` (a tie is sent back) or `refuse` (any is sent back).
    """

    quarantine: str
    max_failing: float
    min_clusters_per_class: int
    near_duplicate_likeness: float
    shortcut_accuracy: float
    disagreement: Disagreement = Disagreement.MAJORITY


@dataclass(frozen=True)
class SplitSettings:
    """Shares of the clusters of each stratum for test and validation; the rest is for training."""

    seed: int
    test: float
    validation: float
