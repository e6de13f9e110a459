"""The rules that a valid slice meets, as data: one list for batches at ingest and for uploads at serving."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.core_types import FieldOfView, Modality, ValueUnit
from data.scan import geometry, series
from data.scan.dicom import image_type

MOSTLY_BLANK = 0.98  # of a slice at its minimum: it shows nothing
SATURATED = 0.5  # of a slice at its maximum: the window or the exposure is wrong
AIR_TO_METAL = (-3100, 20000)  # HU that scanners write: padding below air, metal above
MAX_MEAN = 300  # HU, mean of a slice; a missing rescale intercept (-1024) puts chest and abdomen above it
MIN_P95 = -500  # HU; the mean has no lower bound, since padding outside the field of view may be -2000 or less
AIR = -200  # HU that every slice of a body reaches at its 1st percentile: air around it, or gas within
AIR_IN_WINDOW = -700  # HU, for a task whose window shows air; values that were halved or clipped at -500 miss it
CROP_MEAN, CROP_P95, CROP_P01 = 600, -950, 300  # HU of a crop: bone alone, lung alone, no air
SHOWS_AIR = -1000  # HU; a window that begins at or below it shows air as grey, and black is padding
# Share of black in such a picture. Measured: 0.08 in 857 chest pictures, 0.27 in 27 padded ones, 0.55 in a bone window.
MAX_BLACK = 0.5
# Mean grey of a picture's four corners. In 857 chest pictures it was up to 60, inverted from 194; one of 3,260 crops
# exceeded it.
WHITE_CORNERS = 190
MIN_SIDE = 32  # pixels
MIN_ENTROPY = 1.0  # bits of entropy of the grey values
SPACING = (0.05, 10.0)  # mm from pixel to pixel
MAX_THICKNESS = 10.0  # mm from slice to slice
BURNED_IN = ("YES", "Yes", "yes", "detected")
MUST_MATCH = {
    "ColumnValuesToBeInSet": True,
    "ColumnValuesToNotBeInSet": False,
    "ColumnValuesToMatchRegex": True,
    "ColumnValuesToNotMatchRegex": False,
}

Condition = tuple[str, str, Any]


@dataclass(frozen=True)
class Rule:
    """One expectation: its type in Great Expectations, its arguments, and what a failure means.

    With `error` the failing units stay out (for a rule on the whole table, the batch); without it they get a warning.
    `when` (column, `==` or `>`, value; or several of these) selects the rows that are checked.
    """

    kind: str
    meaning: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: bool = True
    when: Condition | tuple[Condition, ...] | None = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions of `when`, as a tuple."""
        if not self.when:
            return ()
        return (self.when,) if isinstance(self.when[0], str) else self.when


def scan_rules(
    modality: str, body_parts: Sequence[str], window: tuple[float, float] | None, field_of_view: str
) -> list[Rule]:
    """The rules for a single slice and its scan: for every unit at ingest, for every upload at the endpoint.

    `window` is the task's (centre and width in HU, or None). `field_of_view` is what the task's pictures show.
    """
    body = field_of_view == FieldOfView.BODY
    return [
        *_source_rules(modality, body_parts),
        *_image_type_rules(),
        *_geometry_rules(modality),
        *pixel_rules(modality, body, window),
        *(picture_rules(window) if body else []),
    ]


def failed_rules(description: Mapping[str, Any], rules: Sequence[Rule]) -> list[int]:
    """Positions of the rules that one slice fails, by its description (data/scan/slice_features.py).

    An empty text fails no rule.
    """
    return [index for index, rule in enumerate(rules) if _applies(rule, description) and not _meets(rule, description)]


def _applies(rule: Rule, description: Mapping[str, Any]) -> bool:
    return description[rule.arguments["column"]] != "" and all(
        bool(description[column] > value if operator == ">" else description[column] == value)
        for column, operator, value in rule.conditions
    )


def _meets(rule: Rule, description: Mapping[str, Any]) -> bool:
    """The answer that Great Expectations gives. KeyError for a kind of rule that no slice has."""
    value, arguments = description[rule.arguments["column"]], rule.arguments
    if rule.kind == "ColumnValuesToBeBetween":
        low, high = arguments["min_value"], arguments["max_value"]
        return (low is None or value >= low) and (high is None or value <= high)
    if rule.kind.endswith("InSet"):
        return bool((value in arguments["value_set"]) == MUST_MATCH[rule.kind])
    return (re.search(arguments["regex"], value) is not None) == MUST_MATCH[rule.kind]


def matches_body_part(body_part: str, body_parts: Sequence[str]) -> bool:
    """Whether a DICOM body part contains one of the task's (CHESTABDOMEN contains CHEST and ABDOMEN)."""
    return bool(re.search(_contains_any(body_parts), body_part))


def _contains_any(body_parts: Sequence[str]) -> str:
    return f"(?i){'|'.join(map(re.escape, body_parts))}"


def _exactly_or_none(body_parts: Sequence[str]) -> str:
    """A pattern that a body part misses only if it contains one of the task's and more."""
    parts = "|".join(map(re.escape, body_parts))
    return f"(?i)^(?:{parts}|(?!.*(?:{parts})).*)$"


def _source_rules(modality: str, body_parts: Sequence[str]) -> list[Rule]:
    """An empty header value is allowed (pictures, NIfTI); a different value is not."""
    return [
        in_set("modality", [modality], f"modality is not {modality}"),
        Rule(
            "ColumnValuesToMatchRegex",
            f"body part is none of {', '.join(body_parts)}",
            {"column": "body_part", "regex": _contains_any(body_parts)},
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


def _image_type_rules() -> list[Rule]:
    """Rules for how a DICOM file says its pixels were made (data/scan/dicom/image_type.py)."""
    return [
        not_containing("image_type", kind, f"it is {kind}", error=kind in image_type.FOREIGN)
        for kind in (*image_type.FOREIGN, *image_type.UNUSUAL)
    ]


def _geometry_rules(modality: str) -> list[Rule]:
    """Rules for the position of slices. An empty header value is allowed; an irregular series gets a warning."""
    return [
        in_set("plane", ["axial"], "not an axial slice", error=modality == Modality.CT),
        *(
            not_containing("geometry", fact, f"the series has {fact}", error=fact == series.SAME_PLACE)
            for fact in series.IRREGULAR
        ),
        not_containing(
            "geometry",
            geometry.UNUSUAL,
            "the picture does not hang the usual way (prone, on the side or flipped)",
            False,
        ),
        not_containing("geometry", geometry.UNKNOWN, "the file does not say how the patient lies in it", False),
        spacing_rule("row_spacing"),
        spacing_rule("column_spacing"),
        between("thickness", f"slices more than {MAX_THICKNESS:.0f} mm apart", high=MAX_THICKNESS, error=False),
    ]


def pixel_rules(modality: str, body: bool = True, window: tuple[float, float] | None = None) -> list[Rule]:
    """Rules for the grey values of a slice; `body`: slices show a whole cross-section unless they say otherwise."""
    air = AIR_IN_WINDOW if _shows_air(window) else AIR
    general = [
        between("blank_share", "blank", high=MOSTLY_BLANK),
        between("entropy", "hardly any grey values", low=MIN_ENTROPY, error=False),
        between("saturated_share", "saturated", high=SATURATED),
        between("rows", f"fewer than {MIN_SIDE} rows", low=MIN_SIDE),
        between("columns", f"fewer than {MIN_SIDE} columns", low=MIN_SIDE),
    ]
    if modality != Modality.CT:
        return [
            *general,
            in_set("units", [ValueUnit.RAW.value, ValueUnit.DISPLAY.value], "Hounsfield units outside of CT"),
        ]
    hounsfield = ("units", "==", ValueUnit.HU.value)
    in_body, in_crop = (
        (hounsfield, ("field_of_view", "==", kind.value)) for kind in (FieldOfView.BODY, FieldOfView.CROP)
    )
    return [
        *general,
        in_set("units", [ValueUnit.HU.value, ValueUnit.DISPLAY.value], "CT without Hounsfield units"),
        between("p01", "values below what a scanner writes in HU", low=AIR_TO_METAL[0], when=hounsfield),
        between("p99", "values above metal in HU", high=AIR_TO_METAL[1], when=hounsfield),
        *(_density_rules(in_body, MAX_MEAN, MIN_P95, air) if body else []),
        *_density_rules(in_crop if body else (hounsfield,), CROP_MEAN, CROP_P95, CROP_P01),
    ]


def _density_rules(when: tuple[Condition, ...], mean: float, p95: float, p01: float) -> list[Rule]:
    return [
        between("mean", "denser than a body in HU", high=mean, when=when),
        between("p95", "thinner than a body in HU", low=p95, when=when),
        between("p01", "wrong window, no air in HU", high=p01, when=when),
    ]


def picture_rules(window: tuple[float, float] | None) -> list[Rule]:
    """Rules for pictures, which carry no HU: a wrong window shows in the share of black and in the air around."""
    display = ("units", "==", ValueUnit.DISPLAY.value)
    if not _shows_air(window):
        return []
    return [
        between("blank_share", "wrong window, air is black", high=MAX_BLACK, when=display),
        between("corner_mean", "inverted, air is white", high=WHITE_CORNERS, when=display),
    ]


def _shows_air(window: tuple[float, float] | None) -> bool:
    return window is not None and window[0] - window[1] / 2 <= SHOWS_AIR


def in_set(column: str, values: list[str], meaning: str, error: bool = True) -> Rule:
    """A rule: texts of a column are one of `values`, or empty."""
    return Rule("ColumnValuesToBeInSet", meaning, {"column": column, "value_set": values}, error)


def not_containing(column: str, text: str, meaning: str, error: bool = True) -> Rule:
    """A rule: texts of a column do not contain `text`."""
    return Rule("ColumnValuesToNotMatchRegex", meaning, {"column": column, "regex": re.escape(text)}, error)


def not_null(column: str, meaning: str, error: bool = True) -> Rule:
    """A rule: no value of a column is missing."""
    return Rule("ColumnValuesToNotBeNull", meaning, {"column": column}, error)


def between(
    column: str,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    when: Condition | tuple[Condition, ...] | None = None,
    error: bool = True,
) -> Rule:
    """A rule: numbers of a column are between `low` and `high`, both included."""
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Rule("ColumnValuesToBeBetween", meaning, arguments, error, when)


def spacing_rule(column: str) -> Rule:
    """A rule for a distance between pixels in mm, where it is known."""
    return between(column, "spacing is not that of a scan of a body", *SPACING, when=(column, ">", 0.0))
