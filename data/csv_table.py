"""A table as hospitals and spreadsheets write it: encoding, separator, blank rows and stray spaces, read or named."""

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
OTHER_LETTERS = re.compile(r"[^\s,;]*[^\x00-\x7f\s,;][^\s,;]*")  # words that hold any but those of ASCII
FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"<": "a page of HTML or XML",
    b"version https://git-lfs": "a pointer of git LFS, whose content was not fetched",
}
LARGEST_GUESS = 2**24  # bytes of a table whose encoding is looked for
SCIENTIFIC = re.compile(r"\d+([.,]\d+)?[eE][+-]\d+")
EXACT = 15  # digits of a number that a spreadsheet keeps
LONG_NUMBER = re.compile(rf"\d{{{EXACT + 1},}}")
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
    """Headings, in small letters with `_` for spaces; rows of cells without space around; the number of each row in
    the file (its first line is row 1); the separator; and what was read over, in words."""

    columns: list[str]
    rows: list[list[str]]
    numbers: list[int]
    separator: str
    remarks: list[str]


def read_table(path: Path, expected: Collection[str]) -> CsvTable:
    """Read a table of which some of the headings `expected` are known.

    UTF-8, UTF-16 and UTF-32 by their mark, UTF-8 without one, and an 8-bit encoding where every plausible one gives the
    same text; separated by comma, semicolon or tab. Rows without content are left out and counted, no-break spaces
    become spaces. Fault, with the name of the file, where more than one reading is left or none.
    """
    name = path.name
    if path.stat().st_size > MAX_BYTES:
        raise Fault(f"{name} is larger than {MAX_BYTES // 2**20} MiB; divide the batch")
    content = path.read_bytes()
    foreign = next((kind for start, kind in FOREIGN.items() if content.lstrip().startswith(start)), "")
    if foreign:
        raise Fault(f"{name} is {foreign} and no table; save it as CSV UTF-8")
    text, encoding = _decoded(name, content)
    separator, skipped = _separator(name, text, expected)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        raw = list(enumerate(reader, start=1))[skipped:]
    except csv.Error as error:
        raise Fault(f"{name} is not a CSV table ({error}); mend it") from error
    odd = sum(_plain(cell) != cell.strip(" \t") for _, row in raw for cell in row)
    cleaned = [(number, [_plain(cell) for cell in row]) for number, row in raw]
    filled = [(number, row) for number, row in cleaned if any(row)]
    if len(filled) < 2:
        raise Fault(f"{name}{' is not UTF-8 and' if encoding else ''} holds no row; name each scan in it")
    columns = [re.sub(r"[\s-]+", "_", heading.casefold()) for heading in filled[0][1]]
    while columns and not columns[-1] and all(not any(row[len(columns) - 1 :]) for _, row in filled[1:]):
        columns.pop()
    rows = [(number, row if any(row[len(columns) :]) else row[: len(columns)]) for number, row in filled[1:]]
    blank = len(cleaned) - len(filled)
    remarks = [f"{name} is read as {encoding}"] if encoding else []
    remarks += [f"{name} is read with a {SEPARATORS[separator]} between its cells"] if separator != "," else []
    remarks += [f"{name}: {blank} blank rows were left out"] if blank else []
    remarks += [f"{name}: no-break or invisible spaces were taken out of {odd} cells"] if odd else []
    return CsvTable(columns, [row for _, row in rows], [number for number, _ in rows], separator, remarks)


def misnamed(folder: Path, name: str) -> str:
    """A file of `folder` that is the table `name` under a name of other letters or as an Excel workbook; "" if none."""
    stem = name.rpartition(".")[0]
    meant = [f"{stem}{ending}" for ending in (".csv", ".xlsx", ".xls", ".ods", ".tsv", ".csv.txt")]
    alike = (path.name for path in sorted(folder.iterdir()) if path.name != name and path.name.lower() in meant)
    return next(alike, "")


def rounded(ids: Collection[str]) -> bool:
    """Whether a spreadsheet has rounded long numbers: it keeps 15 digits, and writes zeros for the others."""
    long = {each for each in ids if LONG_NUMBER.fullmatch(each)}
    return len(long) > 1 and all(set(each[EXACT:]) == {"0"} for each in long)


def damage(cell: str) -> str:
    """What a spreadsheet has made of an id, in words; "" where it still looks like one."""
    if SCIENTIFIC.fullmatch(cell):
        return "a number that a spreadsheet has rounded to powers of ten"
    if DATE.fullmatch(cell):
        return "a date, which a spreadsheet may have made of an id"
    if ERROR.fullmatch(cell):
        return "an error of a spreadsheet"
    return ""


def _decoded(name: str, content: bytes) -> tuple[str, str]:
    """The text, and the encoding where it is another than UTF-8."""
    encoding = next((encoding for mark, encoding in MARKS if content.startswith(mark)), "")
    try:
        text = content.decode(encoding or "utf-8")
        if "\0" in text:
            raise Fault(f"{name} is in UTF-16 without its mark, or no text; save it as CSV UTF-8")
        return text, encoding.upper() if encoding.startswith(("utf-16", "utf-32")) else ""
    except UnicodeDecodeError as error:
        if encoding:
            raise Fault(
                f"{name} begins as {encoding.upper()} and is damaged (byte {error.start}); save it anew"
            ) from error
        if b"\0" in content:
            raise Fault(f"{name} is in UTF-16 without its mark, or no text; save it as CSV UTF-8") from error
        tried = EIGHT_BIT if len(content) <= LARGEST_GUESS else ()
        readings = {text: each for each in reversed(tried) if (text := _eight_bit(content, each))}
        if len(readings) == 1:
            text, encoding = readings.popitem()
            return text, "Windows-1252" if encoding == "cp1252" else encoding
        raise Fault(
            f"{name} is not UTF-8 (byte {error.start}), and its letters mean other ones in other encodings; save it "
            "as CSV UTF-8"
        ) from error


def _eight_bit(content: bytes, encoding: str) -> str:
    """The text in an 8-bit encoding where it is plausible: no letters of two scripts in one word, no stray signs."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return ""
    for word in set(OTHER_LETTERS.findall(text)):
        letters = [letter for letter in word if letter.isalpha()]
        scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in letters}
        strange = [
            letter for letter in word if not letter.isascii() and unicodedata.category(letter) not in ("Ll", "Lu")
        ]
        if strange or len(scripts) > 1:
            return ""
    return text


def _separator(name: str, text: str, expected: Collection[str]) -> tuple[str, int]:
    """The separator of the cells, and how many lines come before the headings: Excel writes `sep=;` as the first."""
    lines = io.StringIO(text, newline=None)
    first = lines.readline().strip("\r\n ")
    declared = re.fullmatch(r'"?sep=(.)"?', first, re.I)
    if declared:
        if declared[1] not in SEPARATORS:
            raise Fault(f"{name} declares a separator that is none of {', '.join(SEPARATORS.values())}; save it as CSV")
        return declared[1], 1
    before = 0
    while first.strip(",;\t \u00a0") == "" and (line := lines.readline()):
        first, before = line.strip("\r\n"), before + 1
    counts = {each: _known(first, each, expected) for each in SEPARATORS}
    best = [each for each, count in counts.items() if count == max(counts.values())]
    if len(best) > 1 and max(counts.values()) > 1:
        raise Fault(
            f"{name}: its headings can be divided by {' or '.join(SEPARATORS[one] for one in best)}; save it as CSV"
        )
    return best[0], before


def _known(line: str, separator: str, expected: Collection[str]) -> int:
    cells = next(csv.reader([line[: csv.field_size_limit()]], delimiter=separator), [])
    return sum(re.sub(r"[\s-]+", "_", _plain(cell).casefold()) in expected for cell in cells)


def _plain(cell: str) -> str:
    return cell.translate(INVISIBLE).translate(NO_BREAK).strip()
