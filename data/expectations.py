"""What a sound batch of a task looks like, as data: the rules that the suite turns into Great Expectations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.index import COLUMNS
from data.record import Modality, Task, Truth, Units
from data.series import ODD
from data.settings import IngestSettings

REQUIRED = ("unit_id", "file", "sha256", "pixels_blake3", "label", "patient", "cluster")
MOSTLY_BLANK = 0.98  # of a slice at its minimum: there is nothing to see
SATURATED = 0.5  # of a slice at its maximum: the window or the exposure is wrong
AIR_TO_METAL = (-3100, 20000)  # HU that scanners write: padding below air, metal above
DENSEST_MEAN = 300  # HU of a whole slice; a missing rescale intercept (-1024) lifts chest and abdomen above it
THINNEST_P95 = -500  # HU; the mean is no lower bound, since padding outside of the field of view may be -2000 or less
AIR = -200  # HU that every slice of a body reaches at its first percentile: air around it, or gas within
SHOWS_AIR = -1000  # HU at which the task's window begins, or below: then air is grey, and black is padding
PADDED = 0.5  # of such a picture; seen: 0.08 of 857 chest pictures, 0.27 of 27 padded ones, 0.55 in a bone window
DARK_BORDER = 160  # grey of a picture's border; seen: up to 99, inverted 185 and more
SPACING = (0.05, 10.0)  # mm from pixel to pixel
THICKEST = 10.0  # mm from slice to slice
SMALLEST = 32  # pixels
FLATTEST = 1.0  # bits of entropy of the grey values

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


def rules(task: Task, settings: IngestSettings) -> list[Rule]:
    """The rules of a task, out of its definition in `params.yaml`."""
    return [
        *_schema(), *_labels(task), *_masks(task), *_source(task), *_geometry(task), *_pixels(task), *_pictures(task),
        *_clusters(task, settings), *_completeness(),
    ]  # fmt: skip


def _schema() -> list[Rule]:
    columns = {"column_set": list(COLUMNS), "exact_match": False}
    return [
        Rule("TableColumnsToMatchSet", "the manifest lacks columns", columns),
        *(_filled(name, f"{name} is missing") for name in REQUIRED),
        Rule("ColumnValuesToBeUnique", "two units have the same name", {"column": "unit_id"}),
    ]


def _labels(task: Task) -> list[Rule]:
    return [
        _among("task", [task.name], f"not a scan of the task {task.name}"),
        _among("label", list(task.classes), f"label is none of {', '.join(task.classes)}"),
        _among("truth", [truth.value for truth in Truth], "no known source of truth"),
        _among("sex", ["F", "M", "O"], "sex is none of F, M, O", error=False),
    ]


def _masks(task: Task) -> list[Rule]:
    """A lesion that was measured, and a label that says there is none, or the other way round.

    The first class is the one without a finding, but for stages (ordered classes), where every class has one.
    """
    healthy = [] if task.ordered else [name for name in task.classes[:1] if name not in task.positive]
    without = Rule("ColumnValuesToNotBeInSet", "label contradicts its mask, which shows no lesion",
                   {"column": "label", "value_set": list(task.positive)}, when=("lesion_mm", "==", 0.0))  # fmt: skip
    shown = Rule("ColumnValuesToNotBeInSet", "label contradicts its mask, which shows a lesion",
                 {"column": "label", "value_set": healthy}, when=("lesion_mm", ">", 0.0))  # fmt: skip
    return [without, shown] if healthy else [without]


def _source(task: Task) -> list[Rule]:
    """A header that says nothing is allowed (pictures, NIfTI); one that says something else is not."""
    parts = [name for part in task.body_parts for name in (part, part.lower(), part.capitalize())]
    return [
        _among("modality", [task.modality.value], f"modality is not {task.modality.value}"),
        _among("body_part", parts, f"body part is none of {', '.join(task.body_parts)}"),
        Rule("ColumnValuesToNotBeInSet", "burned-in writing, says the header or the picture's border",
             {"column": "burned_in", "value_set": ["YES", "Yes", "yes", "detected"]}),
    ]  # fmt: skip


def _geometry(task: Task) -> list[Rule]:
    """How slices lie. A header that says nothing is allowed; odd series travel with a warning that names it."""
    tilted = [
        Rule("ColumnValuesToNotMatchRegex", f"the series has {odd}", {"column": "geometry", "regex": odd}, error=False)
        for odd in ODD
    ]
    return [
        _among("plane", ["axial"], "not an axial slice", error=task.modality is Modality.CT),
        *tilted,
        _spacing("row_spacing"),
        _spacing("column_spacing"),
        _between("thickness", f"slices more than {THICKEST:.0f} mm apart", high=THICKEST, error=False),
    ]


def _pixels(task: Task) -> list[Rule]:
    general = [
        _between("blank_share", "blank", high=MOSTLY_BLANK),
        _between("entropy", "hardly any grey values", low=FLATTEST, error=False),
        _between("saturated_share", "saturated", high=SATURATED),
        _between("rows", f"fewer than {SMALLEST} rows", low=SMALLEST),
        _between("columns", f"fewer than {SMALLEST} columns", low=SMALLEST),
    ]
    if task.modality is not Modality.CT:
        return [*general, _among("units", [Units.RAW.value, Units.DISPLAY.value], "Hounsfield units outside of CT")]
    hounsfield = ("units", "==", Units.HU.value)
    return [
        *general,
        _among("units", [Units.HU.value, Units.DISPLAY.value], "CT without Hounsfield units"),
        _between("mean", "denser than a body in HU", high=DENSEST_MEAN, when=hounsfield),
        _between("p95", "thinner than a body in HU", low=THINNEST_P95, when=hounsfield),
        _between("p01", "values below what a scanner writes in HU", low=AIR_TO_METAL[0], when=hounsfield),
        _between("p01", "wrong window, no air in HU", high=AIR, when=hounsfield),
        _between("p99", "values above metal in HU", high=AIR_TO_METAL[1], when=hounsfield),
    ]


def _pictures(task: Task) -> list[Rule]:
    """Pictures carry no HU: what a window did to them shows in how much of them is black."""
    display = ("units", "==", Units.DISPLAY.value)
    window = task.pixels.window
    if window is None or window[0] - window[1] / 2 > SHOWS_AIR:
        return []
    return [
        _between("blank_share", "wrong window, air is black", high=PADDED, when=display),
        _between("border_mean", "inverted, air is white", high=DARK_BORDER, when=display),
    ]


def _clusters(task: Task, settings: IngestSettings) -> list[Rule]:
    """Of the whole batch; no error, since a batch may well bring one class alone."""
    least = settings.min_clusters_per_class
    return [
        Rule("ColumnUniqueValueCountToBeBetween", f"fewer than {least} clusters of the class {name} in this batch",
             {"column": "cluster", "min_value": least}, error=False, when=("label", "==", name))
        for name in task.classes
    ]  # fmt: skip


def _completeness() -> list[Rule]:
    told = {"truth": "how the label is known", "labeller": "who labelled", "labelled_at": "when the label was given",
            "site": "the site", "study_date": "the study date"}  # fmt: skip
    return [_filled(name, f"nobody says {what}", error=False) for name, what in told.items()]


def _among(column: str, values: list[str], meaning: str, error: bool = True) -> Rule:
    return Rule("ColumnValuesToBeInSet", meaning, {"column": column, "value_set": values}, error)


def _filled(column: str, meaning: str, error: bool = True) -> Rule:
    return Rule("ColumnValuesToNotBeNull", meaning, {"column": column}, error)


def _between(
    column: str,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    when: Condition | None = None,
    error: bool = True,
) -> Rule:
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Rule("ColumnValuesToBeBetween", meaning, arguments, error, when)


def _spacing(column: str) -> Rule:
    return _between(column, "spacing is not that of a scan of a body", *SPACING, when=(column, ">", 0.0))
