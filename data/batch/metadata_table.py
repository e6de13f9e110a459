"""metadata.csv: the table of labels that comes with a batch, checked before anything else of the batch is touched."""

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
from data.csv_table import CsvTable, damage, misnamed, read_table
from data.deidentify import pseudonyms
from data.patients import table_ids
from data.record import OPTIONAL_METADATA, REQUIRED_METADATA, Truth
from data.scan import zip_archive
from data.scan.size_limits import LONGEST_SERIES
from data.settings import Disagreement
from lineage.errors import Fault

NAME = "metadata.csv"
RECORD = "import.json"  # of an import, beside the table
ENDINGS = (".dcm", ".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".zip", ".csv", ".txt", ".json", ".xml", ".pdf")
MAX_FIELD = 1000
NAMED = 5
DECIMALS = ("lesion_mm", "age")
DECIMAL_COMMA = re.compile(r"^(\d+),(\d+)$")
FORMULA = ("=", "+", "-", "@")
HASH = "sha256:"  # of an admitted scan, in place of a file name: the row corrects that scan's label
TRUTHS = [truth.value for truth in Truth]


def metadata(source: Path) -> pd.DataFrame:
    """The rows of a batch's metadata.csv as text, one column for each known name, "" where a cell is empty; the index
    is the number of each row in the file.

    Fault where the table itself can't be trusted: encoding, size, columns, formulas, two tasks, a file name that
    leaves the folder or is a link, a file that is missing, the same reader twice for one slice. A file name may also
    be a folder that holds the files of one DICOM series and nothing else, or `sha256:` and the hash of an admitted
    scan: then the row corrects that scan's label, and so does every other row of the batch. A `mask` is always a file.
    """
    path = source / NAME
    if path.is_symlink() or not path.is_file():
        instead = misnamed(source, NAME)
        advice = f"save {instead} as that (CSV UTF-8)" if instead else "write one, or make it with `oncoloop import`"
        raise Fault(f"{source.name}: there is no {NAME}; {advice}")
    read = read_table(path, REQUIRED_METADATA + OPTIONAL_METADATA)
    _columns(read.columns, source.name)
    _cells(read, source.name)
    table = pd.DataFrame(read.rows, columns=read.columns, index=pd.Index(read.numbers, name="row"), dtype=str)
    table = table.reindex(columns=[*REQUIRED_METADATA, *OPTIONAL_METADATA], fill_value="")
    if read.separator != ",":
        for name in DECIMALS:
            table[name] = table[name].str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
    _one_task(table, source.name)
    table_ids.check_spelling(table, f"{source.name}/{NAME}")
    table["file_name"], table["mask"] = _named(table, "file_name", source), _named(table, "mask", source)
    if not corrects(table):
        table_ids.check_names(table, f"{source.name}/{NAME}")
        _files(table["file_name"], source)
        _files(table["mask"][table["mask"] != ""], source, series=False)
    _readers(table, source.name)
    return table


def corrects(table: pd.DataFrame) -> bool:
    """Does a batch correct labels of admitted scans? Fault where it does that and brings scans as well."""
    named = table["file_name"].str.startswith(HASH)
    if named.any() and not named.all():
        raise Fault(
            f"{NAME}: {int(named.sum())} of {len(table)} rows correct admitted scans ({HASH}...) and the others bring "
            "new ones; send two batches"
        )
    return bool(named.all())


def strength(truth: str) -> int:
    """The place of a kind of truth, 0 for the strongest; a label of unknown source comes last."""
    return TRUTHS.index(truth) if truth in TRUTHS else len(TRUTHS)


def resolve(rows: pd.DataFrame, disagreement: Disagreement = Disagreement.MAJORITY) -> dict[str, str]:
    """One label out of the rows that several readers gave for one slice.

    The strongest kind of truth speaks (pathology, follow-up, reader, report), among its rows the majority.
    Fault where those rows are evenly divided, or with `refuse` wherever they differ.
    """
    kinds = [strength(truth) for truth in rows["truth"]]
    heard = rows[[kind == min(kinds) for kind in kinds]]
    votes = Counter(heard["label"]).most_common()
    if len(votes) > 1 and (disagreement is Disagreement.REFUSE or votes[0][1] == votes[1][1]):
        raise Fault("its readers disagree on the label; settle it and send it again")
    agreeing = heard[heard["label"] == votes[0][0]]
    chosen = {str(name): str(value) for name, value in agreeing.iloc[0].items()}
    return chosen | {"labeller": ";".join(sorted({name for name in agreeing["labeller"] if name}))}


def _columns(header: list[str], batch: str) -> None:
    missing = [name for name in REQUIRED_METADATA if name not in header]
    unknown = [name for name in header if name not in REQUIRED_METADATA + OPTIONAL_METADATA]
    if missing or unknown or len(set(header)) < len(header):
        odd = [at for at, name in enumerate(header, 1) if name in unknown or name in header[: at - 1]]
        wrong = f"missing columns {missing}" if missing else f"unknown or repeated columns, number {odd}"
        raise Fault(
            f"{batch}/{NAME}: {_short(wrong)}; it needs {', '.join(REQUIRED_METADATA)} "
            f"and may have {', '.join(OPTIONAL_METADATA)}"
        )


def _cells(table: CsvTable, batch: str) -> None:
    for number, row in zip(table.numbers, table.rows, strict=True):
        if len(row) != len(table.columns):
            raise Fault(
                f"{batch}/{NAME} row {number}: {len(row)} cells under {len(table.columns)} columns; mend the row"
            )
        for name, cell in zip(table.columns, row, strict=True):
            wrong = _wrong(cell) or (damage(cell) if name in ("patient_id", "group") else "")
            if wrong:
                raise Fault(f"{batch}/{NAME} row {number}, column {name}: {wrong}; mend the cell")


def _wrong(cell: str) -> str | None:
    if len(cell) > MAX_FIELD:
        return f"longer than {MAX_FIELD} characters"
    if not cell.isprintable():
        return "a control character or a line break"
    if cell.lstrip().startswith(FORMULA) and any(map(str.isalnum, cell)) and not _number(cell):
        return "a spreadsheet would run it as a formula"
    return None


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _one_task(table: pd.DataFrame, batch: str) -> None:
    tasks = set(table["task"])
    if len(tasks) > 1:
        odd = _rows_of(table["task"] != table["task"].iloc[0])
        raise Fault(f"{batch}/{NAME}: a batch belongs to one task, and another is named in {odd}; divide it")
    if not table["task"].iloc[0]:
        raise Fault(f"{batch}/{NAME}: its rows name no task; fill in the column task")


def _named(table: pd.DataFrame, column: str, source: Path) -> list[str]:
    """The paths in a column as they are; "" stays "" where only some scans have such a file."""
    return [
        _as_stored(source, _inside(name, column, source.name, row)) if name or column == "file_name" else ""
        for row, name in table[column].items()
    ]


def _as_stored(source: Path, name: str) -> str:
    """The path as the file system has it: some write an umlaut as two characters where a table has one."""
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return next((form for form in (name, *forms) if os.path.lexists(source / form)), name)


def _inside(name: str, column: str, batch: str, row: Any) -> str:
    path = PurePosixPath(name)
    if not name:
        raise Fault(f"{batch}/{NAME} row {row}: has other cells and no {column}; fill it in, or delete the row")
    if "\\" in name or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise Fault(f"{batch}/{NAME} row {row}: {column} is not a plain path inside the batch; mend it")
    if zip_archive.hidden(str(path)):
        raise Fault(f"{batch}/{NAME} row {row}: {column} is a file that a system or viewer left behind; delete the row")
    return str(path)


def _files(names: pd.Series[str], source: Path, series: bool = True) -> None:
    """Every name is a regular file, or with `series` a folder that holds one series."""
    missing = []
    folders = set()
    rows = {name: f"row {number}" for number, name in reversed(list(names.items()))}
    for name in dict.fromkeys(names):
        path = source / name
        if any((source / part).is_symlink() for part in _steps(name)):
            raise Fault(
                f"{source.name}: the file of {rows[name]} is a link or lies behind one; put the file itself there"
            )
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            missing.append(rows[name])
            continue
        if stat.S_ISDIR(mode) and series:
            folders.add(name)
            _series(path, f"{source.name}: the folder of {rows[name]}")
        elif not stat.S_ISREG(mode):
            raise Fault(f"{source.name}: the file of {rows[name]} is not a regular file; take it out of {NAME}")
    for name in names if folders else []:
        if folders & {str(part) for part in PurePosixPath(name).parents}:
            raise Fault(
                f"{source.name}: the file of {rows[name]} is named by itself and with its folder too; keep one row"
            )
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise Fault(
            f"{source.name}: {len(missing)} files that {NAME} names are not there: {', '.join(missing[:NAMED])}{more}; "
            "add them or remove their rows"
        )


def _series(folder: Path, called: str) -> None:
    """A folder that stands for one series: regular files, and nothing else."""
    with os.scandir(folder) as entries:
        count = 0
        for entry in entries:
            if zip_archive.hidden(entry.name):
                continue
            count += 1
            if not entry.is_file(follow_symlinks=False) or not entry.name.isprintable():
                raise Fault(
                    f"{called} stands for one series, but something in it is a folder, a link, a device or has an "
                    "unreadable name; take it out"
                )
    if not 0 < count <= LONGEST_SERIES:
        raise Fault(f"{called} holds {count} files; it stands for one series of 1 to {LONGEST_SERIES}")


def _readers(table: pd.DataFrame, batch: str) -> None:
    twice = table.duplicated(["file_name", "slice", "labeller"])
    if twice.any():
        raise Fault(f"{batch}/{NAME}: the same reader has labelled a slice twice, again in {_rows_of(twice)}; keep one")


def _rows_of(odd: pd.Series[bool]) -> str:
    """The first rows where `odd`, by number."""
    rows = [str(row) for row, is_odd in odd.items() if is_odd]
    return f"row {rows[0]}" if len(rows) == 1 else f"rows {', '.join(rows[:NAMED])}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _steps(name: str) -> list[PurePosixPath]:
    path = PurePosixPath(name)
    return [path, *list(path.parents)[:-1]]


def remarks(source: Path, table: pd.DataFrame) -> list[str]:
    """What was read over in a batch's folder, in words without a name: rows, encodings, files that no row names."""
    said = read_table(source / NAME, REQUIRED_METADATA + OPTIONAL_METADATA).remarks
    names = set(table["file_name"]) | set(table["mask"])
    inside = folder_files.survey(source)
    others = [name for name in inside.names if name not in (NAME, RECORD) and names.isdisjoint(map(str, _steps(name)))]
    if others:
        kinds = Counter(_ending(name) for name in others)
        counted = ", ".join(f"{count} {ending}" for ending, count in sorted(kinds.items()))
        said.append(f"files of the folder that no row of {NAME} names, and that were left out: {counted}")
    ages = [str(number) for number, cell in table["age"].items() if cell and pseudonyms.age(cell) is None]
    if ages:
        more = f" and {len(ages) - NAMED} more" if len(ages) > NAMED else ""
        said.append(f"no age in the column age, so that it is unknown: rows {', '.join(ages[:NAMED])}{more}")
    said += table_ids.visits(table)
    if inside.left_out:
        said.append(f"files of the folder that can't be read or are empty, and were left out: {len(inside.left_out)}")
    return said


def _ending(name: str) -> str:
    """The kind of a file by its name; any other than these may be part of a person's name."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "of another kind")
