"""Simulation of the training gate's baseline rule: how often do first models pass? See gate_simulation.py.

Model and baseline are binormal scores of known true AUROC on the same patients (30 % positive); they share a part of
their noise. Both are judged by training/evaluation/baseline.py and training/promotion/gate.py with the shipped
params.yaml and 400 bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

POSITIVE, DRAWS = 0.3, 400
CLASSES = ("none", "tumour")
RULE = "baseline"  # first word of the reasons that the rule gives


@dataclass(frozen=True)
class Kind:
    """A kind of model: its true AUROC, that of the baseline, and the common share of their scores' variance.

    With `shared` 1 both have the same scores.
    """

    name: str
    model: float
    baseline: float
    shared: float


KINDS = (
    Kind("knows only intensities, baseline 0.60", 0.60, 0.60, 0.9),
    Kind("knows only intensities, baseline 0.75", 0.75, 0.75, 0.9),
    Kind("knows only intensities, baseline 0.90", 0.90, 0.90, 0.9),
    Kind("has the scores of the baseline, 0.75", 0.75, 0.75, 1.0),
    Kind("has the scores of the baseline, 0.90", 0.90, 0.90, 1.0),
    Kind("worse than the baseline by 0.10, at 0.75", 0.65, 0.75, 0.5),
    Kind("worse than the baseline by 0.10, at the ceiling", 0.895, 0.995, 0.5),
    Kind("worse than the baseline by 0.05, at the ceiling", 0.945, 0.995, 0.5),
    Kind("good (0.99), baseline at the ceiling (0.995)", 0.99, 0.995, 0.5),
    Kind("good (0.999), baseline at the ceiling (0.999)", 0.999, 0.999, 0.5),
    Kind("good (0.95), baseline 0.60", 0.95, 0.60, 0.3),
    Kind("good (0.95), baseline 0.75", 0.95, 0.75, 0.3),
    Kind("good (0.95), baseline 0.85", 0.95, 0.85, 0.3),
)
SIZES = (24, 60, 200)
TASK = {
    "name": "task",
    "title": "",
    "organ": "lung",
    "body_parts": ("CHEST",),
    "unit": "slice",
    "cluster": "patient",
    "ordered": False,
    "sensitivity": 0.9,
    "note": "",
}


def outcome(job: tuple[int, int, Kind, Any]) -> str:
    """The outcome of the baseline rule alone for one model of this kind, on one random cohort of this size."""
    seed, patients, kind, settings = job
    from scipy.special import expit
    from scipy.stats import norm

    from data.core_types import Modality, PixelSettings, Pooling, Task
    from training.evaluation import baseline
    from training.promotion import gate
    from training.settings import EvaluateSettings

    random = np.random.default_rng([seed, patients, round(1000 * kind.model), round(1000 * kind.baseline)])
    is_positive = random.permutation(patients) < round(POSITIVE * patients)
    common = random.normal(size=patients)
    tables = []
    for auroc in (kind.model, kind.baseline):
        own_noise = random.normal(size=patients)
        noise = np.sqrt(kind.shared) * common + np.sqrt(1 - kind.shared) * own_noise
        score = expit(np.sqrt(2) * norm.ppf(auroc) * is_positive + noise)
        tables.append(_predictions(score, is_positive))
    task = Task(
        **TASK,
        modality=Modality.CT,
        classes=CLASSES,
        positive=CLASSES[1:],
        pixels=PixelSettings(128, None),
        pooling=Pooling("topk", 3),
    )
    evaluation = EvaluateSettings(seed=7, bootstrap=DRAWS, confidence=0.95, precision="auto")
    comparison = baseline.compare(tables[0], tables[1], (), task, evaluation)
    auroc_figures = {"value": comparison["auroc"]["value"] + comparison["difference"]["value"], "low": 0.9, "high": 1.0}
    counts = {
        "clusters": patients,
        "positive_clusters": int(is_positive.sum()),
        "negative_clusters": int((~is_positive).sum()),
    }
    sensitivity = {"value": 0.9, "low": 0.8, "high": 1.0}
    metrics = {"test": {"auroc": auroc_figures, "sensitivity": sensitivity, **counts}, "baseline": comparison}
    verdict = gate.judge_challenger("task/1", metrics, None, None, settings)
    reason = next(line for line in verdict.reasons if RULE in line)
    passed = reason.startswith(("the network beats", "the network is no worse"))
    return "pass" if passed else "fail" if reason.startswith("the network is behind") else "inconclusive"


def _predictions(score: Any, positive: Any) -> pd.DataFrame:
    ids = [f"P{index}" for index in range(len(score))]
    answers = np.where(score >= np.median(score), CLASSES[1], CLASSES[0])
    return pd.DataFrame(
        {
            "unit_id": ids,
            "cluster": ids,
            "side": "test",
            "label": np.where(positive, CLASSES[1], CLASSES[0]),
            "positive": positive.astype(int),
            "score": score,
            "flagged": (answers == CLASSES[1]).astype(int),
            "predicted": answers,
            "p_none": 1 - score,
            "p_tumour": score,
        }
    )


def simulate(pool: Any, settings: Any, repeats: int) -> dict[str, Any]:
    """Shares of pass and fail, by kind and by number of test patients."""
    rows = []
    for kind in KINDS:
        for patients in SIZES:
            jobs = [(seed, patients, kind, settings) for seed in range(repeats)]
            outcomes = pool.map(outcome, jobs, chunksize=10)
            rows.append(
                {
                    "model": kind.name,
                    "patients": patients,
                    "models": repeats,
                    **{name: outcomes.count(name) / repeats for name in ("pass", "fail")},
                }
            )
    return {"rows": rows}


MARK = "<!-- below: the baseline rule, written by bench/promotion/gate_simulation.py -->"
END = "<!-- above: the baseline rule -->"


def write(page: Path, figures: dict[str, Any]) -> None:
    """Write the table between its marks in docs/explanation/training-gate.md."""
    before, after_mark = page.read_text(encoding="utf-8").split(MARK)
    after = after_mark.split(END)[1]
    rows = figures["rows"]
    lines = [
        "| model | " + " | ".join(f"{size} test patients: pass, fail" for size in SIZES) + " |",
        "|---" * (1 + len(SIZES)) + "|",
    ]
    for kind in KINDS:
        cells = [f"{100 * row['pass']:.1f} %, {100 * row['fail']:.1f} %" for row in rows if row["model"] == kind.name]
        lines.append(f"| {kind.name} | " + " | ".join(cells) + " |")
    note = f"Of {rows[0]['models']} simulated models in each cell; the rest is inconclusive."
    text = "\n".join(["", note, "", *lines, "", ""])
    page.write_text(before + MARK + "\n" + text + END + after, encoding="utf-8")
