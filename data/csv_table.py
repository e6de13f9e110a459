"""CSV tables of hospitals and spreadsheets: detect encoding and separator, clean cells, report damage."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lineage.errors import Fault

MAX_BYTES = 256 * 2**20
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
EIGHT_BIT = ("cp1252", "iso8859_15", "cp1250", "cp1251", "cp1253", "cp1254", "mac_roman", "cp850")
NO_BREAK = dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u3000"), " ")
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), "")
OTHER_LETTERS = re.compile(r"[^\s,;]*[^\x00-\x7f\s,;][^\s,;]*")  # words with a character outside of ASCII
FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"<": "a page of HTML or XML",
    b"version https://git-lfs": "a pointer of git LFS, whose content was not fetched",
}
MAX_GUESSED = 2**24  # maximum bytes of a table for which 8-bit encodings are tried
SCIENTIFIC = re.compile(r"\d+([.,]\d+)?[eE][+-]\d+")
EXACT_DIGITS = 15  # digits of a number that a spreadsheet stores exactly
LONG_NUMBER = re.compile(rf"\d{{{EXACT_DIGITS + 1},}}")
MONTH = (
    r"(jan|feb|m[aä]r|mrz|apr|mai|may|jun|jul|aug|sept?|o[ck]t|nov|de[cz]|january?|januar|february?|februar|march|märz|"
    r"april|june|juni|july|juli|august|september|o[ck]tober|november|de[cz]ember)\.?"
)
DATE = re.compile(
    rf"\d{{1,4}}[-. ]+{MONTH}([-. ]+\d{{1,4}})?|{MONTH}[-. ]+\d{{1,4}}|\d\d?(?P<mark>[./])\d\d?(?P=mark)\d{{4}}|"
    r"(19|20)\d\d(/\d\d?/\d\d?|-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?)",
    re.I,
)
ERROR = re.compile(r"#(N/A|NV|REF!|BEZUG!|NAME\?|VALUE!|WERT!|DIV/0!|NULL!|NUM!|ZAHL!|#+)", re.I)


@dataclass(frozen=True)
class CsvTable:
    """A table that was read.

    `columns` are the headings in lower case with `_` for spaces. Cells of `rows` are stripped. `numbers` are the row
    numbers in the file, from 1. `remarks` say what was cleaned or ignored.
    """

    columns: list[str]
    rows: list[list[str]]
    numbers: list[int]
    separator: str
    remarks: list[str]


def read_table(path: Path, expected: Collection[str]) -> CsvTable:
    """Read a table that has some of the headings `expected`.

    Encodings: UTF-8, UTF-16 and UTF-32 by their byte order mark; UTF-8 without a mark; an 8-bit encoding, if all
    plausible ones give the same text. Separators: comma, semicolon, tab. Blank rows are left out and counted; no-break
    spaces become spaces. Fault, with the name of the file, if it has no reading or several.
    """
    name = path.name
    if path.stat().st_size > MAX_BYTES:
        raise Fault(f"{name} is larger than {MAX_BYTES // 2**20} MiB; divide the batch")
    content = path.read_bytes()
    foreign = next((kind for start, kind in FOREIGN.items() if content.lstrip().startswith(start)), "")
    if foreign:
        raise Fault(f"{name} is {foreign} and not a table; save it as CSV UTF-8")
    text, encoding = _decode(name, content)
    separator, skipped = _detect_separator(name, text, expected)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        numbered_rows = list(enumerate(reader, start=1))[skipped:]
    except csv.Error as error:
        raise Fault(f"{name} is not a CSV table ({error}); correct it") from error
    cleaned_count = sum(_clean_cell(cell) != cell.strip(" \t") for _, row in numbered_rows for cell in row)
    cleaned = [(number, [_clean_cell(cell) for cell in row]) for number, row in numbered_rows]
    nonblank = [(number, row) for number, row in cleaned if any(row)]
    if len(nonblank) < 2:
        raise Fault(f"{name}{' is not UTF-8 and' if encoding else ''} holds no row; add one row per scan")
    columns = [re.sub(r"[\s-]+", "_", heading.casefold()) for heading in nonblank[0][1]]
    while columns and not columns[-1] and all(not any(row[len(columns) - 1 :]) for _, row in nonblank[1:]):
        columns.pop()
    rows = [(number, row if any(row[len(columns) :]) else row[: len(columns)]) for number, row in nonblank[1:]]
    blank_count = len(cleaned) - len(nonblank)
    remarks = [f"{name} is read as {encoding}"] if encoding else []
    remarks += [f"{name} is read with a {SEPARATORS[separator]} between its cells"] if separator != "," else []
    remarks += [f"{name}: {blank_count} blank rows were left out"] if blank_count else []
    remarks += (
        [f"{name}: no-break or invisible spaces were removed from {cleaned_count} cells"] if cleaned_count else []
    )
    return CsvTable(columns, [row for _, row in rows], [number for number, _ in rows], separator, remarks)


def find_misnamed(folder: Path, name: str) -> str:
    """A file of `folder` that is the table `name` in other letter case or as a workbook; "" if there is none."""
    stem = name.rpartition(".")[0]
    candidates = [f"{stem}{ending}" for ending in (".csv", ".xlsx", ".xls", ".ods", ".tsv", ".csv.txt")]
    misnamed_files = (
        path.name for path in sorted(folder.iterdir()) if path.name != name and path.name.lower() in candidates
    )
    return next(misnamed_files, "")


def are_rounded(ids: Collection[str]) -> bool:
    """Whether a spreadsheet has rounded long numbers: it stores 15 digits, and writes zeros for the others."""
    long_numbers = {number for number in ids if LONG_NUMBER.fullmatch(number)}
    return len(long_numbers) > 1 and all(set(number[EXACT_DIGITS:]) == {"0"} for number in long_numbers)


def spreadsheet_damage(cell: str) -> str:
    """How a spreadsheet has damaged an id, in words; "" if it looks intact."""
    if SCIENTIFIC.fullmatch(cell):
        return "a number that a spreadsheet has rounded to powers of ten"
    if DATE.fullmatch(cell):
        return "a date, which a spreadsheet may have made of an id"
    if ERROR.fullmatch(cell):
        return "an error of a spreadsheet"
    return ""


def _decode(name: str, content: bytes) -> tuple[str, str]:
    """The text; and its encoding, or "" for UTF-8."""
    encoding = next((encoding for mark, encoding in MARKS if content.startswith(mark)), "")
    try:
        text = content.decode(encoding or "utf-8")
        if "\0" in text:
            raise Fault(f"{name} is in UTF-16 without its mark, or no text; save it as CSV UTF-8")
        return text, encoding.upper() if encoding.startswith(("utf-16", "utf-32")) else ""
    except UnicodeDecodeError as error:
        if encoding:
            raise Fault(
                f"{name} begins as {encoding.upper()} and is damaged (byte {error.start}); save it again"
            ) from error
        if b"\0" in content:
            raise Fault(f"{name} is in UTF-16 without its mark, or no text; save it as CSV UTF-8") from error
        candidates = EIGHT_BIT if len(content) <= MAX_GUESSED else ()
        readings = {
            text: candidate for candidate in reversed(candidates) if (text := _decode_eight_bit(content, candidate))
        }
        if len(readings) == 1:
            text, encoding = readings.popitem()
            return text, "Windows-1252" if encoding == "cp1252" else encoding
        raise Fault(
            f"{name} is not UTF-8 (byte {error.start}), and its letters differ between the possible encodings; save it "
            "as CSV UTF-8"
        ) from error


def _decode_eight_bit(content: bytes, encoding: str) -> str:
    """The text in an 8-bit encoding if plausible, else "": one script per word, and no symbols in words."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return ""
    for word in set(OTHER_LETTERS.findall(text)):
        letters = [letter for letter in word if letter.isalpha()]
        scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in letters}
        symbols = [
            letter for letter in word if not letter.isascii() and unicodedata.category(letter) not in ("Ll", "Lu")
        ]
        if symbols or len(scripts) > 1:
            return ""
    return text


def _detect_separator(name: str, text: str, expected: Collection[str]) -> tuple[str, int]:
    """The separator of the cells, and the number of lines before the headings.

    Excel can write `sep=;` as first line.
    """
    lines = io.StringIO(text, newline=None)
    line = lines.readline().strip("\r\n ")
    declared = re.fullmatch(r'"?sep=(.)"?', line, re.I)
    if declared:
        if declared[1] not in SEPARATORS:
            raise Fault(f"{name} declares a separator that is none of {', '.join(SEPARATORS.values())}; save it as CSV")
        return declared[1], 1
    skipped = 0
    while line.strip(",;\t \u00a0") == "" and (next_line := lines.readline()):
        line, skipped = next_line.strip("\r\n"), skipped + 1
    counts = {separator: _expected_count(line, separator, expected) for separator in SEPARATORS}
    separators = [separator for separator, count in counts.items() if count == max(counts.values())]
    if len(separators) > 1 and max(counts.values()) > 1:
        raise Fault(
            f"{name}: its headings can be divided by {' or '.join(SEPARATORS[separator] for separator in separators)}; "
            "save it as CSV"
        )
    return separators[0], skipped


def _expected_count(line: str, separator: str, expected: Collection[str]) -> int:
    cells = next(csv.reader([line[: csv.field_size_limit()]], delimiter=separator), [])
    return sum(re.sub(r"[\s-]+", "_", _clean_cell(cell).casefold()) in expected for cell in cells)


def _clean_cell(cell: str) -> str:
    return cell.translate(INVISIBLE).translate(NO_BREAK).strip()
