"""metadata.csv: the table of labels that comes with a batch, checked before anything else of the batch is touched."""

from __future__ import annotations

import csv
import io
import stat
from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd

from data.record import OPTIONAL_METADATA, REQUIRED_METADATA, Truth
from lineage.fault import Fault

NAME = "metadata.csv"
MAX_BYTES = 256 * 2**20
MAX_FIELD = 1000
NAMED = 5
FORMULA = ("=", "+", "-", "@")
TRUTHS = [truth.value for truth in Truth]


def metadata(source: Path) -> pd.DataFrame:
    """The rows of a batch's metadata.csv as text, one column for each known name, "" where a cell is empty.

    Fault where the table itself can't be trusted: encoding, size, columns, formulas, two tasks, a file name that
    leaves the folder or is a link, a file that is missing, the same reader twice for one slice.
    """
    path = source / NAME
    if path.is_symlink() or not path.is_file():
        raise Fault(f"{source.name}: there is no {NAME}; write one, or make it with `oncoloop import`")
    rows = _rows(path)
    _columns(rows[0], source.name)
    _cells(rows, source.name)
    table = pd.DataFrame([[cell.strip() for cell in row] for row in rows[1:]], columns=rows[0], dtype=str)
    table = table.reindex(columns=[*REQUIRED_METADATA, *OPTIONAL_METADATA], fill_value="")
    _one_task(table, source.name)
    table["file_name"] = [_inside(name, source.name) for name in table["file_name"]]
    _files(table["file_name"], source)
    _readers(table, source.name)
    return table


def resolve(rows: pd.DataFrame) -> dict[str, str]:
    """One label out of the rows that several readers gave for one slice.

    The strongest kind of truth speaks (pathology, follow-up, reader, report), among its rows the majority.
    Fault where those rows are evenly divided.
    """
    strength = [TRUTHS.index(truth) if truth in TRUTHS else len(TRUTHS) for truth in rows["truth"]]
    heard = rows[[value == min(strength) for value in strength]]
    votes = Counter(heard["label"]).most_common()
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        raise Fault(
            f"its readers disagree: {', '.join(sorted(label for label, _ in votes))}; settle it and send it again"
        )
    agreeing = heard[heard["label"] == votes[0][0]]
    chosen = {str(name): str(value) for name, value in agreeing.iloc[0].items()}
    return chosen | {"labeller": ";".join(sorted({name for name in agreeing["labeller"] if name}))}


def _rows(path: Path) -> list[list[str]]:
    if path.stat().st_size > MAX_BYTES:
        raise Fault(f"{NAME} is larger than {MAX_BYTES // 2**20} MiB; divide the batch")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except UnicodeDecodeError as error:
        raise Fault(f"{NAME} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise Fault(f"{NAME} is not a CSV table ({error}); mend it") from error
    if len(rows) < 2:
        raise Fault(f"{NAME} holds no row; name each scan in it")
    return rows


def _columns(header: list[str], batch: str) -> None:
    missing = [name for name in REQUIRED_METADATA if name not in header]
    unknown = [name for name in header if name not in REQUIRED_METADATA + OPTIONAL_METADATA]
    if missing or unknown or len(set(header)) < len(header):
        wrong = f"missing columns {missing}" if missing else f"unknown or repeated columns {unknown or header}"
        raise Fault(
            f"{batch}/{NAME}: {_short(wrong)}; it needs {', '.join(REQUIRED_METADATA)} "
            f"and may have {', '.join(OPTIONAL_METADATA)}"
        )


def _cells(rows: list[list[str]], batch: str) -> None:
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise Fault(f"{batch}/{NAME} row {number}: {len(row)} cells under {len(rows[0])} columns; mend the row")
        for name, cell in zip(rows[0], row, strict=True):
            wrong = _wrong(cell)
            if wrong:
                raise Fault(f"{batch}/{NAME} row {number}, column {name}: {wrong}; mend the cell")


def _wrong(cell: str) -> str | None:
    if len(cell) > MAX_FIELD:
        return f"longer than {MAX_FIELD} characters"
    if not cell.isprintable():
        return "a control character or a line break"
    if cell.lstrip().startswith(FORMULA) and not _number(cell):
        return f"a spreadsheet would run it as a formula ({_short(cell)!r})"
    return None


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _one_task(table: pd.DataFrame, batch: str) -> None:
    tasks = sorted(set(table["task"]))
    if len(tasks) > 1 or not tasks[0]:
        raise Fault(f"{batch}/{NAME}: a batch belongs to one task, its rows name {tasks[:NAMED]}; divide it")


def _inside(name: str, batch: str) -> str:
    path = PurePosixPath(name)
    if not name or "\\" in name or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise Fault(f"{batch}/{NAME}: file_name {_short(name)!r} is not a plain path inside the batch; mend it")
    return str(path)


def _files(names: pd.Series[str], source: Path) -> None:
    missing = []
    for name in dict.fromkeys(names):
        path = source / name
        if any((source / part).is_symlink() for part in _steps(name)):
            raise Fault(f"{source.name}: {_base(name)} is a link or lies behind one; put the file itself there")
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            missing.append(_base(name))
            continue
        if not stat.S_ISREG(mode):
            raise Fault(f"{source.name}: {_base(name)} is not a regular file; take it out of {NAME}")
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise Fault(
            f"{source.name}: {len(missing)} files that {NAME} names are not there: {', '.join(missing[:NAMED])}{more}; "
            "add them or remove their rows"
        )


def _readers(table: pd.DataFrame, batch: str) -> None:
    twice = table[table.duplicated(["file_name", "slice", "labeller"])]
    if len(twice):
        named = ", ".join(_base(name) for name in twice["file_name"].head(NAMED))
        raise Fault(f"{batch}/{NAME}: the same reader has more than one row for one slice of {named}; keep one")


def _base(name: str) -> str:
    return _short(PurePosixPath(name).name)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _steps(name: str) -> list[PurePosixPath]:
    path = PurePosixPath(name)
    return [path, *list(path.parents)[:-1]]
