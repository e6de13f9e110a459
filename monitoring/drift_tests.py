"""The three families of tests of one window, and one p-value over them."""

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
    """Figures of the shift from `reference` to `current`, plain JSON.

    `families` holds, for the embedding (MMD), the descriptions (largest |t| over all columns, so corrected for their
    number) and the score (the same), a clustered permutation p-value; `p` is the smallest of them times three
    (Bonferroni). `columns` lists every compared column's shift, most shifted first.
    """
    for side, rows in (("reference", reference), ("window", current)):
        if rows["cluster"].nunique() < 2:
            raise Fault(f"the {side} has fewer than two patients; drift can't be measured")
    drawn = permutation_tests.sample(reference, current)
    chunks = permutation_tests.permutations(drawn.recent, permutations)
    shared = [name for name in columns if name in reference and name in current]
    description = _columns(drawn, chunks, shared)
    score = _columns(drawn, chunks, ["score"])
    families = {
        "embedding": {"p": _embedding(reference, current, permutations)},
        "description": {"p": _smallest(description)},
        "score": {"p": _smallest(score)},
    }
    measured = [family["p"] for family in families.values() if family["p"] is not None]
    moved = sorted(description + score, key=lambda column: -column["t"])
    return {
        "p": min(1.0, len(FAMILIES) * min(measured)) if measured else None,
        "families": families,
        "columns": [column | _effect(reference, current, column["name"]) for column in moved],
        "unseen": _unseen(reference, current, facts),
        "not_compared": [name for name in columns if name not in shared],
        "clusters": {"reference": int((~drawn.recent).sum()), "window": int(drawn.recent.sum())},
        "rows": {"reference": len(reference), "window": len(current), "per_cluster": drawn.per_cluster},
        "permutations": permutations,
        "smallest_p": smallest_p(drawn, permutations),
    }


def smallest_p(drawn: permutation_tests.Sample, permutations: int) -> float:
    """The smallest corrected p-value that so many patients and permutations can reach."""
    ways = math.comb(len(drawn.recent), int(drawn.recent.sum()))
    return min(1.0, len(FAMILIES) * max(1 / (permutations + 1), 1 / ways))


def _columns(
    drawn: permutation_tests.Sample, chunks: Sequence[permutation_tests.Array], names: Sequence[str]
) -> list[dict[str, Any]]:
    """|t| and family-wise p of each column, by its most telling kind of change (Westfall and Young 1993, max t)."""
    values, kinds = permutation_tests.features(drawn.rows[list(names)])
    if not kinds:
        return []
    statistics = permutation_tests.welch(drawn.means(values), chunks)
    largest = statistics.max(axis=1)
    found: dict[str, dict[str, Any]] = {}
    for place, (name, kind) in enumerate(kinds):
        observed = float(statistics[0, place])
        p = float((largest >= observed * (1 - 1e-9)).mean())
        if name not in found or observed > found[name]["t"]:
            found[name] = {"name": name, "kind": kind, "t": round(observed, 4), "p": p}
    return list(found.values())


def _embedding(reference: pd.DataFrame, current: pd.DataFrame, permutations: int) -> float | None:
    """The p-value of the embeddings' MMD; None where a side has fewer than two patients with an embedding."""
    then, now = (rows[rows["embedding"].map(lambda vector: np.size(vector) > 1)] for rows in (reference, current))
    if min(then["cluster"].nunique(), now["cluster"].nunique()) < 2:
        return None
    drawn = permutation_tests.sample(then, now)
    points = np.stack(drawn.rows["embedding"].to_list()).astype(np.float64)
    statistics = permutation_tests.mmd(points, drawn, permutation_tests.permutations(drawn.recent, permutations))
    return float(permutation_tests.p_values(statistics))


def _smallest(columns: list[dict[str, Any]]) -> float | None:
    return min((column["p"] for column in columns), default=None)


def _effect(reference: pd.DataFrame, current: pd.DataFrame, name: str) -> dict[str, float | None]:
    """Size of a column's shift between patients: means, SDs of reference patients, ratio of spreads, share missing."""
    then, now = (_by_patient(rows, name) for rows in (reference, current))
    spread, spread_now = float(then.std()), float(now.std())
    known = spread > permutation_tests.TINY
    return {
        "reference": _plain(then.mean()),
        "window": _plain(now.mean()),
        "sd": _plain((now.mean() - then.mean()) / spread) if known else None,
        "spread": _plain(spread_now / spread) if known else None,
        "missing_reference": _plain(_numbers(reference, name).isna().mean()),
        "missing_window": _plain(_numbers(current, name).isna().mean()),
    }


def _numbers(rows: pd.DataFrame, name: str) -> pd.Series[float]:
    return pd.to_numeric(rows[name], errors="coerce").replace([np.inf, -np.inf], np.nan)


def _by_patient(rows: pd.DataFrame, name: str) -> pd.Series[float]:
    return _numbers(rows, name).groupby(rows["cluster"]).mean().dropna()


def _plain(number: float) -> float | None:
    return round(float(number), 4) if math.isfinite(number) else None


def _unseen(reference: pd.DataFrame, current: pd.DataFrame, facts: Sequence[str]) -> list[dict[str, Any]]:
    """Facts of the window, such as a manufacturer, that no reference patient has, by number of predictions."""
    found = []
    for fact in facts:
        if fact not in reference or fact not in current:
            continue
        known = set(reference[fact].fillna("").astype(str))
        counts = current[fact].fillna("").astype(str).value_counts()
        found += [
            {"fact": fact, "value": str(value), "rows": int(count)}
            for value, count in counts.items()
            if value and value not in known
        ]
    return sorted(found, key=lambda item: -item["rows"])
