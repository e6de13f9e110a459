"""CSV tables of hospitals and spreadsheets are read if there is one reading; otherwise the message names the cause."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch.metadata_table import read_metadata, read_with_remarks
from data.csv_table import are_rounded, read_table, spreadsheet_damage
from lineage.errors import Fault

HEADINGS = ("file_name", "patient_id", "task", "label", "lesion_mm")
TEXT = "file_name,patient_id,task,label\none.png,M\u00fcller,t,normal\n"


def table(folder: Path, content: bytes | str) -> Path:
    path = folder / "metadata.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "one.png").write_bytes(b"1")
    (folder / "two.png").write_bytes(b"2")
    return path


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252", "iso8859-15", "cp1250"]
)
def test_encodings_with_one_reading_are_read(tmp_path: Path, encoding: str) -> None:
    table(tmp_path, TEXT.encode(encoding))
    assert list(read_metadata(tmp_path)["patient_id"]) == ["M\u00fcller"]


@pytest.mark.parametrize(
    ("text", "encoding", "words"),
    [
        ("Mu\u00f1oz", "cp1252", "is not UTF-8 (byte 42), and its letters differ between the possible encodings"),
        ("\u0418\u0432\u0430\u043d\u043e\u0432", "cp1251", "is not UTF-8"),
        ("M\u00fcller", "utf-16-le", "UTF-16 without its mark"),
    ],
)
def test_encodings_with_several_readings_are_refused(tmp_path: Path, text: str, encoding: str, words: str) -> None:
    table(tmp_path, TEXT.replace("M\u00fcller", text).encode(encoding))
    with pytest.raises(Fault) as caught:
        read_metadata(tmp_path)
    assert words in str(caught.value) and text not in str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", ["", "sep={}\n", "\n"])
def test_separators_line_ends_and_blank_lines(tmp_path: Path, separator: str, ending: str, first: str) -> None:
    lines = TEXT.replace(",", separator).splitlines()
    text = first.format(separator) + "\n".join(
        [*lines, separator * 3, "", f"two.png{separator}8{separator}t{separator}x"]
    )
    table(tmp_path, text.replace("\n", ending))
    rows, messages = read_with_remarks(tmp_path)
    assert list(rows["patient_id"]) == ["M\u00fcller", "8"]
    assert list(rows.index) == [2 + bool(first), 5 + bool(first)]
    assert any("blank rows" in message for message in messages) and any(
        "between its cells" in message for message in messages
    ) == (separator != ",")


def test_decimal_commas_are_numbers_where_they_divide_no_cells(tmp_path: Path) -> None:
    table(tmp_path, "file_name;patient_id;task;label;lesion_mm;age\none.png;7,5;t;normal;5,3;60,5\n")
    row = read_metadata(tmp_path).iloc[0]
    assert (row["lesion_mm"], row["age"], row["patient_id"]) == ("5.3", "60.5", "7,5")


def test_headings_and_cells_are_cleaned_of_odd_spaces(tmp_path: Path) -> None:
    table(tmp_path, "\ufeffFile Name,\u00a0Patient-ID ,TASK,label,,\none.png,A\u00a07\u200b,t,normal\u00a0,,\n")
    rows, messages = read_with_remarks(tmp_path)
    assert rows[["patient_id", "label"]].iloc[0].tolist() == ["A 7", "normal"]
    assert messages[0] == "metadata.csv: no-break or invisible spaces were removed from 3 cells"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_name,patient_id,task,label,Label\none.png,7,t,normal,x\n", "repeated columns, number [5]"),
        ("file_name,patient_id,task,label\n,7,t,normal\n", "row 2: has other cells and no file_name"),
        ("file_name,patient_id,task,label\n\none.png,1.2E+10,t,normal\n", "row 3, column patient_id: a number that"),
        ("file_name,patient_id,task,label\none.png,03-Apr,t,normal\n", "row 2, column patient_id: a date"),
        ("file_name,patient_id,task,label\none.png,#N/A,t,normal\n", "column patient_id: an error of a spreadsheet"),
        ("file_name,task,x;label;patient_id\none.png,t,x;normal;7\n", "can be divided by comma or semicolon"),
        ("sep=|\nfile_name|patient_id|task|label\none.png|7|t|normal\n", "a separator that is none of comma"),
        ("file_name,patient_id,task,label\n,,,\n", "holds no row"),
    ],
)
def test_the_message_names_the_cause(tmp_path: Path, text: str, words: str) -> None:
    table(tmp_path, text)
    with pytest.raises(Fault) as caught:
        read_metadata(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "cell",
    [
        "1.2E+10",
        "1,23e+05",
        "Mar-05",
        "03. Apr",
        "12-Dez-24",
        "05.03.2026",
        "#NAME?",
        "####",
        "2001-03-01 00:00:00",
        "2001-03-01T00:00",
        "2001/3/1",
    ],
)
def test_ids_damaged_by_spreadsheets_are_detected(cell: str) -> None:
    assert spreadsheet_damage(cell)


@pytest.mark.parametrize("cell", ["12E5", "P-03", "1.2.34", "2026-01-31", "Maria-5", "A#1", "march"])
def test_unusual_ids_are_not_called_damaged(cell: str) -> None:
    assert not spreadsheet_damage(cell)


@pytest.mark.parametrize("name", ["table-blank-rows", "table-nbsp", "table-semicolon"])
def test_the_unusual_tables_of_the_real_data_are_read(real_data: Path, name: str) -> None:
    rows, messages = read_with_remarks(real_data / "intake-faults" / name)
    assert list(rows["patient_id"]) == ["X0", "X1"] and list(rows["label"]) == ["normal", "malignant"]
    assert len(messages) == 1


def test_the_latin_1_groups_of_the_real_data_are_read(real_data: Path) -> None:
    csv_table = read_table(real_data / "intake-faults" / "groups-latin1" / "groups.csv", ("file", "label", "group"))
    assert csv_table.rows[0] == ["tumour/0.png", "tumour", "M\u00fcller0tu"] and csv_table.remarks


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
        st.lists(
            st.sampled_from(["file_name", "patient_id", "task", "label", ",", ";", "\t", "\n", '"', "\r", "\xfc"]),
            max_size=30,
        ).map(lambda parts: "".join(parts).encode("latin-1")),
    )
)
def test_any_content_gives_a_table_or_a_fault(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metadata.csv"
        path.write_bytes(content)
        try:
            csv_table = read_table(path, HEADINGS)
        except Fault as fault:
            assert str(fault).startswith("metadata.csv") and len(str(fault)) < 300
        else:
            assert len(csv_table.rows) == len(csv_table.numbers) > 0 and all(any(row) for row in csv_table.rows)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04" + bytes(90), "is an Excel workbook"),
        (b"\xd0\xcf\x11\xe0" + bytes(90), "is an old Excel workbook"),
        (b"\n<html><table>", "is a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of git LFS"),
    ],
)
def test_a_file_that_is_no_table_is_named_by_its_kind(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(Fault, match=words):
        read_metadata(tmp_path)


@pytest.mark.parametrize("name", ["Metadata.CSV", "metadata.xlsx", "metadata.csv.txt"])
def test_a_misnamed_table_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(Fault, match=f"save {name} as that"):
        read_metadata(tmp_path)


def test_long_numbers_rounded_by_a_spreadsheet_are_detected() -> None:
    assert are_rounded(["110101199003071000", "110101199003072000", "12"])
    assert not are_rounded(["110101199003071000", "110101199003072314"]) and not are_rounded(
        ["110101199003071000", "12"]
    )


def test_rounded_ids_stop_the_batch(tmp_path: Path) -> None:
    table(
        tmp_path,
        "file_name,patient_id,task,label\n"
        + "".join(f"{number}.png,11010119900307{number}000,lung-ct,normal\n" for number in (1, 2)),
    )
    with pytest.raises(Fault, match="more than 15 digits that a spreadsheet has rounded"):
        read_metadata(tmp_path)


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_umlaut_of_one_or_two_characters_is_the_same_file(tmp_path: Path, on_disk: Any, in_table: Any) -> None:
    file = tmp_path / unicodedata.normalize(on_disk, "Schädel/Übersicht.png")
    file.parent.mkdir()
    file.write_bytes(b"x")
    name_in_table = unicodedata.normalize(in_table, "Schädel/Übersicht.png")
    table(tmp_path, f"file_name,patient_id,task,label\n{name_in_table},P1,lung-ct,normal\n")
    rows, messages = read_with_remarks(tmp_path)
    assert (tmp_path / rows["file_name"].iloc[0]).samefile(file)
    assert any("left out: 2 .png" in text for text in messages)  # the two files that `table` writes
