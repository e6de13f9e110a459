"""Settings of the training room, one field for each key of `params.yaml`; free of any framework."""

from __future__ import annotations

from dataclasses import dataclass, field

ALL, HEAD = "all", "head"  # which layers train: all of them, or the last one alone


@dataclass(frozen=True)
class AugmentSettings:
    """Ranges of augmentation: degrees of rotation, shares of the picture for shift and zoom, of the grey range else;
    `erase` is the share of pictures that lose a rectangle, `paste` of units with a mask that get another's lesion, or
    lose theirs (training/fitting/lesion_paste.py)."""

    rotation: float
    shift: float
    zoom: float
    flip: bool
    brightness: float
    contrast: float
    noise: float
    erase: float = 0.0
    paste: float = 0.0


@dataclass(frozen=True)
class WarmSettings:
    """How a fit goes on from an earlier model: the share of the old training clusters that train again, the learning
    rate, and for each task the pinned parent (`folder` with its weights, and their `sha256`)."""

    replay: float = 0.5
    learning_rate: float = 0.0005
    parents: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted. `patience` counts epochs without a better validation loss; 0: the last epoch is kept.

    `strategy` is full (from `weights`, on all admitted data) or warm (training/fitting/warm_start.py); `precision`
    float32 or
    bfloat16, in which layers then compute, while weights stay float32. `mask_weight` is that of the loss which tells
    where lesions are, for units with a mask. `head_epochs`, `unfreeze_from` and `unfrozen_rate` stage what learns of a
    pretrained network (training/fitting/fine_tuning.py), `sampling` is of training/fitting/sampling.py, `devices` of
    training/network/devices.py, `local_contrast` of training/network/layers.py (pixels; 0: off).
    """

    seed: int
    backbone: str
    weights: str
    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    class_weights: bool
    augment: AugmentSettings
    precision: str = "float32"
    strategy: str = "full"
    warm: WarmSettings = WarmSettings()
    mask_weight: float = 0.0
    head_epochs: int = 0
    unfreeze_from: str = "all"
    unfrozen_rate: float = 0.1
    sampling: str = "natural"
    local_contrast: int = 0
    devices: int = 0


@dataclass(frozen=True)
class CalibrateSettings:
    """Conformal level and the clusters of each class that it needs on the validation side."""

    min_clusters: int
    level: float


@dataclass(frozen=True)
class EvaluateSettings:
    """Resamples and confidence of the clustered bootstrap; precision of the graph (auto, float32, bfloat16);
    the prevalence at which PPV and NPV are told."""

    seed: int
    bootstrap: int
    confidence: float
    precision: str
    prevalence: float = 0.05


@dataclass(frozen=True)
class ShadowSettings:
    """What a challenger must show behind the live release. Shares of pairs; `max_slower` is a ratio of medians."""

    min_clusters: int = 20
    min_agreement: float = 0.80
    max_withheld: float = 0.10
    max_wrong: float = 0.10
    max_slower: float = 3.0
    confidence: float = 0.90
    bootstrap: int = 2000
    seed: int = 7


@dataclass(frozen=True)
class PromotionSettings:
    """What a challenger must show. `alpha` is one-sided, for each claim; margins are differences of the figure.

    A promotion by luck is held by `budget`: the chance, in a year, that one test cohort promotes anything that is no
    better, over `looks_per_year` looks. `slice_clusters` of each kind make a slice of the population known. Where the
    simple model's AUROC is further than `room_baseline` from 1 the network must be shown to be ahead of it, else not
    inferior by `margin_baseline`.
    """

    approval: str
    bootstrap: int
    seed: int
    alpha: float
    margin_auroc: float
    margin_sensitivity: float
    floor_auroc: float
    min_clusters: int
    min_positive_clusters: int
    margin_brier: float = 0.05
    room_baseline: float = 0.03
    margin_baseline: float = 0.05
    floor_sensitivity: float = 0.50
    slice_clusters: int = 5
    budget: float = 0.05
    looks_per_year: int = 20
    shadow: ShadowSettings = ShadowSettings()
