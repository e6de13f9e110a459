"""Drift tests of one window: three families of tests, and one corrected p-value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lineage.errors import Fault
from monitoring import permutation_tests

FAMILIES = ("embedding", "description", "score")


def measure(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    permutations: int,
    columns: Sequence[str],
    facts: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure the shift from `reference` to `current`; the result is plain JSON.

    `families` has a clustered permutation p-value for the embedding (MMD), the descriptions (largest |t| over all
    columns, which corrects for their number) and the score (likewise). `p` is the smallest of them times three
    (Bonferroni). `columns` lists the shift of every compared column, the largest first. Raises Fault with fewer than
    two patients in the reference or the window.
    """
    for name, rows in (("reference", reference), ("window", current)):
        if rows["cluster"].nunique() < 2:
            raise Fault(f"the {name} has fewer than two patients; drift cannot be measured")
    sample = permutation_tests.sample(reference, current)
    allocations = permutation_tests.permutations(sample.recent, permutations)
    shared_columns = [name for name in columns if name in reference and name in current]
    description = _column_tests(sample, allocations, shared_columns)
    score = _column_tests(sample, allocations, ["score"])
    families = {
        "embedding": {"p": _embedding_p(reference, current, permutations)},
        "description": {"p": _smallest_p_value(description)},
        "score": {"p": _smallest_p_value(score)},
    }
    p_values = [family["p"] for family in families.values() if family["p"] is not None]
    by_shift = sorted(description + score, key=lambda column: -column["t"])
    return {
        "p": min(1.0, len(FAMILIES) * min(p_values)) if p_values else None,
        "families": families,
        "columns": [column | _effect_size(reference, current, column["name"]) for column in by_shift],
        "unseen": _unseen_facts(reference, current, facts),
        "not_compared": [name for name in columns if name not in shared_columns],
        "clusters": {"reference": int((~sample.recent).sum()), "window": int(sample.recent.sum())},
        "rows": {"reference": len(reference), "window": len(current), "per_cluster": sample.per_cluster},
        "permutations": permutations,
        "smallest_p": smallest_p(sample, permutations),
    }


def smallest_p(sample: permutation_tests.Sample, permutations: int) -> float:
    """The smallest corrected p-value that this number of patients and permutations can reach."""
    allocation_count = math.comb(len(sample.recent), int(sample.recent.sum()))
    return min(1.0, len(FAMILIES) * max(1 / (permutations + 1), 1 / allocation_count))


def _column_tests(
    sample: permutation_tests.Sample, allocations: Sequence[permutation_tests.Array], names: Sequence[str]
) -> list[dict[str, Any]]:
    """|t| and family-wise p-value of each column, for its largest kind of change (Westfall and Young 1993, max t)."""
    values, feature_kinds = permutation_tests.features(sample.rows[list(names)])
    if not feature_kinds:
        return []
    statistics = permutation_tests.welch(sample.means(values), allocations)
    largest = statistics.max(axis=1)
    column_results: dict[str, dict[str, Any]] = {}
    for position, (name, kind) in enumerate(feature_kinds):
        observed = float(statistics[0, position])
        p = float((largest >= observed * (1 - 1e-9)).mean())
        if name not in column_results or observed > column_results[name]["t"]:
            column_results[name] = {"name": name, "kind": kind, "t": round(observed, 4), "p": p}
    return list(column_results.values())


def _embedding_p(reference: pd.DataFrame, current: pd.DataFrame, permutations: int) -> float | None:
    """The p-value of the MMD of embeddings; None with fewer than two patients with embeddings on either side."""
    reference_rows, current_rows = (
        rows[rows["embedding"].map(lambda vector: np.size(vector) > 1)] for rows in (reference, current)
    )
    if min(reference_rows["cluster"].nunique(), current_rows["cluster"].nunique()) < 2:
        return None
    sample = permutation_tests.sample(reference_rows, current_rows)
    embeddings = np.stack(sample.rows["embedding"].to_list()).astype(np.float64)
    statistics = permutation_tests.mmd(embeddings, sample, permutation_tests.permutations(sample.recent, permutations))
    return float(permutation_tests.p_values(statistics))


def _smallest_p_value(columns: list[dict[str, Any]]) -> float | None:
    return min((column["p"] for column in columns), default=None)


def _effect_size(reference: pd.DataFrame, current: pd.DataFrame, name: str) -> dict[str, float | None]:
    """Size of a column's shift between patients: means, shift in reference SDs, ratio of SDs, shares missing."""
    reference_means, current_means = (_by_patient(rows, name) for rows in (reference, current))
    reference_spread, current_spread = float(reference_means.std()), float(current_means.std())
    has_spread = reference_spread > permutation_tests.TINY
    shift = (current_means.mean() - reference_means.mean()) / reference_spread if has_spread else math.nan
    return {
        "reference": _round_or_none(reference_means.mean()),
        "window": _round_or_none(current_means.mean()),
        "sd": _round_or_none(shift) if has_spread else None,
        "spread": _round_or_none(current_spread / reference_spread) if has_spread else None,
        "missing_reference": _round_or_none(_numbers(reference, name).isna().mean()),
        "missing_window": _round_or_none(_numbers(current, name).isna().mean()),
    }


def _numbers(rows: pd.DataFrame, name: str) -> pd.Series[float]:
    return pd.to_numeric(rows[name], errors="coerce").replace([np.inf, -np.inf], np.nan)


def _by_patient(rows: pd.DataFrame, name: str) -> pd.Series[float]:
    return _numbers(rows, name).groupby(rows["cluster"]).mean().dropna()


def _round_or_none(number: float) -> float | None:
    return round(float(number), 4) if math.isfinite(number) else None


def _unseen_facts(reference: pd.DataFrame, current: pd.DataFrame, facts: Sequence[str]) -> list[dict[str, Any]]:
    """Facts of the window, such as a manufacturer, that no reference patient has; most frequent first."""
    unseen = []
    for fact in facts:
        if fact not in reference or fact not in current:
            continue
        reference_values = set(reference[fact].fillna("").astype(str))
        counts = current[fact].fillna("").astype(str).value_counts()
        unseen += [
            {"fact": fact, "value": str(value), "rows": int(count)}
            for value, count in counts.items()
            if value and value not in reference_values
        ]
    return sorted(unseen, key=lambda item: -item["rows"])
