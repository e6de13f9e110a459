"""Features of simple baselines: what predicts the label without seeing a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.core_types import Task
from data.dataset.shards import HEADER_FACTS, Units
from data.scan.slice_features import DESCRIPTION

Array = NDArray[np.float64]
GEOMETRY = ("rows", "columns", "row_spacing", "column_spacing", "thickness")  # of the image, not of the anatomy
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95, 0.99)  # of the prepared pixels
INTENSITY, POSITION, LESION_SIZE, HEADER = "intensity", "slice position", "lesion size", "header facts"


@dataclass(frozen=True)
class FeatureSet:
    """Features of one baseline: `values` (n, k) with `names` (k), and `usable` (n), the units that have them.

    `missing` says why no unit is usable, else it is empty. NaN in a usable unit is a missing value.
    """

    name: str
    values: Array
    names: tuple[str, ...]
    usable: NDArray[np.bool_]
    missing: str = ""


def feature_sets(units: Units, task: Task, further: Mapping[str, NDArray[np.floating]]) -> Iterator[FeatureSet]:
    """Every baseline beside intensity. `further` has more feature sets by name, each a matrix (n, d) of the units."""
    yield slice_position(units)
    yield lesion_size(units, task)
    yield header_facts(units)
    for name, matrix in further.items():
        values = np.asarray(matrix, np.float64)
        names = tuple(f"{name} {index}" for index in range(values.shape[1]))
        yield FeatureSet(name, values, names, np.asarray(np.isfinite(values).all(axis=1)))


def intensities(units: Units) -> FeatureSet:
    """First the intensities of data/scan/slice_features.py that the table has, in the units of the scan.

    Then mean, standard deviation and quantiles of the prepared pixels, and the mean difference between neighbouring
    pixels.
    """
    described = [name for name in DESCRIPTION if name in units.table and name not in GEOMETRY]
    flat_pixels = units.pixels.reshape(len(units.pixels), -1)
    steps = [np.abs(np.diff(units.pixels, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)]
    prepared = [flat_pixels.mean(axis=1), flat_pixels.std(axis=1), *np.quantile(flat_pixels, QUANTILES, axis=1), *steps]
    names = ("mean", "std", *(f"p{round(100 * q):02d}" for q in QUANTILES), "down", "across")
    columns = np.column_stack([units.table[described].to_numpy(np.float64), *prepared])
    every_unit = np.ones(len(columns), bool)
    return FeatureSet(INTENSITY, columns, (*described, *(f"prepared_{name}" for name in names)), every_unit)


def slice_position(units: Units) -> FeatureSet:
    """Index of the slice in its file, and its position between the first and last labelled slice of its case (0 to 1),
    both also squared, because a finding is often in the middle of a stack."""
    names = ("slice", "relative position", "slice squared", "distance from the middle squared")
    table = units.table
    if "slice" not in table or table["slice"].fillna(0).nunique() < 2:
        return _unavailable(POSITION, names, len(table), "no scan has several slices")
    index = table["slice"].astype(float)
    first, last = (index.groupby(table["case"].to_numpy()).transform(edge) for edge in ("min", "max"))
    relative = ((index - first) / (last - first).where(last > first)).fillna(0.5)
    values = np.column_stack([index, relative, index**2, (relative - 0.5) ** 2])
    return FeatureSet(POSITION, values, names, index.notna().to_numpy())


def lesion_size(units: Units, task: Task) -> FeatureSet:
    """Diameter of the outlined lesion in mm and its logarithm, of units that have one.

    Units without a lesion have no size, and to use that would be to use the label. Ordered classes are grades of the
    lesion, which its size may define, so they have no such baseline.
    """
    names = ("lesion_mm", "log lesion_mm")
    if task.ordered:
        return _unavailable(LESION_SIZE, names, len(units.table), "the classes are grades of the lesion")
    size = units.table.get("lesion_mm", pd.Series(np.nan, index=units.table.index)).astype(float)
    usable = (size > 0).to_numpy()
    if not usable.any():
        return _unavailable(LESION_SIZE, names, len(units.table), "no unit has a lesion size")
    values = size.where(usable, np.nan)
    return FeatureSet(LESION_SIZE, np.column_stack([values, np.log(values)]), names, usable)


def header_facts(units: Units) -> FeatureSet:
    """Manufacturer, model and kernel as indicators, and matrix, spacing and thickness of the image."""
    table = units.table
    numbers = [name for name in GEOMETRY if name in table]
    texts = [name for name in HEADER_FACTS if name in table]
    indicators = pd.get_dummies(table[texts].fillna("").astype(str), dtype=float) if texts else pd.DataFrame()
    columns = pd.concat([table[numbers].astype(float), indicators], axis=1)
    columns = columns[[name for name in columns if columns[name].nunique(dropna=False) > 1]]
    if columns.empty:
        return _unavailable(HEADER, (), len(table), "all scans have the same header facts")
    return FeatureSet(HEADER, columns.to_numpy(np.float64), tuple(map(str, columns)), np.ones(len(table), bool))


def _unavailable(name: str, names: tuple[str, ...], count: int, reason: str) -> FeatureSet:
    return FeatureSet(name, np.full((count, len(names)), np.nan), names, np.zeros(count, bool), reason)
