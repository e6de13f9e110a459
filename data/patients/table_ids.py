"""Checks of the ids in a table of labels: spellings of one id, rounded numbers, files with another id, visits."""

from __future__ import annotations

import pandas as pd

from data.csv_table import EXACT_DIGITS, are_rounded
from data.patients import ids_in_names
from data.scan.dicom.header_identity import is_word_for_nobody, spelling_variants
from lineage.errors import Fault

NAMED = 5


def check_spelling(table: pd.DataFrame, name: str) -> None:
    """Fault if ids of a column only differ in spelling, so that one person could be in two cohorts.

    Fault also if ids of several files are a word for nobody, or if a spreadsheet has rounded them.
    """
    for column in ("patient_id", "group"):
        variants = [
            " and ".join(str(table.index[position]) for position in positions)
            for positions in spelling_variants(table[column])
        ]
        if are_rounded(set(table[column])):
            raise Fault(
                f"{name}: {column} holds numbers of more than {EXACT_DIGITS} digits that a spreadsheet has rounded, so "
                "that "
                "people may have become one; send the original ids, as text"
            )
        nobody_rows = [str(row) for row, text in table[column].items() if is_word_for_nobody(text)]
        if len(set(table.loc[table[column].map(is_word_for_nobody), "file_name"])) > 1:
            more = f" and {len(nobody_rows) - NAMED} more" if len(nobody_rows) > NAMED else ""
            raise Fault(
                f"{name}: {column} is a word for nobody in rows {', '.join(nobody_rows[:NAMED])}{more}, who would be "
                "one person; fill in the ids, or leave the cells empty"
            )
        if variants:
            more = f" and {len(variants) - NAMED} more" if len(variants) > NAMED else ""
            raise Fault(
                f"{name}: {column} differs in its spelling alone (leading zeros, case, `.0`, spaces, hyphens, "
                f"accents) in rows {', rows '.join(variants[:NAMED])}{more}; write one patient's id in one way, and "
                "ids of two patients less alike"
            )


def check_names(table: pd.DataFrame, name: str) -> None:
    """Fault if paths contain the id of another patient of the table than their row, as when rows are shifted.

    For NIfTI and pictures no header would show it.
    """
    for column in ("patient_id", "group"):
        rows = ids_in_names.contradicting_rows(
            table["file_name"].tolist(), table[column].tolist(), table.index.tolist()
        )
        if rows:
            more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
            raise Fault(
                f"{name}: the files of {'rows' if len(rows) > 1 else 'row'} {', '.join(map(str, rows[:NAMED]))}"
                f"{more} have in name or folder the {column} of other rows; correct {column}, or rename the files"
            )


def visit_warnings(table: pd.DataFrame) -> list[str]:
    """A warning that ids without a group may be visits of one patient; empty if they are not."""
    ungrouped = table["patient_id"].where(table["group"] == "", "")
    groups = ids_in_names.group_visits(filter(None, ungrouped), by_number=False)
    if not groups:
        return []
    return [
        f"patient ids that may be visits of one patient, for example: {_first_rows(table, groups[0])}; one patient is "
        "then several, on both sides of the split: write one id, or fill in the column group"
    ]


def _first_rows(table: pd.DataFrame, ids: list[str]) -> str:
    """The first row of each patient id; the ids themselves are not quoted."""
    return "rows " + " and ".join(str((table["patient_id"] == patient_id).idxmax()) for patient_id in ids[:NAMED])
