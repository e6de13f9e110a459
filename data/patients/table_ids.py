"""The ids of a table of labels: spellings of one id, rounded numbers, files that bear another id, visits."""

from __future__ import annotations

import pandas as pd

from data.csv_table import EXACT, rounded
from data.patients import ids_in_names
from data.scan.dicom.header_identity import is_word_for_nobody, spellings
from lineage.errors import Fault

NAMED = 5


def check_spelling(table: pd.DataFrame, called: str) -> None:
    """Fault where ids of a column differ in spelling alone, so that one person would be two, on two sides of the split;
    where those of several files stand for nobody; and where a spreadsheet has rounded them."""
    for column in ("patient_id", "group"):
        alike = [" and ".join(str(table.index[place]) for place in places) for places in spellings(table[column])]
        if rounded(set(table[column])):
            raise Fault(
                f"{called}: {column} holds numbers of more than {EXACT} digits that a spreadsheet has rounded, so that "
                "people may have become one; send the original ids, as text"
            )
        nobody = [str(row) for row, text in table[column].items() if is_word_for_nobody(text)]
        if len(set(table.loc[table[column].map(is_word_for_nobody), "file_name"])) > 1:
            more = f" and {len(nobody) - NAMED} more" if len(nobody) > NAMED else ""
            raise Fault(
                f"{called}: {column} is a word for nobody in rows {', '.join(nobody[:NAMED])}{more}, who would be one "
                "person; fill in the ids, or leave the cells empty"
            )
        if alike:
            more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
            raise Fault(
                f"{called}: {column} differs in its spelling alone (zeros in front, case, `.0`, spaces, hyphens, "
                f"accents) in rows {', rows '.join(alike[:NAMED])}{more}; write one patient's id in one way, and ids "
                "of two patients less alike"
            )


def check_names(table: pd.DataFrame, called: str) -> None:
    """Fault where files or their folders bear the id of another patient of the table than their row, as when rows
    slip: no header says it of NIfTI and pictures."""
    for column in ("patient_id", "group"):
        odd = ids_in_names.contradicted(table["file_name"].tolist(), table[column].tolist(), table.index.tolist())
        if odd:
            more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
            raise Fault(
                f"{called}: the files of {'rows' if len(odd) > 1 else 'row'} {', '.join(map(str, odd[:NAMED]))}"
                f"{more} bear by name or folder the {column} of other rows; mend {column}, or rename the files"
            )


def visits(table: pd.DataFrame) -> list[str]:
    """The remark that ids without a group may be visits of one patient; none where they are not."""
    alone = table["patient_id"].where(table["group"] == "", "")
    several = ids_in_names.visits(filter(None, alone), by_number=False)
    if not several:
        return []
    return [
        f"patient ids that may be visits of one patient, for example: {_places(table, several[0])}; one patient is "
        "then several, on both sides of the split: write one id, or fill in the column group"
    ]


def _places(table: pd.DataFrame, ids: list[str]) -> str:
    """The rows where ids of patients stand first, which are not quoted."""
    return "rows " + " and ".join(str((table["patient_id"] == each).idxmax()) for each in ids[:NAMED])
