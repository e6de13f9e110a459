"""metadata.csv, the table of labels of a batch: read and check it before any scan is opened."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from data.batch import folder_files
from data.core_types import OPTIONAL_METADATA, REQUIRED_METADATA, Truth
from data.csv_table import CsvTable, find_misnamed, read_table, spreadsheet_damage
from data.deidentify import pseudonyms
from data.patients import table_ids
from data.scan import zip_archive
from data.scan.size_limits import LONGEST_SERIES
from data.settings import Disagreement
from lineage.errors import Fault

NAME = "metadata.csv"
RECORD = "import.json"  # the record of an import, beside the table
ENDINGS = (".dcm", ".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".zip", ".csv", ".txt", ".json", ".xml", ".pdf")
MAX_FIELD = 1000
MAX_NAMED = 5  # rows or files in one message
DECIMALS = ("lesion_mm", "age")
DECIMAL_COMMA = re.compile(r"^(\d+),(\d+)$")
FORMULA_STARTS = ("=", "+", "-", "@")
HASH_PREFIX = "sha256:"  # of an admitted scan, in place of a file name: the row corrects that scan's label
TRUTHS = [truth.value for truth in Truth]


def read_metadata(source: Path) -> pd.DataFrame:
    """Read the metadata.csv of a batch as text: one column per known name, "" for an empty cell.

    The index is the row number in the file. Fault if the table cannot be trusted: encoding, size, columns, formulas,
    two tasks, a file name that leaves the folder or is a link, a missing file, the same reader twice for one slice. A
    file name can be a folder with the files of one DICOM series only. It can also be `sha256:` and the hash of an
    admitted scan: then this row and all others of the batch correct labels. A `mask` is always a file.
    """
    return _read_table(source)[0]


def read_with_remarks(source: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read the metadata.csv of a batch, and remarks on what was ignored in its folder. Faults as `read_metadata`."""
    table, remarks = _read_table(source)
    return table, remarks + _folder_remarks(source, table)


def _read_table(source: Path) -> tuple[pd.DataFrame, list[str]]:
    """The checked table, and remarks on what was cleaned or ignored in the file."""
    path = source / NAME
    if path.is_symlink() or not path.is_file():
        misnamed_file = find_misnamed(source, NAME)
        advice = (
            f"save {misnamed_file} as that (CSV UTF-8)"
            if misnamed_file
            else "write one, or make it with `oncoloop import`"
        )
        raise Fault(f"{source.name}: there is no {NAME}; {advice}")
    csv_table = read_table(path, REQUIRED_METADATA + OPTIONAL_METADATA)
    _check_columns(csv_table.columns, source.name)
    _check_cells(csv_table, source.name)
    table = pd.DataFrame(
        csv_table.rows, columns=csv_table.columns, index=pd.Index(csv_table.numbers, name="row"), dtype=str
    )
    table = table.reindex(columns=[*REQUIRED_METADATA, *OPTIONAL_METADATA], fill_value="")
    if csv_table.separator != ",":
        for name in DECIMALS:
            table[name] = table[name].str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
    _check_one_task(table, source.name)
    table_ids.check_spelling(table, f"{source.name}/{NAME}")
    table["file_name"], table["mask"] = _stored_paths(table, "file_name", source), _stored_paths(table, "mask", source)
    if not is_correction_batch(table):
        table_ids.check_names(table, f"{source.name}/{NAME}")
        _check_files(table["file_name"], source)
        _check_files(table["mask"][table["mask"] != ""], source, series=False)
    _check_readers(table, source.name)
    return table, csv_table.remarks


def is_correction_batch(table: pd.DataFrame) -> bool:
    """Whether a batch corrects labels of admitted scans. Fault if it also contains new scans."""
    is_correction = table["file_name"].str.startswith(HASH_PREFIX)
    if is_correction.any() and not is_correction.all():
        raise Fault(
            f"{NAME}: {int(is_correction.sum())} of {len(table)} rows correct admitted scans ({HASH_PREFIX}...) and "
            "the "
            "others contain new ones; send two batches"
        )
    return bool(is_correction.all())


def truth_rank(truth: str) -> int:
    """The rank of a kind of truth, 0 for the strongest; an unknown source comes last."""
    return TRUTHS.index(truth) if truth in TRUTHS else len(TRUTHS)


def resolve_readings(rows: pd.DataFrame, disagreement: Disagreement = Disagreement.MAJORITY) -> dict[str, str]:
    """Merge the rows of several readers of one slice into one row.

    The rows with the strongest kind of truth count (pathology, follow-up, reader, report); their majority decides.
    Fault for a tie, or with `refuse` for any disagreement.
    """
    ranks = [truth_rank(truth) for truth in rows["truth"]]
    strongest = rows[[kind == min(ranks) for kind in ranks]]
    votes = Counter(strongest["label"]).most_common()
    if len(votes) > 1 and (disagreement is Disagreement.REFUSE or votes[0][1] == votes[1][1]):
        raise Fault("its readers disagree on the label; agree on one and send it again")
    agreeing = strongest[strongest["label"] == votes[0][0]]
    chosen_row = {str(name): str(value) for name, value in agreeing.iloc[0].items()}
    return chosen_row | {"labeller": ";".join(sorted({name for name in agreeing["labeller"] if name}))}


def _check_columns(header: list[str], batch: str) -> None:
    missing = [name for name in REQUIRED_METADATA if name not in header]
    unknown = [name for name in header if name not in REQUIRED_METADATA + OPTIONAL_METADATA]
    if missing or unknown or len(set(header)) < len(header):
        positions = [
            position for position, name in enumerate(header, 1) if name in unknown or name in header[: position - 1]
        ]
        problem = f"missing columns {missing}" if missing else f"unknown or repeated columns, number {positions}"
        raise Fault(
            f"{batch}/{NAME}: {_shorten(problem)}; it needs {', '.join(REQUIRED_METADATA)} "
            f"and may have {', '.join(OPTIONAL_METADATA)}"
        )


def _check_cells(table: CsvTable, batch: str) -> None:
    for number, row in zip(table.numbers, table.rows, strict=True):
        if len(row) != len(table.columns):
            raise Fault(
                f"{batch}/{NAME} row {number}: {len(row)} cells under {len(table.columns)} columns; correct the row"
            )
        for name, cell in zip(table.columns, row, strict=True):
            problem = _cell_problem(cell) or (spreadsheet_damage(cell) if name in ("patient_id", "group") else "")
            if problem:
                raise Fault(f"{batch}/{NAME} row {number}, column {name}: {problem}; correct the cell")


def _cell_problem(cell: str) -> str | None:
    if len(cell) > MAX_FIELD:
        return f"longer than {MAX_FIELD} characters"
    if not cell.isprintable():
        return "a control character or a line break"
    if cell.lstrip().startswith(FORMULA_STARTS) and any(map(str.isalnum, cell)) and not _is_number(cell):
        return "a spreadsheet would run it as a formula"
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_one_task(table: pd.DataFrame, batch: str) -> None:
    tasks = set(table["task"])
    if len(tasks) > 1:
        odd = _row_list(table["task"] != table["task"].iloc[0])
        raise Fault(f"{batch}/{NAME}: a batch belongs to one task, and {odd} has another; divide it")
    if not table["task"].iloc[0]:
        raise Fault(f"{batch}/{NAME}: its rows name no task; fill in the column task")


def _stored_paths(table: pd.DataFrame, column: str, source: Path) -> list[str]:
    """The paths in a column as the file system spells them; "" stays "" in an optional column."""
    return [
        _unicode_form_on_disk(source, _check_path(name, column, source.name, row))
        if name or column == "file_name"
        else ""
        for row, name in table[column].items()
    ]


def _unicode_form_on_disk(source: Path, name: str) -> str:
    """The path in the Unicode form of the file system: some store an umlaut as two characters, a table as one."""
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return next((form for form in (name, *forms) if os.path.lexists(source / form)), name)


def _check_path(name: str, column: str, batch: str, row: Any) -> str:
    path = PurePosixPath(name)
    if not name:
        raise Fault(f"{batch}/{NAME} row {row}: has other cells and no {column}; fill it in, or delete the row")
    if "\\" in name or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise Fault(f"{batch}/{NAME} row {row}: {column} is not a plain path inside the batch; correct it")
    if zip_archive.is_system_file(str(path)):
        raise Fault(f"{batch}/{NAME} row {row}: {column} is a file that a system or viewer left behind; delete the row")
    return str(path)


def _check_files(names: pd.Series[str], source: Path, series: bool = True) -> None:
    """Check that every name is a regular file, or with `series` a folder of one series. Fault otherwise."""
    missing = []
    folders = set()
    row_by_name = {name: f"row {number}" for number, name in reversed(list(names.items()))}
    for name in dict.fromkeys(names):
        path = source / name
        if any((source / part).is_symlink() for part in _path_and_parents(name)):
            raise Fault(
                f"{source.name}: the file of {row_by_name[name]} is a link or in a linked folder; put the file itself "
                "there"
            )
        try:
            file_mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            missing.append(row_by_name[name])
            continue
        if stat.S_ISDIR(file_mode) and series:
            folders.add(name)
            _check_series_folder(path, f"{source.name}: the folder of {row_by_name[name]}")
        elif not stat.S_ISREG(file_mode):
            raise Fault(f"{source.name}: the file of {row_by_name[name]} is not a regular file; remove it from {NAME}")
    for name in names if folders else []:
        if folders & {str(part) for part in PurePosixPath(name).parents}:
            raise Fault(
                f"{source.name}: the file of {row_by_name[name]} is named by itself and by its folder too; keep one row"
            )
    if missing:
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise Fault(
            f"{source.name}: {len(missing)} files that {NAME} names are not there: "
            f"{', '.join(missing[:MAX_NAMED])}{more}; add them or remove their rows"
        )


def _check_series_folder(folder: Path, folder_label: str) -> None:
    """Check that a folder contains the files of one series, all regular files. Fault otherwise."""
    with os.scandir(folder) as entries:
        count = 0
        for entry in entries:
            if zip_archive.is_system_file(entry.name):
                continue
            count += 1
            if not entry.is_file(follow_symlinks=False) or not entry.name.isprintable():
                raise Fault(
                    f"{folder_label} must contain one series, but it also contains a folder, a link, a device or an "
                    "unreadable name; remove that"
                )
    if not 0 < count <= LONGEST_SERIES:
        raise Fault(f"{folder_label} has {count} files; it must contain one series of 1 to {LONGEST_SERIES} files")


def _check_readers(table: pd.DataFrame, batch: str) -> None:
    is_repeated = table.duplicated(["file_name", "slice", "labeller"])
    if is_repeated.any():
        raise Fault(
            f"{batch}/{NAME}: the same reader has labelled a slice twice, repeated in {_row_list(is_repeated)}; keep "
            "one"
        )


def _row_list(odd: pd.Series[bool]) -> str:
    """The numbers of the first rows where `odd` is true, for a message."""
    rows = [str(row) for row, is_odd in odd.items() if is_odd]
    return f"row {rows[0]}" if len(rows) == 1 else f"rows {', '.join(rows[:MAX_NAMED])}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _path_and_parents(name: str) -> list[PurePosixPath]:
    path = PurePosixPath(name)
    return [path, *list(path.parents)[:-1]]


def _folder_remarks(source: Path, table: pd.DataFrame) -> list[str]:
    """Remarks on unlisted files, ages and visits, without any name. Corrections have no files and no remarks."""
    if is_correction_batch(table):
        return []
    remarks = []
    listed_names = set(table["file_name"]) | set(table["mask"])
    files = folder_files.survey_folder(source)
    unlisted = [
        name
        for name in files.names
        if name not in (NAME, RECORD) and listed_names.isdisjoint(map(str, _path_and_parents(name)))
    ]
    if unlisted:
        kinds = Counter(_file_kind(name) for name in unlisted)
        counted = ", ".join(f"{count} {ending}" for ending, count in sorted(kinds.items()))
        remarks.append(f"files of the folder that no row of {NAME} names, and that were left out: {counted}")
    rows_without_age = [
        str(number) for number, cell in table["age"].items() if cell and pseudonyms.age_in_years(cell) is None
    ]
    if rows_without_age:
        more = f" and {len(rows_without_age) - MAX_NAMED} more" if len(rows_without_age) > MAX_NAMED else ""
        remarks.append(
            f"no age in the column age, so that it is unknown: rows {', '.join(rows_without_age[:MAX_NAMED])}{more}"
        )
    remarks += table_ids.visit_warnings(table)
    if files.left_out:
        remarks.append(f"files of the folder that can't be read or are empty, and were left out: {len(files.left_out)}")
    return remarks


def _file_kind(name: str) -> str:
    """The kind of a file by its name. Any other ending is not repeated: it can be part of a person's name."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "of another kind")
