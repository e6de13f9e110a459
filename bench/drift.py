"""False alarms and power of the watch, ours beside Evidently's defaults, on the same simulated windows.

    python bench/drift.py                 200 windows of ours, 20 of Evidently's (it takes seconds for each)
    python bench/drift.py --windows 1000 --evidently 200 --json

A patient has several slices that resemble each other; every patient of a null window comes from the reference's
population. The planted shifts move the level of one description, its spread, the embedding, or the score.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np
import pandas as pd

from monitoring.drift_tests import measure

COLUMNS = [f"description_{place:02d}" for place in range(20)]
EMBEDDING = [f"embedding_{place:02d}" for place in range(32)]
LIKENESS = 0.7  # share of the variance that slices of one patient have in common
SHIFTS = ("none", "level", "spread", "embedding", "score")


@dataclass(frozen=True)
class Size:
    """How many patients a side has, and the largest number of slices of one of them."""

    patients: int
    slices: int


def population(generator: np.random.Generator, size: Size, shift: str = "none", amount: float = 1.5) -> pd.DataFrame:
    """One side: rows with descriptions, embedding and score; `amount` is in standard deviations of the population."""
    owner = np.repeat(np.arange(size.patients), generator.integers(1, size.slices + 1, size=size.patients))
    width = len(COLUMNS) + len(EMBEDDING) + 1
    between = generator.normal(size=(size.patients, width))[owner]
    values = np.sqrt(LIKENESS) * between + np.sqrt(1 - LIKENESS) * generator.normal(size=(len(owner), width))
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
    return rows.assign(cluster=[f"patient {place}" for place in owner], score=score, embedding=embedding)


def windows(
    count: int, reference: Size, window: Size, shift: str, seed: int
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """`count` independent pairs of reference and window; only the window has the shift."""
    generator = np.random.default_rng(seed)
    return [(population(generator, reference), population(generator, window, shift)) for _ in range(count)]


def ours(reference: pd.DataFrame, current: pd.DataFrame, alpha: float, permutations: int) -> bool:
    """Whether the watch would ask for retraining: the corrected p of all families is under alpha."""
    figures = measure(reference, current, permutations, COLUMNS)
    return bool(figures["p"] < alpha)


def evidently(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, bool]:
    """Evidently's alarms with its defaults: any or half of the columns, the embedding by classifier and by MMD."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.metrics.data_drift.embedding_drift_methods import mmd, model
    from evidently.metrics import DriftedColumnsCount

    columns = [*COLUMNS, "score"]
    definition = DataDefinition(numerical_columns=columns)
    sides = [Dataset.from_pandas(rows[columns], data_definition=definition) for rows in (current, reference)]
    share = Report([DriftedColumnsCount(columns=columns)]).run(*sides).dict()["metrics"][0]["value"]
    vectors = [pd.DataFrame(np.stack(rows["embedding"].to_list()), columns=EMBEDDING) for rows in (current, reference)]
    few = len(reference) < 1000  # when Evidently switches its bootstrap on
    return {
        "any column": share["count"] > 0,
        "half of the columns": share["share"] >= 0.5,
        "embedding by default": bool(model(bootstrap=few)(*vectors)[1]),
        "embedding by MMD": bool(mmd(bootstrap=few)(*vectors)[1]),
    }


def rate(alarms: list[bool]) -> float:
    """Share of windows with an alarm."""
    return sum(alarms) / len(alarms)


def compare(arguments: argparse.Namespace, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Alarm rates of every kind of shift, ours and Evidently's on the first of the same windows."""
    rows = []
    for place, shift in enumerate(SHIFTS):
        size = (Size(arguments.reference, arguments.slices), Size(arguments.patients, arguments.slices))
        pairs = windows(arguments.windows, *size, shift, seed=arguments.seed + place)
        start = time.perf_counter()
        alarms = [ours(*pair, arguments.alpha, arguments.permutations) for pair in pairs]
        seconds = (time.perf_counter() - start) / len(pairs)
        row: dict[str, Any] = {"shift": shift, "ours": rate(alarms), "seconds a window": round(seconds, 3)}
        theirs = [evidently(*pair) for pair in pairs[: arguments.evidently]]
        if theirs:
            row |= {f"Evidently, {name}": rate([alarm[name] for alarm in theirs]) for name in theirs[0]}
        rows.append(row)
        tell(f"{shift}: done")
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
    shown = json.dumps(rows, indent=1) if arguments.json else pd.DataFrame(rows).to_string(index=False)
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main()
