"""Settings of monitoring: the section `monitoring` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from data.ranges import PATIENTS, PROBABILITY, Range

MAX_HOURS = 1_000_000  # more than a century


@dataclass(frozen=True)
class MonitoringSettings:
    """Length of a window, its minimum size, and the limits that ask for retraining.

    `alpha` is the false-alarm rate of one test of one window, over all families of tests together. `min_clusters` is a
    number of patients in the window; `retrain_labels` a number of units admitted since the last training.
    """

    window_hours: Annotated[float, Range(above=0, most=MAX_HOURS, unit="hours")]
    min_clusters: Annotated[int, PATIENTS]
    alpha: Annotated[float, PROBABILITY]
    permutations: Annotated[int, Range(least=1, unit="permutations")]
    cooldown_hours: Annotated[float, Range(least=0, most=MAX_HOURS, unit="hours")]
    retrain_labels: Annotated[int, Range(least=1, unit="units")]
