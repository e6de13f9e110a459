"""Reference: the columns of metadata.csv, from the names that data/batch/metadata_table.py reads."""

from __future__ import annotations

from site_generator import markdown

INTRODUCTION = """# metadata.csv

The table of labels that comes with a batch. One row is one label: of a slice, or of a whole scan. Several rows for one
file are several readers. The four required columns must be present and filled in; the others may be missing.

The table should be CSV in UTF-8. Other separators and encodings are read if only one reading is plausible.
"""
MEANING: dict[str, tuple[str, str]] = {
    "file_name": (
        "path inside the batch, or `sha256:` and 64 hexadecimal digits",
        "A DICOM, NIfTI, PNG or JPEG file, a zip of one scan, or a folder with one DICOM series. With `sha256:` the "
        "row corrects the label of the admitted scan with this hash; then every row of the batch must be a correction.",
    ),
    "patient_id": ("text", "The patient. Becomes a keyed pseudonym. Write one patient in one way."),
    "task": ("a task of `params.yaml`", "The question that the label answers. A batch belongs to one task."),
    "label": ("a class of the task", "The label."),
    "slice": ("whole number, from 0", "The slice that the label is for. Empty: the label is for every slice."),
    "study_date": ("date", "Date of the examination. Moved by one number of days per patient."),
    "site": ("text", "The hospital or department. A group of the population that figures are reported for."),
    "scanner": ("text", "The scanner. A group of the population."),
    "sex": ("`F`, `M` or `O`", "Sex of the patient. A group of the population."),
    "age": ("years", "Age of the patient. From 90 years on only 90 is kept."),
    "labeller": ("text", "Who gave the label. Kept, since it is part of the label's record."),
    "labelled_at": ("date", "When the label was given. Not moved."),
    "truth": ("`pathology`, `follow-up`, `reader` or `report`", "How the label is known, strongest first."),
    "stage": ("text", "The stage of the disease, where known."),
    "group": ("text", "The independent group, where patients are unknown. Becomes a keyed pseudonym."),
    "lesion_mm": ("mm", "Largest diameter of the lesion. Figures are also reported by size."),
    "mask": ("path inside the batch", "A file that outlines the lesion: NIfTI, DICOM, or a picture for one slice."),
    "lesion_value": ("one or several values, `1,2`", "Which value of the mask is the lesion, where it has several."),
}


def columns() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The required and the optional columns that the product reads."""
    from data.core_types import OPTIONAL_METADATA, REQUIRED_METADATA

    return REQUIRED_METADATA, OPTIONAL_METADATA


def page() -> str:
    """The page of all columns."""
    required, optional = columns()
    rows = [(markdown.code(name), "yes" if name in required else "", *MEANING[name]) for name in (*required, *optional)]
    table = markdown.table(("column", "required", "value", "meaning"), rows)
    rules = """## Checks of the table

- A cell is one line of at most 1,000 characters. Cells that a spreadsheet would run as a formula are refused.
- An unknown or repeated column is refused, and so is a path that leaves the batch, a link, or a missing file.
- The same reader may label a slice only once.
- [Contradictions](../explanation/contradictions.md) lists every check with its consequence.
- [Write metadata.csv](../how-to/engineer/write-metadata.md) shows how to fill in the table.
"""
    return "\n".join([INTRODUCTION, table, rules])
