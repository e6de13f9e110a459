"""Fixtures: simulated rows, the lung task, the shipped settings, and predictions in the journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from data.core_types import Modality, PixelSettings, Pooling, Task
from lineage.record import database, journal
from monitoring.settings import MonitoringSettings

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = [f"column_{number}" for number in range(8)]

Side = Callable[..., pd.DataFrame]


def simulated(
    generator: np.random.Generator, patients: int, slices: int = 5, columns: Sequence[str] = COLUMNS
) -> pd.DataFrame:
    """Rows with `columns`, score and embedding; 70 % of the variance is between patients."""
    patient_index = np.repeat(np.arange(patients), generator.integers(1, slices + 1, size=patients))
    values = np.sqrt(0.7) * generator.normal(size=(patients, len(columns) + 33))[patient_index]
    values += np.sqrt(0.3) * generator.normal(size=values.shape)
    rows = pd.DataFrame(values[:, : len(columns)], columns=list(columns))
    score = 1 / (1 + np.exp(-values[:, -1]))
    embedding = list(values[:, len(columns) : -1])
    labels = {"side": "validation", "label": np.where(score > 0.7, "malignant", "normal")}
    return rows.assign(
        cluster=[f"patient {number}" for number in patient_index], score=score, embedding=embedding, **labels
    )


@pytest.fixture(scope="session")
def side() -> Side:
    return simulated


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(
        name="lung-ct",
        title="Lung",
        organ="lung",
        modality=Modality.CT,
        body_parts=("CHEST",),
        classes=("normal", "benign", "malignant"),
        positive=("malignant",),
        unit="slice",
        cluster="patient",
        ordered=False,
        pixels=PixelSettings(128, (-400, 1500)),
        pooling=Pooling("topk", 3),
        sensitivity=0.9,
        note="",
    )


@pytest.fixture(scope="session")
def settings() -> MonitoringSettings:
    return MonitoringSettings(**yaml.safe_load((ROOT / "params.yaml").read_text())["monitoring"])


@pytest.fixture
def predicted(home: Path) -> Callable[..., str]:
    """A function that writes one prediction to the journal and returns its id."""

    def predict(number: int, **columns: Any) -> str:
        row: dict[str, Any] = {
            "id": f"prediction-{number}",
            "at": database.now(),
            "actor": "clinician",
            "release": "r1",
            "task": "lung-ct",
            "version": "1",
            "cluster": f"P{number}",
            "inputs": ["0" * 64],
            "description": {"noise": 1.0 + number},
            "embedding": [float(number)] * 32,
            "probabilities": [0.2, 0.1, 0.7],
            "answer": "malignant",
            "score": 0.7,
            "outcome": "pass",
            "reasons": [],
            "slices": [{"index": 0, "score": 0.7}],
            "map": "",
            "engine": {},
            "duration_ms": 5.0,
        }
        journal.append(journal.JournalRow(**(row | columns)))
        return str(row["id"])

    return predict
