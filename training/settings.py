"""Settings of training, one field for each key of `params.yaml`; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field

ALL, HEAD = "all", "head"  # which layers train: all of them, or only the last one


@dataclass(frozen=True)
class AugmentSettings:
    """Ranges of augmentation: rotation in degrees, shift and zoom in shares of the image, the rest of the grey range.

    `erase` is the share of images that lose a rectangle. `paste` is the share of units with a mask that get the lesion
    of another unit, or lose their own (training/fitting/lesion_paste.py).
    """

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
    """How a fit continues from an earlier model.

    `replay` is the share of the old training clusters that train again. `parents` pins the parent of each task: the
    `folder` with its weights, and their `sha256`.
    """

    replay: float = 0.5
    learning_rate: float = 0.0005
    parents: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted.

    `patience` counts epochs without a better validation loss; with 0 the last epoch is kept. `strategy` is full (from
    `weights`, on all admitted data) or warm (training/fitting/warm_start.py). `precision` is float32 or bfloat16:
    layers compute in it, and weights stay float32. `mask_weight` weights the localisation loss of units with a mask.
    `head_epochs`, `unfreeze_from` and `unfrozen_rate` say which layers of a pretrained network train in which epochs
    (training/fitting/fine_tuning.py). `sampling`: training/fitting/sampling.py. `devices`: training/network/devices.py.
    `local_contrast`: window of training/network/layers.py in pixels; 0 switches it off.
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
    """Conformal level, and how many validation clusters of each class it needs."""

    min_clusters: int
    level: float


@dataclass(frozen=True)
class EvaluateSettings:
    """Resamples and confidence of the clustered bootstrap, precision of the graph (auto, float32, bfloat16), and the
    prevalence for PPV and NPV."""

    seed: int
    bootstrap: int
    confidence: float
    precision: str
    prevalence: float = 0.05


@dataclass(frozen=True)
class ShadowSettings:
    """Limits of the shadow gate, as shares of answer pairs; `max_slower` is a ratio of median durations."""

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
    """Limits of the training gate. `alpha` is one-sided, for each claim; a margin is a difference of the metric.

    `budget` is the chance in a year that one test cohort promotes a challenger that is no better. It covers
    `looks_per_year` looks: tests of a claim on that cohort (training/promotion/test_set_budget.py). A subgroup is
    judged with at least `slice_clusters` clusters of each kind. If the AUROC of the baseline is further than
    `room_baseline` from 1, the network must be superior to it; else not inferior by `margin_baseline`.
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
