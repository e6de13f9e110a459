"""Settings of training, one field for each key of `params.yaml`; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from data.ranges import DRAWS, PATIENTS, PROBABILITY, SEED, SHARE, Range

DIFFERENCE = Range(least=0, most=1, unit="difference")
GREY_SHARE = Range(least=0, most=1, unit="share of the grey range")
Backbone = Literal["small", "resnet50", "vgg16", "efficientnetv2b0"]
Precision = Literal["float32", "bfloat16"]
Sampling = Literal["natural", "balanced"]
Strategy = Literal["full", "warm"]
ALL, HEAD = "all", "head"  # which layers train: all of them, or only the last one


@dataclass(frozen=True)
class AugmentSettings:
    """Ranges of augmentation: rotation in degrees, shift and zoom in shares of the image, the rest of the grey range.

    `erase` is the share of images that lose a rectangle. `paste` is the share of units with a mask that get the lesion
    of another unit, or lose their own (training/fitting/lesion_paste.py).
    """

    rotation: Annotated[float, Range(least=0, most=180, unit="degrees")]
    shift: Annotated[float, Range(least=0, most=1, unit="share of the picture")]
    zoom: Annotated[float, Range(least=0, below=1, unit="share of the picture")]
    flip: bool
    brightness: Annotated[float, GREY_SHARE]
    contrast: Annotated[float, GREY_SHARE]
    noise: Annotated[float, GREY_SHARE]
    erase: Annotated[float, Range(least=0, most=1, unit="share of the units")] = 0.0
    paste: Annotated[float, Range(least=0, most=1, unit="share of the units")] = 0.0


@dataclass(frozen=True)
class WarmSettings:
    """How a fit continues from an earlier model.

    `replay` is the share of the old training clusters that train again. `parents` pins the parent of each task: the
    `folder` with its weights, and their `sha256`.
    """

    replay: Annotated[float, Range(least=0, most=1, unit="share of the patients")] = 0.5
    learning_rate: Annotated[float, Range(above=0, unit="per step")] = 0.0005
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

    seed: Annotated[int, SEED]
    backbone: Backbone
    weights: str
    epochs: Annotated[int, Range(least=1, unit="epochs")]
    batch_size: Annotated[int, Range(least=1, unit="units")]
    learning_rate: Annotated[float, Range(above=0, unit="per step")]
    patience: Annotated[int, Range(least=0, unit="epochs")]
    class_weights: bool
    augment: AugmentSettings
    precision: Precision = "float32"
    strategy: Strategy = "full"
    warm: WarmSettings = WarmSettings()
    mask_weight: Annotated[float, Range(least=0, unit="share of the loss")] = 0.0
    head_epochs: Annotated[int, Range(least=0, unit="epochs")] = 0
    unfreeze_from: str = "all"
    unfrozen_rate: Annotated[float, Range(above=0, unit="times `learning_rate`")] = 0.1
    sampling: Sampling = "natural"
    local_contrast: Annotated[int, Range(least=0, unit="pixels")] = 0
    devices: Annotated[int, Range(least=0, unit="devices")] = 0


@dataclass(frozen=True)
class CalibrateSettings:
    """The highest conformal level, and how many validation clusters of each class it needs.

    The level of a model is between the wanted sensitivity of its task and `level`, where most units are answered.
    """

    min_clusters: Annotated[int, PATIENTS]
    level: Annotated[float, PROBABILITY]


@dataclass(frozen=True)
class EvaluateSettings:
    """Resamples and confidence of the clustered bootstrap, precision of the graph (auto, float32, bfloat16), and the
    prevalence for PPV and NPV."""

    seed: Annotated[int, SEED]
    bootstrap: Annotated[int, DRAWS]
    confidence: Annotated[float, PROBABILITY]
    precision: Literal["auto", "float32", "bfloat16"]
    prevalence: Annotated[float, Range(above=0, below=1, unit="share")] = 0.05


@dataclass(frozen=True)
class ShadowSettings:
    """Limits of the shadow gate, as shares of answer pairs; `max_slower` is a ratio of median durations."""

    min_clusters: Annotated[int, PATIENTS] = 20
    min_agreement: Annotated[float, SHARE] = 0.80
    max_withheld: Annotated[float, SHARE] = 0.10
    max_wrong: Annotated[float, SHARE] = 0.10
    max_slower: Annotated[float, Range(above=0, unit="ratio")] = 3.0
    confidence: Annotated[float, PROBABILITY] = 0.90
    bootstrap: Annotated[int, DRAWS] = 2000
    seed: Annotated[int, SEED] = 7


@dataclass(frozen=True)
class SiteSettings:
    """Limits of the site gate. Lower bounds of sensitivity and specificity must reach their floors, and the observed
    coverage (share of units answered) its own."""

    min_positive_clusters: Annotated[int, PATIENTS] = 10
    min_negative_clusters: Annotated[int, PATIENTS] = 10
    floor_sensitivity: Annotated[float, Range(least=0, most=1, unit="sensitivity")] = 0.50
    floor_specificity: Annotated[float, Range(least=0, most=1, unit="specificity")] = 0.50
    floor_coverage: Annotated[float, Range(least=0, most=1, unit="share of the units")] = 0.50


@dataclass(frozen=True)
class PromotionSettings:
    """Limits of the training gate. `alpha` is one-sided, for each claim; a margin is a difference of the metric.

    `budget` is the chance in a year that one test cohort promotes a challenger that is no better. It covers
    `looks_per_year` looks: tests of a claim on that cohort (training/promotion/test_set_budget.py). A subgroup is
    judged with at least `slice_clusters` clusters of each kind. A site or scanner is accepted with the promotion if
    it has at least `site_clusters` test clusters of each kind. If the AUROC of the baseline is further than
    `room_baseline` from 1, the network must be superior to it; else not inferior by `margin_baseline`.
    """

    approval: Literal["required", "automatic"]
    bootstrap: Annotated[int, DRAWS]
    seed: Annotated[int, SEED]
    alpha: Annotated[float, PROBABILITY]
    margin_auroc: Annotated[float, DIFFERENCE]
    margin_sensitivity: Annotated[float, DIFFERENCE]
    floor_auroc: Annotated[float, Range(least=0, most=1, unit="AUROC")]
    min_clusters: Annotated[int, PATIENTS]
    min_positive_clusters: Annotated[int, PATIENTS]
    margin_brier: Annotated[float, DIFFERENCE] = 0.05
    room_baseline: Annotated[float, DIFFERENCE] = 0.03
    margin_baseline: Annotated[float, DIFFERENCE] = 0.05
    floor_sensitivity: Annotated[float, Range(least=0, most=1, unit="sensitivity")] = 0.50
    floor_coverage: Annotated[float, Range(least=0, most=1, unit="share of the units")] = 0.50
    slice_clusters: Annotated[int, PATIENTS] = 5
    site_clusters: Annotated[int, PATIENTS] = 5
    budget: Annotated[float, Range(above=0, most=1, unit="probability")] = 0.05
    looks_per_year: Annotated[int, Range(least=1, unit="looks a year")] = 20
    shadow: ShadowSettings = ShadowSettings()
    site: SiteSettings = SiteSettings()
