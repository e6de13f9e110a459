"""Settings of monitoring: the section `monitoring` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MonitoringSettings:
    """Length of a window, its minimum size, and the limits that ask for retraining.

    `alpha` is the false-alarm rate of one test of one window, over all families of tests together. `min_clusters` is a
    number of patients in the window; `retrain_labels` a number of units admitted since the last training.
    """

    window_hours: float
    min_clusters: int
    alpha: float
    permutations: int
    cooldown_hours: float
    retrain_labels: int
