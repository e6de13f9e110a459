"""The shadow gate: what a challenger said behind the champion's answers, on the very same scans. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from lineage.record.verdict import Outcome, Verdict, worst
from training.settings import ShadowSettings
from training.statistics import bootstrap
from training.statistics.bootstrap import Draws

GATE = "shadow"
Found = list[tuple[Outcome, str]]


def compare(
    subject: str, pairs: pd.DataFrame, unpaired: int, positive: tuple[str, ...], settings: ShadowSettings
) -> Verdict:
    """Judge a challenger by one row for each pair of answers to the same request.

    Columns: `cluster` (patient), `live` and `dark` (what was answered, None where withheld), `live_score` and
    `dark_score` (pooled positive score), `live_ms` and `dark_ms`, `label` (late truth, None where unknown).
    `unpaired` are answers of the same time that no shadow stands behind. Intervals are two-sided at
    `settings.confidence`, by resampled clusters. Fail: shown to agree less, to withhold more or to be wrong more
    often than the settings allow, or slower at the median. Pass: shown not to. Else inconclusive.
    """
    figures = measure(pairs, unpaired, positive, settings)
    found: Found = []
    if figures["clusters"] < settings.min_clusters:
        found.append(
            (
                Outcome.INCONCLUSIVE,
                f"{figures['clusters']} clusters were seen in shadow, and {settings.min_clusters} are needed",
            )
        )
    else:
        found.append(_held("the answers agree in a share of", figures["agreement"], settings.min_agreement))
        found.append(_kept("more is withheld by", figures["withheld"]["difference"], settings.max_withheld))
        found.append(_quick(figures["slower"], settings.max_slower))
        if figures["labelled"]["clusters"] >= settings.min_clusters:
            found.append(_kept("it is wrong more often by", figures["labelled"]["more_wrong"], settings.max_wrong))
    outcome = worst([one for one, _ in found])
    reasons = sorted(found, key=lambda one: one[0] is not outcome)
    return Verdict(GATE, subject, outcome, tuple(reason for _, reason in reasons), figures, asdict(settings))


def measure(pairs: pd.DataFrame, unpaired: int, positive: tuple[str, ...], settings: ShadowSettings) -> dict[str, Any]:
    """The figures of a comparison; those without a single pair are None."""
    live, dark = pairs["live"].fillna(""), pairs["dark"].fillna("")
    known = pairs[pairs["label"].notna()]
    change = (pairs["dark_score"] - pairs["live_score"]).dropna().astype(float)
    return {
        "pairs": len(pairs),
        "clusters": int(pairs["cluster"].nunique()),
        "unpaired": unpaired,
        "agreement": _interval(pairs, live == dark, settings),
        "withheld": {
            "live": _mean(live == ""),
            "shadow": _mean(dark == ""),
            "difference": _interval(pairs, (dark == "").astype(int) - (live == "").astype(int), settings),
        },
        "score": {"mean_difference": _mean(change), "mean_distance": _mean(change.abs())},
        "slower": float(pairs["dark_ms"].median() / pairs["live_ms"].median()) if len(pairs) else None,
        "labelled": _labelled(known, positive, settings),
    }


def _labelled(known: pd.DataFrame, positive: tuple[str, ...], settings: ShadowSettings) -> dict[str, Any]:
    """Who was right where the truth is known by now: on the right side of positive or not. Withheld is not wrong."""
    truly = known["label"].isin(positive)
    wrong = {side: known[side].notna() & (known[side].isin(positive) != truly) for side in ("live", "dark")}
    difference = wrong["dark"].astype(int) - wrong["live"].astype(int)
    return {
        "pairs": len(known),
        "clusters": int(known["cluster"].nunique()),
        "live_wrong": int(wrong["live"].sum()),
        "shadow_wrong": int(wrong["dark"].sum()),
        "more_wrong": _interval(known, difference, settings),
    }


def _interval(rows: pd.DataFrame, values: Any, settings: ShadowSettings) -> dict[str, float | None]:
    """Mean of a figure of each pair, with its interval by cluster."""
    if not len(rows):
        return {"value": None, "low": None, "high": None}
    draws: Draws = bootstrap.draw(rows["cluster"], settings.bootstrap, settings.seed)
    means = draws.share(np.asarray(values, np.float64), np.ones(len(rows)))
    return bootstrap.interval(means, settings.confidence, int(rows["cluster"].nunique()))


def _held(words: str, seen: Mapping[str, float | None], least: float) -> tuple[Outcome, str]:
    told = f"{words} {_told(seen)}, {least:g} is asked for"
    if seen["high"] is not None and seen["high"] < least:
        return Outcome.FAIL, told
    return (Outcome.PASS if seen["low"] is not None and seen["low"] >= least else Outcome.INCONCLUSIVE), told


def _kept(words: str, seen: Mapping[str, float | None], most: float) -> tuple[Outcome, str]:
    told = f"{words} {_told(seen)}, at most {most:g} is allowed"
    if seen["low"] is not None and seen["low"] > most:
        return Outcome.FAIL, told
    return (Outcome.PASS if seen["high"] is not None and seen["high"] <= most else Outcome.INCONCLUSIVE), told


def _quick(slower: float, most: float) -> tuple[Outcome, str]:
    return (
        Outcome.PASS if slower <= most else Outcome.FAIL
    ), f"it takes {slower:.2f} times as long, {most:g} is allowed"


def _mean(values: pd.Series[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _told(seen: Mapping[str, float | None]) -> str:
    if seen["value"] is None:
        return "unknown"
    edges = f" ({seen['low']:.3f} to {seen['high']:.3f})" if seen["low"] is not None else ""
    return f"{seen['value']:.3f}{edges}"
