"""The rules of a sound slice, as data: what the suite asks of a batch, and serving of an upload. One list for both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.record import FieldOfView, Modality, Units
from data.scan import geometry, series
from data.scan.dicom import image_type

MOSTLY_BLANK = 0.98  # of a slice at its minimum: there is nothing to see
SATURATED = 0.5  # of a slice at its maximum: the window or the exposure is wrong
AIR_TO_METAL = (-3100, 20000)  # HU that scanners write: padding below air, metal above
DENSEST_MEAN = 300  # HU of a whole slice; a missing rescale intercept (-1024) lifts chest and abdomen above it
THINNEST_P95 = -500  # HU; the mean is no lower bound, since padding outside of the field of view may be -2000 or less
AIR = -200  # HU that every slice of a body reaches at its first percentile: air around it, or gas within
GAS = -700  # and where a task's window shows air: half of it is left where values were halved or cut off at -500
CROP_MEAN, CROP_P95, CROP_P01 = 600, -950, 300  # HU of a crop: bone alone, lung alone, no air
SHOWS_AIR = -1000  # HU at which the task's window begins, or below: then air is grey, and black is padding
PADDED = 0.5  # of such a picture; seen: 0.08 of 857 chest pictures, 0.27 of 27 padded ones, 0.55 in a bone window
WHITE_CORNERS = (
    190  # grey of a picture's four corners; 857 chest pictures: up to 60, inverted from 194; 1 of 3,260 crops
)
SMALLEST = 32  # pixels
FLATTEST = 1.0  # bits of entropy of the grey values
SPACING = (0.05, 10.0)  # mm from pixel to pixel
THICKEST = 10.0  # mm from slice to slice
BURNED_IN = ("YES", "Yes", "yes", "detected")
IS = {
    "ColumnValuesToBeInSet": True,
    "ColumnValuesToNotBeInSet": False,
    "ColumnValuesToMatchRegex": True,
    "ColumnValuesToNotMatchRegex": False,
}

Condition = tuple[str, str, Any]


@dataclass(frozen=True)
class Rule:
    """One expectation: its type in Great Expectations, its arguments, and what it means when a unit fails.

    `error` keeps the failing units out (a rule on the whole table keeps the batch out); otherwise it is a warning.
    `when` (column, `==` or `>`, value; or several of these) says which rows are asked.
    """

    kind: str
    meaning: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: bool = True
    when: Condition | tuple[Condition, ...] | None = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All of `when`, as a list."""
        if not self.when:
            return ()
        return (self.when,) if isinstance(self.when[0], str) else self.when


def scan_rules(
    modality: str, body_parts: Sequence[str], window: tuple[float, float] | None, field_of_view: str
) -> list[Rule]:
    """All that is asked of a single slice and of its scan: at ingest of every unit, at the endpoint of every upload.

    `window` is the task's (centre and width in HU, or None), `field_of_view` what its pictures show.
    """
    body = field_of_view == FieldOfView.BODY
    return [
        *_source(modality, body_parts),
        *_image_type(),
        *_geometry(modality),
        *pixels(modality, body, window),
        *(pictures(window) if body else []),
    ]


def failures(description: Mapping[str, Any], asked: Sequence[Rule]) -> list[int]:
    """Positions of the rules that one slice fails, by its description (data/scan/slice_features.py); an empty text
    fails none."""
    return [at for at, rule in enumerate(asked) if _applies(rule, description) and not _meets(rule, description)]


def _applies(rule: Rule, description: Mapping[str, Any]) -> bool:
    return description[rule.arguments["column"]] != "" and all(
        bool(description[column] > value if operator == ">" else description[column] == value)
        for column, operator, value in rule.conditions
    )


def _meets(rule: Rule, description: Mapping[str, Any]) -> bool:
    """As Great Expectations answers; KeyError for a kind of rule that no slice is asked."""
    value, arguments = description[rule.arguments["column"]], rule.arguments
    if rule.kind == "ColumnValuesToBeBetween":
        low, high = arguments["min_value"], arguments["max_value"]
        return (low is None or value >= low) and (high is None or value <= high)
    if rule.kind.endswith("InSet"):
        return bool((value in arguments["value_set"]) == IS[rule.kind])
    return (re.search(arguments["regex"], value) is not None) == IS[rule.kind]


def fits(body_part: str, wanted: Sequence[str]) -> bool:
    """Whether a DICOM body part holds one of the task's (CHESTABDOMEN holds CHEST and ABDOMEN)."""
    return bool(re.search(_parts(wanted), body_part))


def _parts(wanted: Sequence[str]) -> str:
    return f"(?i){'|'.join(map(re.escape, wanted))}"


def _exactly_or_none(wanted: Sequence[str]) -> str:
    """A pattern that a body part misses only where it holds one of the task's and more."""
    parts = "|".join(map(re.escape, wanted))
    return f"(?i)^(?:{parts}|(?!.*(?:{parts})).*)$"


def _source(modality: str, body_parts: Sequence[str]) -> list[Rule]:
    """A header that says nothing is allowed (pictures, NIfTI); one that says something else is not."""
    return [
        among("modality", [modality], f"modality is not {modality}"),
        Rule(
            "ColumnValuesToMatchRegex",
            f"body part is none of {', '.join(body_parts)}",
            {"column": "body_part", "regex": _parts(body_parts)},
        ),
        Rule(
            "ColumnValuesToMatchRegex",
            "body part holds more than the task's",
            {"column": "body_part", "regex": _exactly_or_none(body_parts)},
            error=False,
        ),
        Rule(
            "ColumnValuesToNotBeInSet",
            "burned-in writing, says the header or the picture's border",
            {"column": "burned_in", "value_set": list(BURNED_IN)},
        ),
    ]


def _image_type() -> list[Rule]:
    """What a DICOM file says of how its pixels came about (data/scan/dicom/image_type.py)."""
    return [
        without("image_type", kind, f"it is {kind}", error=kind in image_type.FOREIGN)
        for kind in (*image_type.FOREIGN, *image_type.ODD)
    ]


def _geometry(modality: str) -> list[Rule]:
    """How slices lie. A header that says nothing is allowed; odd series travel with a warning that names it."""
    return [
        among("plane", ["axial"], "not an axial slice", error=modality == Modality.CT),
        *(without("geometry", odd, f"the series has {odd}", error=odd == series.AGAIN) for odd in series.ODD),
        without(
            "geometry",
            geometry.UNUSUAL,
            "the picture does not hang the usual way (prone, on the side or flipped)",
            False,
        ),
        without("geometry", geometry.UNKNOWN, "the file does not say how the patient lies in it", False),
        spacing("row_spacing"),
        spacing("column_spacing"),
        between("thickness", f"slices more than {THICKEST:.0f} mm apart", high=THICKEST, error=False),
    ]


def pixels(modality: str, body: bool = True, window: tuple[float, float] | None = None) -> list[Rule]:
    """What the grey values of a slice have to be; `body` where slices show a whole cross-section unless they say."""
    air = GAS if _shows_air(window) else AIR
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
    whole, part = ((hounsfield, ("field_of_view", "==", kind.value)) for kind in (FieldOfView.BODY, FieldOfView.CROP))
    return [
        *general,
        among("units", [Units.HU.value, Units.DISPLAY.value], "CT without Hounsfield units"),
        between("p01", "values below what a scanner writes in HU", low=AIR_TO_METAL[0], when=hounsfield),
        between("p99", "values above metal in HU", high=AIR_TO_METAL[1], when=hounsfield),
        *(_density(whole, DENSEST_MEAN, THINNEST_P95, air) if body else []),
        *_density(part if body else (hounsfield,), CROP_MEAN, CROP_P95, CROP_P01),
    ]


def _density(when: tuple[Condition, ...], mean: float, p95: float, p01: float) -> list[Rule]:
    return [
        between("mean", "denser than a body in HU", high=mean, when=when),
        between("p95", "thinner than a body in HU", low=p95, when=when),
        between("p01", "wrong window, no air in HU", high=p01, when=when),
    ]


def pictures(window: tuple[float, float] | None) -> list[Rule]:
    """Pictures carry no HU: what a window did to them shows in how much of them is black, and in the air around."""
    display = ("units", "==", Units.DISPLAY.value)
    if not _shows_air(window):
        return []
    return [
        between("blank_share", "wrong window, air is black", high=PADDED, when=display),
        between("corner_mean", "inverted, air is white", high=WHITE_CORNERS, when=display),
    ]


def _shows_air(window: tuple[float, float] | None) -> bool:
    return window is not None and window[0] - window[1] / 2 <= SHOWS_AIR


def among(column: str, values: list[str], meaning: str, error: bool = True) -> Rule:
    """Texts of a column are one of these, or empty."""
    return Rule("ColumnValuesToBeInSet", meaning, {"column": column, "value_set": values}, error)


def without(column: str, text: str, meaning: str, error: bool = True) -> Rule:
    """Texts of a column do not hold this one."""
    return Rule("ColumnValuesToNotMatchRegex", meaning, {"column": column, "regex": re.escape(text)}, error)


def filled(column: str, meaning: str, error: bool = True) -> Rule:
    """No value of a column is missing."""
    return Rule("ColumnValuesToNotBeNull", meaning, {"column": column}, error)


def between(
    column: str,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    when: Condition | tuple[Condition, ...] | None = None,
    error: bool = True,
) -> Rule:
    """Numbers of a column lie within limits, which belong to them."""
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Rule("ColumnValuesToBeBetween", meaning, arguments, error, when)


def spacing(column: str) -> Rule:
    """A distance of pixels in mm, where it is known."""
    return between(column, "spacing is not that of a scan of a body", *SPACING, when=(column, ">", 0.0))
