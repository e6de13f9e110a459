"""What the watch may be told: the `monitoring` section of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MonitoringSettings:
    """How long a window is, when it says enough, and when the answer is "retrain".

    `alpha` is the false-alarm rate of one look at one window, over all families of tests together.
    `min_clusters` counts the patients of the window; `retrain_labels` counts units admitted since the last training.
    """

    window_hours: float
    min_clusters: int
    alpha: float
    permutations: int
    cooldown_hours: float
    retrain_labels: int
