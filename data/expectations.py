"""What a sound batch of a task looks like, as data: the rules that the suite turns into Great Expectations."""

from __future__ import annotations

from data import geometry
from data.index import COLUMNS
from data.record import Modality, Task, Truth
from data.rules import Rule, among, between, filled, pictures, pixels, spacing
from data.series import ODD
from data.settings import IngestSettings

REQUIRED = ("unit_id", "file", "sha256", "pixels_blake3", "label", "patient", "cluster")
THICKEST = 10.0  # mm from slice to slice


def rules(task: Task, settings: IngestSettings) -> list[Rule]:
    """The rules of a task, out of its definition in `params.yaml`."""
    return [
        *_schema(), *_labels(task), *_masks(task), *_source(task), *_geometry(task), *pixels(task.modality),
        *pictures(task.pixels.window), *_clusters(task, settings), *_completeness(),
    ]  # fmt: skip


def _schema() -> list[Rule]:
    columns = {"column_set": list(COLUMNS), "exact_match": False}
    return [
        Rule("TableColumnsToMatchSet", "the manifest lacks columns", columns),
        *(filled(name, f"{name} is missing") for name in REQUIRED),
        Rule("ColumnValuesToBeUnique", "two units have the same name", {"column": "unit_id"}),
    ]


def _labels(task: Task) -> list[Rule]:
    return [
        among("task", [task.name], f"not a scan of the task {task.name}"),
        among("label", list(task.classes), f"label is none of {', '.join(task.classes)}"),
        among("truth", [truth.value for truth in Truth], "no known source of truth"),
        among("sex", ["F", "M", "O"], "sex is none of F, M, O", error=False),
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
        among("modality", [task.modality.value], f"modality is not {task.modality.value}"),
        among("body_part", parts, f"body part is none of {', '.join(task.body_parts)}"),
        Rule("ColumnValuesToNotBeInSet", "burned-in writing, says the header or the picture's border",
             {"column": "burned_in", "value_set": ["YES", "Yes", "yes", "detected"]}),
    ]  # fmt: skip


def _geometry(task: Task) -> list[Rule]:
    """How slices lie. A header that says nothing is allowed; odd series travel with a warning that names it."""
    tilted = [
        Rule("ColumnValuesToNotMatchRegex", f"the series has {odd}", {"column": "geometry", "regex": odd}, error=False)
        for odd in ODD
    ]
    hung = [
        Rule("ColumnValuesToNotMatchRegex", meaning, {"column": "geometry", "regex": odd}, error=False)
        for odd, meaning in (
            (geometry.UNUSUAL, "the picture does not hang the usual way (prone, on the side or flipped)"),
            (geometry.UNKNOWN, "the file does not say how the patient lies in it"),
        )
    ]
    return [
        among("plane", ["axial"], "not an axial slice", error=task.modality is Modality.CT),
        *tilted,
        *hung,
        spacing("row_spacing"),
        spacing("column_spacing"),
        between("thickness", f"slices more than {THICKEST:.0f} mm apart", high=THICKEST, error=False),
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
    return [filled(name, f"nobody says {what}", error=False) for name, what in told.items()]
