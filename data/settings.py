"""The settings of a batch's way in, as `params.yaml` names them under `ingest` and `split`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IngestSettings:
    """What the data gate tolerates.

    `quarantine` is `scan` (only what fails stays out) or `batch` (one failing unit keeps the whole batch out);
    `max_failing` is the share of failing units above which the whole batch stays out all the same;
    `near_duplicate_bits` is a Hamming distance of two 64-bit difference hashes;
    `shortcut_accuracy` is the balanced accuracy at which header and border facts alone are called a shortcut.
    """

    quarantine: str
    max_failing: float
    min_clusters_per_class: int
    near_duplicate_bits: int
    shortcut_accuracy: float


@dataclass(frozen=True)
class SplitSettings:
    """Shares of the clusters of each stratum for test and validation; the rest is for training."""

    seed: int
    test: float
    validation: float
