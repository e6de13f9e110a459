"""The rules of a sound slice, as data: what the suite asks of a batch, and serving of an upload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.record import Modality, Units

MOSTLY_BLANK = 0.98  # of a slice at its minimum: there is nothing to see
SATURATED = 0.5  # of a slice at its maximum: the window or the exposure is wrong
AIR_TO_METAL = (-3100, 20000)  # HU that scanners write: padding below air, metal above
DENSEST_MEAN = 300  # HU of a whole slice; a missing rescale intercept (-1024) lifts chest and abdomen above it
THINNEST_P95 = -500  # HU; the mean is no lower bound, since padding outside of the field of view may be -2000 or less
AIR = -200  # HU that every slice of a body reaches at its first percentile: air around it, or gas within
SHOWS_AIR = -1000  # HU at which the task's window begins, or below: then air is grey, and black is padding
PADDED = 0.5  # of such a picture; seen: 0.08 of 857 chest pictures, 0.27 of 27 padded ones, 0.55 in a bone window
DARK_BORDER = 160  # grey of a picture's border; seen: up to 99, inverted 185 and more
SMALLEST = 32  # pixels
FLATTEST = 1.0  # bits of entropy of the grey values
SPACING = (0.05, 10.0)  # mm from pixel to pixel

Condition = tuple[str, str, Any]


@dataclass(frozen=True)
class Rule:
    """One expectation: its type in Great Expectations, its arguments, and what it means when a unit fails.

    `error` keeps the failing units out (a rule on the whole table keeps the batch out); otherwise it is a warning.
    `when` (column, `==` or `>`, value) says which rows are asked.
    """

    kind: str
    meaning: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: bool = True
    when: Condition | None = None


def unfit(description: Mapping[str, Any], modality: str, window: tuple[float, float] | None) -> list[str]:
    """Why one slice would be kept out of a batch: what its description (data/describe.py) says of its pixels."""
    asked = [rule for rule in (*pixels(modality), *pictures(window)) if rule.error]
    return [rule.meaning for rule in asked if _applies(rule.when, description) and not _kept(rule, description)]


def _applies(when: Condition | None, description: Mapping[str, Any]) -> bool:
    if when is None:
        return True
    column, operator, value = when
    return bool(description[column] > value if operator == ">" else description[column] == value)


def _kept(rule: Rule, description: Mapping[str, Any]) -> bool:
    value = description[rule.arguments["column"]]
    if "value_set" in rule.arguments:
        return value in rule.arguments["value_set"]
    low, high = rule.arguments["min_value"], rule.arguments["max_value"]
    return (low is None or value >= low) and (high is None or value <= high)


def pixels(modality: str) -> list[Rule]:
    general = [
        between("blank_share", "blank", high=MOSTLY_BLANK),
        between("entropy", "hardly any grey values", low=FLATTEST, error=False),
        between("saturated_share", "saturated", high=SATURATED),
        between("rows", f"fewer than {SMALLEST} rows", low=SMALLEST),
        between("columns", f"fewer than {SMALLEST} columns", low=SMALLEST),
    ]
    if modality != Modality.CT:
        return [*general, among("units", [Units.RAW.value, Units.DISPLAY.value], "Hounsfield units outside of CT")]
    hounsfield = ("units", "==", Units.HU.value)
    return [
        *general,
        among("units", [Units.HU.value, Units.DISPLAY.value], "CT without Hounsfield units"),
        between("mean", "denser than a body in HU", high=DENSEST_MEAN, when=hounsfield),
        between("p95", "thinner than a body in HU", low=THINNEST_P95, when=hounsfield),
        between("p01", "values below what a scanner writes in HU", low=AIR_TO_METAL[0], when=hounsfield),
        between("p01", "wrong window, no air in HU", high=AIR, when=hounsfield),
        between("p99", "values above metal in HU", high=AIR_TO_METAL[1], when=hounsfield),
    ]


def pictures(window: tuple[float, float] | None) -> list[Rule]:
    """Pictures carry no HU: what a window did to them shows in how much of them is black."""
    display = ("units", "==", Units.DISPLAY.value)
    if window is None or window[0] - window[1] / 2 > SHOWS_AIR:
        return []
    return [
        between("blank_share", "wrong window, air is black", high=PADDED, when=display),
        between("border_mean", "inverted, air is white", high=DARK_BORDER, when=display),
    ]


def among(column: str, values: list[str], meaning: str, error: bool = True) -> Rule:
    return Rule("ColumnValuesToBeInSet", meaning, {"column": column, "value_set": values}, error)


def filled(column: str, meaning: str, error: bool = True) -> Rule:
    return Rule("ColumnValuesToNotBeNull", meaning, {"column": column}, error)


def between(
    column: str,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    when: Condition | None = None,
    error: bool = True,
) -> Rule:
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Rule("ColumnValuesToBeBetween", meaning, arguments, error, when)


def spacing(column: str) -> Rule:
    return between(column, "spacing is not that of a scan of a body", *SPACING, when=(column, ">", 0.0))
