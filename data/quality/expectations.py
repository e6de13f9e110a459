"""The rules of a valid batch of a task, as data. The suite turns them into Great Expectations."""

from __future__ import annotations

from data.batch.manifest import COLUMNS
from data.core_types import Task, Truth
from data.quality.findings import FindingKind
from data.scan.slice_rules import Rule, in_set, not_null, scan_rules
from data.settings import IngestSettings

REQUIRED = ("unit_id", "file", "sha256", "pixels_blake3", "label", "patient", "cluster")


def rules(task: Task, settings: IngestSettings) -> list[Rule]:
    """The rules of a task, derived from its definition in `params.yaml`."""
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
        *(not_null(name, f"{name} is missing") for name in REQUIRED),
        Rule("ColumnValuesToBeUnique", "two units have the same name", {"column": "unit_id"}),
    ]


def _labels(task: Task) -> list[Rule]:
    return [
        in_set("task", [task.name], f"not a scan of the task {task.name}"),
        in_set("label", list(task.classes), f"label is none of {', '.join(task.classes)}"),
        in_set("truth", [truth.value for truth in Truth], "no known source of truth"),
        in_set("sex", ["F", "M", "O"], "sex is none of F, M, O", error=False),
    ]


def _masks(task: Task) -> list[Rule]:
    """Rules against a lesion with a label without lesion, and against a positive label with an empty mask."""
    healthy = list(task.contradicted)
    positive_without_lesion = Rule(
        "ColumnValuesToNotBeInSet",
        FindingKind.LABEL_WITHOUT_LESION.value,
        {"column": "label", "value_set": list(task.positive)},
        when=("lesion_mm", "==", 0.0),
    )
    healthy_with_lesion = [
        Rule(
            "ColumnValuesToNotBeInSet",
            FindingKind.LABEL_WITH_LESION.value,
            {"column": "label", "value_set": healthy},
            when=when,
        )
        for when in (("lesion_mm", ">", 0.0), ("outlined", "==", "yes"))
    ]
    return [positive_without_lesion, *healthy_with_lesion] if healthy else [positive_without_lesion]


def _clusters(task: Task, settings: IngestSettings) -> list[Rule]:
    """Rules for the whole batch. They only warn, because a batch can contain a single class."""
    min_clusters = settings.min_clusters_per_class
    return [
        Rule(
            "ColumnUniqueValueCountToBeBetween",
            f"fewer than {min_clusters} clusters of the class {name} in this batch",
            {"column": "cluster", "min_value": min_clusters},
            error=False,
            when=("label", "==", name),
        )
        for name in task.classes
    ]


def _completeness() -> list[Rule]:
    facts = {
        "truth": "the source of truth",
        "labeller": "the labeller",
        "labelled_at": "the time of labelling",
        "site": "the site",
        "study_date": "the study date",
    }
    return [not_null(name, f"{fact} is not stated", error=False) for name, fact in facts.items()]
