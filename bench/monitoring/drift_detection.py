"""False alarms and power of the watch, compared with Evidently's defaults on the same simulated windows.

    python bench/monitoring/drift_detection.py    200 windows with ours, 20 with Evidently (seconds for each)
    python bench/monitoring/drift_detection.py --windows 1000 --evidently 200 --json

A patient has several correlated slices; every patient of a null window is drawn from the reference's population. The
planted shifts move the level of one description, its spread, the embedding, or the score.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np
import pandas as pd

from monitoring.drift_tests import measure

COLUMNS = [f"description_{place:02d}" for place in range(20)]
EMBEDDING = [f"embedding_{place:02d}" for place in range(32)]
LIKENESS = 0.7  # share of the variance that is common to the slices of one patient
SHIFTS = ("none", "level", "spread", "embedding", "score")


@dataclass(frozen=True)
class Size:
    """Number of patients of a side, and the largest number of slices per patient."""

    patients: int
    slices: int


def population(generator: np.random.Generator, size: Size, shift: str = "none", amount: float = 1.5) -> pd.DataFrame:
    """One side: rows with descriptions, embedding and score; `amount` is in population standard deviations."""
    patient_of_row = np.repeat(np.arange(size.patients), generator.integers(1, size.slices + 1, size=size.patients))
    width = len(COLUMNS) + len(EMBEDDING) + 1
    patient_effects = generator.normal(size=(size.patients, width))[patient_of_row]
    values = np.sqrt(LIKENESS) * patient_effects + np.sqrt(1 - LIKENESS) * generator.normal(
        size=(len(patient_of_row), width)
    )
    embedded = slice(len(COLUMNS), len(COLUMNS) + len(EMBEDDING))
    if shift == "level":
        values[:, 0] += amount
    elif shift == "spread":
        values[:, 0] *= 2 * amount
    elif shift == "embedding":
        values[:, embedded] += amount / 3
    elif shift == "score":
        values[:, -1] += amount
    rows = pd.DataFrame(values[:, : len(COLUMNS)], columns=COLUMNS)
    embedding = list(values[:, embedded])
    score = 1 / (1 + np.exp(-values[:, -1]))
    return rows.assign(cluster=[f"patient {index}" for index in patient_of_row], score=score, embedding=embedding)


def windows(
    count: int, reference: Size, window: Size, shift: str, seed: int
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """`count` independent pairs of reference and window; only the window is shifted."""
    generator = np.random.default_rng(seed)
    return [(population(generator, reference), population(generator, window, shift)) for _ in range(count)]


def watch_alarms(reference: pd.DataFrame, current: pd.DataFrame, alpha: float, permutations: int) -> bool:
    """Whether the watch would ask for retraining: the corrected p-value of all families is below alpha."""
    figures = measure(reference, current, permutations, COLUMNS)
    return bool(figures["p"] < alpha)


def evidently_alarms(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, bool]:
    """Evidently's alarms with its defaults: any or half of the columns, the embedding by classifier and MMD."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.metrics.data_drift.embedding_drift_methods import mmd, model
    from evidently.metrics import DriftedColumnsCount

    columns = [*COLUMNS, "score"]
    definition = DataDefinition(numerical_columns=columns)
    sides = [Dataset.from_pandas(rows[columns], data_definition=definition) for rows in (current, reference)]
    share = Report([DriftedColumnsCount(columns=columns)]).run(*sides).dict()["metrics"][0]["value"]
    vectors = [pd.DataFrame(np.stack(rows["embedding"].to_list()), columns=EMBEDDING) for rows in (current, reference)]
    is_small = len(reference) < 1000  # Evidently uses its bootstrap below 1,000 rows
    return {
        "any column": share["count"] > 0,
        "half of the columns": share["share"] >= 0.5,
        "embedding by default": bool(model(bootstrap=is_small)(*vectors)[1]),
        "embedding by MMD": bool(mmd(bootstrap=is_small)(*vectors)[1]),
    }


def alarm_rate(alarms: list[bool]) -> float:
    """The share of windows with an alarm."""
    return sum(alarms) / len(alarms)


def compare(arguments: argparse.Namespace, log: Callable[[str], object]) -> list[dict[str, Any]]:
    """Alarm rates for every kind of shift: the watch on all windows, Evidently on the first of them."""
    rows = []
    for index, shift in enumerate(SHIFTS):
        size = (Size(arguments.reference, arguments.slices), Size(arguments.patients, arguments.slices))
        pairs = windows(arguments.windows, *size, shift, seed=arguments.seed + index)
        start = time.perf_counter()
        alarms = [watch_alarms(*pair, arguments.alpha, arguments.permutations) for pair in pairs]
        seconds = (time.perf_counter() - start) / len(pairs)
        row: dict[str, Any] = {"shift": shift, "ours": alarm_rate(alarms), "seconds a window": round(seconds, 3)}
        evidently_results = [evidently_alarms(*pair) for pair in pairs[: arguments.evidently]]
        if evidently_results:
            row |= {
                f"Evidently, {name}": alarm_rate([alarm[name] for alarm in evidently_results])
                for name in evidently_results[0]
            }
        rows.append(row)
        log(f"{shift}: done")
    return rows


def main() -> None:
    """Run the simulation and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200, help="simulated windows of each kind")
    parser.add_argument("--evidently", type=int, default=20, help="of these, how many Evidently judges too")
    parser.add_argument("--patients", type=int, default=40, help="patients of a window")
    parser.add_argument("--reference", type=int, default=60, help="patients of the reference")
    parser.add_argument("--slices", type=int, default=6, help="most slices of a patient")
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--permutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = compare(arguments, lambda line: sys.stderr.write(line + "\n"))
    output = json.dumps(rows, indent=1) if arguments.json else pd.DataFrame(rows).to_string(index=False)
    sys.stdout.write(output + "\n")


if __name__ == "__main__":
    main()
