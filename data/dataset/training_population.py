"""How a batch differs from the scans that a model learned from, counted in patients."""

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
from lineage.patient_hash import mark

DIFFERENT = 0.8  # standard deviations between patients; "large" (Cohen 1988)
SURE = 3.5  # standard errors, since twenty features are looked at
SOURCES = ("scanner", "site")


@dataclass(frozen=True)
class Population:
    """What is kept of many scans: of each feature the mean and the sum of squared deviations over `clusters` means,
    and which scanners and sites they come from."""

    clusters: int
    mean: Mapping[str, float]
    squares: Mapping[str, float]
    sources: Mapping[str, list[str]]


def describe(manifest: pd.DataFrame) -> Population:
    """The population of a manifest; every cluster counts once, however many slices it has."""
    means = manifest[list(DESCRIPTION)].astype(float).groupby(manifest["cluster"]).mean()
    squares = ((means - means.mean()) ** 2).sum()
    sources = {name: sorted({str(value) for value in manifest[name]} - {""}) for name in SOURCES}
    centre = {str(name): float(value) for name, value in means.mean().fillna(0).items()}
    return Population(len(means), centre, {str(name): float(value) for name, value in squares.items()}, sources)


def together(parts: Sequence[Population]) -> Population:
    """Several populations as one (Chan, Golub & LeVeque 1983); a patient of two batches counts twice."""
    parts = [part for part in parts if part.clusters]
    total = sum(part.clusters for part in parts)
    mean = {name: sum(part.clusters * part.mean[name] for part in parts) / max(total, 1) for name in DESCRIPTION}
    squares = {
        name: sum(part.squares[name] + part.clusters * (part.mean[name] - mean[name]) ** 2 for part in parts)
        for name in DESCRIPTION
    }
    sources = {name: sorted({value for part in parts for value in part.sources[name]}) for name in SOURCES}
    return Population(total, mean, squares, sources)


def reference(batches: Sequence[Path], training: set[str], kept: Path) -> Population:
    """The training side (the clusters `training`, by name or mark) of admitted batches.

    Each batch is immutable and so is the side of a cluster: what was worked out once is kept in the folder `kept`.
    """
    parts = []
    for batch in batches:
        path = kept / batch.parent.name / f"{batch.name}.json"
        if path.is_file():
            parts.append(Population(**json.loads(path.read_text(encoding="utf-8"))))
            continue
        manifest = read_manifest(batch / "manifest.csv")
        known = manifest["cluster"].isin(training) | manifest["cluster"].map(mark).isin(training)
        parts.append(describe(manifest[known]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(parts[-1])) + "\n", encoding="utf-8")
    return together(parts)


def differences(new: Population, known: Population) -> dict[str, float]:
    """Standardised mean differences (new - known) in standard deviations between clusters, the largest first.

    Only what is large and also sure: beyond 0.8 standard deviations and 3.5 standard errors.
    """
    found = {}
    if min(new.clusters, known.clusters) < 2:
        return {}
    for name in DESCRIPTION:
        deviation = sqrt((new.squares[name] + known.squares[name]) / (new.clusters + known.clusters - 2))
        gap = new.mean[name] - known.mean[name]
        if abs(gap) < 1e-9 * max(1.0, abs(known.mean[name])):
            continue
        difference = gap / max(deviation, 1e-9 * max(1.0, abs(known.mean[name])))
        if abs(difference) > max(DIFFERENT, SURE * sqrt(1 / new.clusters + 1 / known.clusters)):
            found[name] = round(max(-99.0, min(99.0, difference)), 2)
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def compare(new: Population, known: Population) -> tuple[list[str], dict[str, Any]]:
    """Warnings in words, and their figures; a batch that differs is still welcome, since new scanners must get in."""
    if not known.clusters:
        return [], {}
    found = differences(new, known)
    strangers = {name: [value for value in new.sources[name] if value not in known.sources[name]] for name in SOURCES}
    warnings = [
        f"{name} never seen on the training side: {', '.join(values[:3])}"
        for name, values in strangers.items()
        if values and known.sources[name]
    ]
    if found:
        told = ", ".join(f"{name.replace('_', ' ')} {value:+.1f}" for name, value in list(found.items())[:5])
        warnings.append(
            f"differs from the {known.clusters} clusters of the training side in standard deviations between "
            f"clusters: {told}"
        )
    return warnings, {"clusters": known.clusters, "differences": found, "new": strangers}
