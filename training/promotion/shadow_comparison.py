"""The shadow gate: a pure comparison of a challenger's answers with the live ones on the same scans."""

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
Findings = list[tuple[Outcome, str]]


def compare(
    subject: str, pairs: pd.DataFrame, unpaired: int, positive: tuple[str, ...], settings: ShadowSettings
) -> Verdict:
    """Judge a challenger by one row for each pair of answers to the same request.

    Columns: `cluster` (patient), `live` and `dark` (answers of the live and the shadow release, None if withheld),
    `live_score` and `dark_score` (pooled positive score), `live_ms` and `dark_ms`, `label` (late label, None if
    unknown). `unpaired` is the number of live answers in that time without a shadow answer. Intervals are two-sided at
    `settings.confidence`, by resampled clusters. Fail: significantly less agreement, more withheld or more wrong
    answers than the settings allow, or slower at the median. Pass: significantly within the limits. Else inconclusive.
    """
    figures = measure_pairs(pairs, unpaired, positive, settings)
    findings: Findings = []
    if figures["clusters"] < settings.min_clusters:
        findings.append(
            (
                Outcome.INCONCLUSIVE,
                f"{figures['clusters']} clusters were answered in shadow, and {settings.min_clusters} are needed",
            )
        )
    else:
        findings.append(_judge_minimum("the answers agree in a share of", figures["agreement"], settings.min_agreement))
        findings.append(_judge_maximum("more is withheld by", figures["withheld"]["difference"], settings.max_withheld))
        findings.append(_judge_latency(figures["slower"], settings.max_slower))
        if figures["labelled"]["clusters"] >= settings.min_clusters:
            findings.append(
                _judge_maximum("it is wrong more often by", figures["labelled"]["more_wrong"], settings.max_wrong)
            )
    outcome = worst([finding for finding, _ in findings])
    reasons = sorted(findings, key=lambda finding: finding[0] is not outcome)
    return Verdict(GATE, subject, outcome, tuple(reason for _, reason in reasons), figures, asdict(settings))


def measure_pairs(
    pairs: pd.DataFrame, unpaired: int, positive: tuple[str, ...], settings: ShadowSettings
) -> dict[str, Any]:
    """The metrics of a comparison; a metric without a pair is None."""
    live, shadow = pairs["live"].fillna(""), pairs["dark"].fillna("")
    labelled = pairs[pairs["label"].notna()]
    score_change = (pairs["dark_score"] - pairs["live_score"]).dropna().astype(float)
    return {
        "pairs": len(pairs),
        "clusters": int(pairs["cluster"].nunique()),
        "unpaired": unpaired,
        "agreement": _interval(pairs, live == shadow, settings),
        "withheld": {
            "live": _mean(live == ""),
            "shadow": _mean(shadow == ""),
            "difference": _interval(pairs, (shadow == "").astype(int) - (live == "").astype(int), settings),
        },
        "score": {"mean_difference": _mean(score_change), "mean_distance": _mean(score_change.abs())},
        "slower": float(pairs["dark_ms"].median() / pairs["live_ms"].median()) if len(pairs) else None,
        "labelled": _compare_labelled(labelled, positive, settings),
    }


def _compare_labelled(labelled: pd.DataFrame, positive: tuple[str, ...], settings: ShadowSettings) -> dict[str, Any]:
    """Wrong answers (positive or not) of both models on pairs with a late label; a withheld answer is not wrong."""
    is_positive = labelled["label"].isin(positive)
    is_wrong = {
        model: labelled[model].notna() & (labelled[model].isin(positive) != is_positive) for model in ("live", "dark")
    }
    difference = is_wrong["dark"].astype(int) - is_wrong["live"].astype(int)
    return {
        "pairs": len(labelled),
        "clusters": int(labelled["cluster"].nunique()),
        "live_wrong": int(is_wrong["live"].sum()),
        "shadow_wrong": int(is_wrong["dark"].sum()),
        "more_wrong": _interval(labelled, difference, settings),
    }


def _interval(rows: pd.DataFrame, values: Any, settings: ShadowSettings) -> dict[str, float | None]:
    """Mean of a value of each pair, with its interval by cluster."""
    if not len(rows):
        return {"value": None, "low": None, "high": None}
    draws: Draws = bootstrap.draw(rows["cluster"], settings.bootstrap, settings.seed)
    means = draws.share(np.asarray(values, np.float64), np.ones(len(rows)))
    return bootstrap.interval(means, settings.confidence, int(rows["cluster"].nunique()))


def _judge_minimum(description: str, interval: Mapping[str, float | None], limit: float) -> tuple[Outcome, str]:
    reason = f"{description} {_format_interval(interval)}, at least {limit:g} is required"
    if interval["high"] is not None and interval["high"] < limit:
        return Outcome.FAIL, reason
    return (Outcome.PASS if interval["low"] is not None and interval["low"] >= limit else Outcome.INCONCLUSIVE), reason


def _judge_maximum(description: str, interval: Mapping[str, float | None], limit: float) -> tuple[Outcome, str]:
    reason = f"{description} {_format_interval(interval)}, at most {limit:g} is allowed"
    if interval["low"] is not None and interval["low"] > limit:
        return Outcome.FAIL, reason
    return (
        Outcome.PASS if interval["high"] is not None and interval["high"] <= limit else Outcome.INCONCLUSIVE
    ), reason


def _judge_latency(ratio: float, limit: float) -> tuple[Outcome, str]:
    return (
        Outcome.PASS if ratio <= limit else Outcome.FAIL
    ), f"it takes {ratio:.2f} times as long, {limit:g} is allowed"


def _mean(values: pd.Series[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _format_interval(interval: Mapping[str, float | None]) -> str:
    if interval["value"] is None:
        return "unknown"
    bounds = f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval["low"] is not None else ""
    return f"{interval['value']:.3f}{bounds}"
