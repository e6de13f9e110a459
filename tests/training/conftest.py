"""A small task, its units, and one fitted and evaluated network for all tests of training."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.core_types import Modality, PixelSettings, Pooling, Task
from data.dataset.shards import Units
from training.settings import AugmentSettings, CalibrateSettings, EvaluateSettings, FitSettings, PromotionSettings

SIZE = 32
TASK = Task(
    name="lung-ct",
    title="Lung tumour",
    organ="lung",
    modality=Modality.CT,
    body_parts=("CHEST",),
    classes=("normal", "benign", "malignant"),
    positive=("malignant",),
    unit="slice",
    cluster="patient",
    ordered=False,
    pixels=PixelSettings(SIZE, None),
    pooling=Pooling("topk", 3),
    sensitivity=0.9,
    note="",
)
FIT = FitSettings(
    seed=7,
    backbone="small",
    weights="none",
    epochs=3,
    batch_size=32,
    learning_rate=0.004,
    patience=3,
    class_weights=True,
    augment=AugmentSettings(10, 0.05, 0.1, True, 0.1, 0.1, 0.02),
)
CALIBRATE = CalibrateSettings(min_clusters=19, level=0.95)
EVALUATE = EvaluateSettings(seed=7, bootstrap=300, confidence=0.95, precision="auto")
PROMOTION = PromotionSettings(
    approval="required",
    bootstrap=500,
    seed=7,
    alpha=0.05,
    margin_auroc=0.05,
    margin_sensitivity=0.10,
    floor_auroc=0.60,
    min_clusters=10,
    min_positive_clusters=4,
)


# The start of a test's own program: it loads this file, whose path is the first argument, as `samples`.
PROGRAM = """
import importlib.util, json, sys
from dataclasses import asdict, replace
from pathlib import Path
spec = importlib.util.spec_from_file_location("samples", sys.argv[1])
samples = importlib.util.module_from_spec(spec)
sys.modules["samples"] = samples
spec.loader.exec_module(samples)
"""


def units(clusters: int = 120, seed: int = 0) -> Units:
    """Units with masks, two slices a patient: noise only, or noise with a faint wide spot (benign) or a bright small
    one (malignant)."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.integers(0, 3, clusters), 2)
    pixels = random.normal(0.4, 0.05, (len(labels), SIZE, SIZE, 1))
    masks = np.zeros((len(labels), SIZE, SIZE, 1), np.float32)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for image, mask, label in zip(pixels, masks, labels, strict=True):
        y, x = random.uniform(8, SIZE - 8, 2)
        distance = np.hypot(rows - y, columns - x)[..., np.newaxis]
        image += (0, 0.12, 0.5)[label] * (distance < (1, 6, 4)[label])
        mask += (label > 0) * (distance < (1, 6, 4)[label])
    patient_index = np.arange(len(labels)) // 2
    side = np.array(["training", "validation", "test"])[
        np.searchsorted([0.4, 0.65], patient_index / clusters, side="right")
    ]
    table = pd.DataFrame(
        {
            "unit_id": [f"unit-{index:03d}" for index in range(len(labels))],
            "batch": "first",
            "cluster": [f"P{index:03d}" for index in patient_index],
            "case": [f"C{index:03d}" for index in patient_index],
            "label": np.array(TASK.classes)[labels],
            "side": side,
            "epoch": np.where(patient_index % 3 == 0, 2, 1),
            "site": np.where(patient_index % 2 == 0, "north", ""),
            "scanner": "one",
            "mean": pixels.mean(axis=(1, 2, 3)),
        }
    )
    return Units(table, np.clip(pixels, 0, 1).astype(np.float32), labels.astype(np.int64), masks)


@pytest.fixture(scope="session")
def samples() -> ModuleType:
    """The settings and factories of this file: with importlib's import mode a test cannot import them."""
    return sys.modules[__name__]


@dataclass(frozen=True)
class Trained:
    """A fitted and evaluated model on disk."""

    units: Units
    models: Path
    evaluation: Path
    metrics: dict[str, Any]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`small`, fitted for three epochs and evaluated once in this session."""
    from lineage import paths
    from training.evaluation import evaluate
    from training.fitting import fit

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOLOOP_HOME", str(folder / "var"))
        for name, value in paths.environment().items():
            patch.setenv(name, value)
        all_units = units()
        fit.fit(all_units, TASK, FIT, folder / "models")
        metrics = evaluate.evaluate(all_units, TASK, folder / "models", CALIBRATE, EVALUATE, folder / "evaluation")
    return Trained(all_units, folder / "models", folder / "evaluation", metrics)


def judged(
    scores: np.ndarray, positive: np.ndarray, epochs: np.ndarray | int = 1, slices: int = 1, threshold: float = 0.5
) -> pd.DataFrame:
    """A table of predicted test units of a task with two classes, `slices` to a cluster."""
    count = len(scores)
    clusters = [f"P{index // slices:04d}" for index in range(count)]
    return pd.DataFrame(
        {
            "unit_id": [f"unit-{index}" for index in range(count)],
            "cluster": clusters,
            "case": clusters,
            "batch": "first",
            "side": "test",
            "epoch": epochs,
            "site": "north",
            "scanner": "one",
            "label": np.where(positive, "tumour", "normal"),
            "positive": positive.astype(int),
            "score": scores,
            "flagged": (scores >= threshold).astype(int),
            "predicted": np.where(scores >= threshold, "tumour", "normal"),
            "p_normal": 1 - scores,
            "p_tumour": scores,
        }
    )


def pair(
    clusters: int, seed: int, auroc: float = 0.97, shared: float = 0.9, gain: float = 0.0, epochs: np.ndarray | int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Challenger and rival: binormal scores with that AUROC that share most of their noise, 40 % positive."""
    from scipy.stats import norm

    random = np.random.default_rng(seed)
    positive = random.permutation(clusters) < 0.4 * clusters
    shared_noise = np.sqrt(shared) * random.normal(size=clusters)
    tables = []
    for area in (min(auroc + gain, 0.9999), auroc):
        separation = np.sqrt(2) * norm.ppf(area) * (positive - 0.5)
        own_noise = np.sqrt(1 - shared) * random.normal(size=clusters)
        tables.append(judged(norm.cdf(separation + shared_noise + own_noise), positive, epochs))
    return tables[0], tables[1]
