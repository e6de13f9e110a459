"""The training population, and how a batch differs from it, counted in patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import pandas as pd

from data.batch.manifest import read_manifest
from data.scan.slice_features import DESCRIPTION
from lineage.fingerprint import hash_pseudonym

LARGE = 0.8  # standard deviations between patients; a "large" effect (Cohen 1988)
SURE = 3.5  # standard errors; strict, because twenty features are compared
SOURCES = ("scanner", "site")


@dataclass(frozen=True)
class Population:
    """A summary of many scans, over `clusters` cluster means.

    For each feature `mean` is the mean and `squares` the sum of squared deviations; `sources` are scanners and sites.
    """

    clusters: int
    mean: Mapping[str, float]
    squares: Mapping[str, float]
    sources: Mapping[str, list[str]]


def describe_population(manifest: pd.DataFrame) -> Population:
    """The population of a manifest. Every cluster counts once, regardless of its number of slices."""
    means = manifest[list(DESCRIPTION)].astype(float).groupby(manifest["cluster"]).mean()
    squares = ((means - means.mean()) ** 2).sum()
    sources = {name: sorted({str(value) for value in manifest[name]} - {""}) for name in SOURCES}
    centre = {str(name): float(value) for name, value in means.mean().fillna(0).items()}
    return Population(len(means), centre, {str(name): float(value) for name, value in squares.items()}, sources)


def merge_populations(parts: Sequence[Population]) -> Population:
    """Merge populations (Chan, Golub & LeVeque 1983). A patient in two batches counts twice."""
    parts = [part for part in parts if part.clusters]
    total = sum(part.clusters for part in parts)
    mean = {name: sum(part.clusters * part.mean[name] for part in parts) / max(total, 1) for name in DESCRIPTION}
    squares = {
        name: sum(part.squares[name] + part.clusters * (part.mean[name] - mean[name]) ** 2 for part in parts)
        for name in DESCRIPTION
    }
    sources = {name: sorted({value for part in parts for value in part.sources[name]}) for name in SOURCES}
    return Population(total, mean, squares, sources)


def read_training_population(batches: Sequence[Path], training: set[str], cache: Path) -> Population:
    """The population of the training side (the clusters `training`, by name or mark) of admitted batches.

    Batches and sides never change, so the population of each batch is cached in the folder `cache`.
    """
    parts = []
    for batch in batches:
        path = cache / batch.parent.name / f"{batch.name}.json"
        if path.is_file():
            parts.append(Population(**json.loads(path.read_text(encoding="utf-8"))))
            continue
        manifest = read_manifest(batch / "manifest.csv")
        is_training = manifest["cluster"].isin(training) | manifest["cluster"].map(hash_pseudonym).isin(training)
        parts.append(describe_population(manifest[is_training]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(parts[-1])) + "\n", encoding="utf-8")
    return merge_populations(parts)


def standardised_differences(new: Population, training: Population) -> dict[str, float]:
    """Standardised mean differences (new - training), in standard deviations between clusters, the largest first.

    Only differences of more than 0.8 standard deviations and more than 3.5 standard errors are returned.
    """
    large_differences = {}
    if min(new.clusters, training.clusters) < 2:
        return {}
    for name in DESCRIPTION:
        deviation = sqrt((new.squares[name] + training.squares[name]) / (new.clusters + training.clusters - 2))
        gap = new.mean[name] - training.mean[name]
        if abs(gap) < 1e-9 * max(1.0, abs(training.mean[name])):
            continue
        difference = gap / max(deviation, 1e-9 * max(1.0, abs(training.mean[name])))
        if abs(difference) > max(LARGE, SURE * sqrt(1 / new.clusters + 1 / training.clusters)):
            large_differences[name] = round(max(-99.0, min(99.0, difference)), 2)
    return dict(sorted(large_differences.items(), key=lambda item: -abs(item[1])))


def compare_populations(new: Population, training: Population) -> tuple[list[str], dict[str, Any]]:
    """Warnings and their figures. A batch that differs is still admitted, because new scanners must enter the data."""
    if not training.clusters:
        return [], {}
    large_differences = standardised_differences(new, training)
    new_sources = {
        name: [value for value in new.sources[name] if value not in training.sources[name]] for name in SOURCES
    }
    warnings = [
        f"{name} not present on the training side: {', '.join(values[:3])}"
        for name, values in new_sources.items()
        if values and training.sources[name]
    ]
    if large_differences:
        listed = ", ".join(
            f"{name.replace('_', ' ')} {value:+.1f}" for name, value in list(large_differences.items())[:5]
        )
        warnings.append(
            f"differs from the {training.clusters} clusters of the training side in standard deviations between "
            f"clusters: {listed}"
        )
    return warnings, {"clusters": training.clusters, "differences": large_differences, "new": new_sources}
