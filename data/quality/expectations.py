"""What a sound batch of a task looks like, as data: the rules that the suite turns into Great Expectations."""

from __future__ import annotations

from data.batch.manifest import COLUMNS
from data.record import Task, Truth
from data.scan.slice_rules import Rule, among, filled, scan_rules
from data.settings import IngestSettings

REQUIRED = ("unit_id", "file", "sha256", "pixels_blake3", "label", "patient", "cluster")


def rules(task: Task, settings: IngestSettings) -> list[Rule]:
    """The rules of a task, out of its definition in `params.yaml`."""
    return [
        *_schema(),
        *_labels(task),
        *_masks(task),
        *scan_rules(task.modality, task.body_parts, task.pixels.window, task.field_of_view),
        *_clusters(task, settings),
        *_completeness(),
    ]


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
    """A lesion that was measured or outlined, and a label that says there is none, or the other way round."""
    healthy = list(task.contradicted)
    without = Rule(
        "ColumnValuesToNotBeInSet",
        "label contradicts its mask, which shows no lesion",
        {"column": "label", "value_set": list(task.positive)},
        when=("lesion_mm", "==", 0.0),
    )
    shown = [
        Rule(
            "ColumnValuesToNotBeInSet",
            "label contradicts its mask, which shows a lesion",
            {"column": "label", "value_set": healthy},
            when=when,
        )
        for when in (("lesion_mm", ">", 0.0), ("outlined", "==", "yes"))
    ]
    return [without, *shown] if healthy else [without]


def _clusters(task: Task, settings: IngestSettings) -> list[Rule]:
    """Of the whole batch; no error, since a batch may well bring one class alone."""
    least = settings.min_clusters_per_class
    return [
        Rule(
            "ColumnUniqueValueCountToBeBetween",
            f"fewer than {least} clusters of the class {name} in this batch",
            {"column": "cluster", "min_value": least},
            error=False,
            when=("label", "==", name),
        )
        for name in task.classes
    ]


def _completeness() -> list[Rule]:
    told = {
        "truth": "how the label is known",
        "labeller": "who labelled",
        "labelled_at": "when the label was given",
        "site": "the site",
        "study_date": "the study date",
    }
    return [filled(name, f"nobody says {what}", error=False) for name, what in told.items()]
