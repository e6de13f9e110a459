from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from data.batch.metadata_table import read_metadata, resolve_readings
from data.settings import Disagreement
from lineage.errors import Fault

HEADER = "file_name,patient_id,task,label"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    batch = tmp_path / "batch"
    (batch / "a").mkdir(parents=True)
    (batch / "one.png").write_bytes(b"1")
    (batch / "a" / "two.png").write_bytes(b"2")
    return batch


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    (folder / "metadata.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def test_a_valid_table_has_every_known_column(folder: Path) -> None:
    table = read_metadata(write(folder, "one.png, 7 ,lung-ct,normal", "a/two.png,8,lung-ct,benign"))
    assert list(table["file_name"]) == ["one.png", "a/two.png"]
    assert list(table["patient_id"]) == ["7", "8"]
    assert list(table["study_date"]) == ["", ""]


def test_the_byte_order_mark_of_spreadsheets_is_ignored(folder: Path) -> None:
    (folder / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\none.png,7,lung-ct,normal\r\n".encode())
    assert len(read_metadata(folder)) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("../one.png,7,t,normal", "not a plain path inside the batch"),
        ("/etc/passwd,7,t,normal", "not a plain path inside the batch"),
        ("a/../../one.png,7,t,normal", "not a plain path inside the batch"),
        ("C:\\one.png,7,t,normal", "not a plain path inside the batch"),
        (".,7,t,normal", "not a plain path inside the batch"),
        ("three.png,7,t,normal", "1 files that metadata.csv names are not there: row 2"),
        ("one.png/x,7,t,normal", "are not there: row 2"),
        ("one.png,=1+1,t,normal", "row 2, column patient_id: a spreadsheet would run it as a formula"),
        ("one.png,@SUM(A1),t,normal", "formula"),
        ("one.png,+cmd|' /C calc'!A0,t,normal", "formula"),
        ("one.png,7,t,normal,more", "5 cells under 4 columns"),
        ("one.png,7,t", "3 cells under 4 columns"),
        ('one.png,"7\n8",t,normal', "control character"),
        ("one.png," + "7" * 100_000 + ",t,normal", "longer than 1000 characters"),
        ("one.png," + "7" * 200_000 + ",t,normal", "not a CSV table"),
        ('one.png,"7,t,normal', "not a CSV table"),
    ],
)
def test_an_invalid_row_is_a_fault_that_names_the_cause(folder: Path, line: str, words: str) -> None:
    with pytest.raises(Fault) as caught:
        read_metadata(write(folder, line))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_negative_numbers_are_no_formulas(folder: Path) -> None:
    assert read_metadata(write(folder, "one.png,-7,t,normal"))["patient_id"].iloc[0] == "-7"


def test_links_are_refused_wherever_they_are(folder: Path) -> None:
    (folder / "link.png").symlink_to("/etc/hostname")
    (folder / "b").symlink_to(folder / "a")
    for name in ("link.png", "b/two.png"):
        with pytest.raises(Fault, match="is a link or in a linked folder"):
            read_metadata(write(folder, f"{name},7,t,normal"))
    write(folder, "one.png,7,t,normal").joinpath("metadata.csv").rename(folder / "elsewhere.csv")
    (folder / "metadata.csv").symlink_to("elsewhere.csv")
    with pytest.raises(Fault, match=r"there is no metadata\.csv"):
        read_metadata(folder)


def test_a_pipe_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(Fault, match="not a regular file"):
        read_metadata(write(folder, "pipe.png,7,t,normal"))


def test_a_folder_stands_for_one_series_of_regular_files(folder: Path) -> None:
    assert list(read_metadata(write(folder, "a,7,t,normal"))["file_name"]) == ["a"]
    with pytest.raises(Fault, match="named by itself and by its folder too"):
        read_metadata(write(folder, "a,7,t,normal", "a/two.png,7,t,normal"))


def test_system_files_in_a_series_are_ignored_but_refused_in_rows(folder: Path) -> None:
    (folder / "a" / "._two.png").write_bytes(b"x")
    (folder / "a" / "__MACOSX").mkdir()
    assert list(read_metadata(write(folder, "a,7,t,normal"))["file_name"]) == ["a"]
    with pytest.raises(Fault, match="row 2: file_name is a file that a system or viewer left behind"):
        read_metadata(write(folder, "a/._two.png,7,t,normal"))


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a link", "a pipe"])
def test_a_series_folder_with_other_content_is_refused(folder: Path, kind: str) -> None:
    series = folder / "series"
    series.mkdir()
    if kind == "a folder":
        (series / "deeper").mkdir()
    elif kind == "a link":
        (series / "link.dcm").symlink_to("/etc/hostname")
    elif kind == "a pipe":
        os.mkfifo(series / "pipe.dcm")
    with pytest.raises(Fault, match="must contain one series"):
        read_metadata(write(folder, "series,7,t,normal"))


def test_columns_are_checked(folder: Path) -> None:
    for header, words in (
        ("file_name,patient_id,task,name", "missing columns"),
        (HEADER + ",patient_name", "unknown or repeated columns, number [5]"),
        (HEADER + ",label", "unknown or repeated columns"),
    ):
        with pytest.raises(Fault) as caught:
            read_metadata(write(folder, "one.png,7,t,normal" + ",x" * (header.count(",") - 3), header=header))
        assert words in str(caught.value)


def test_two_tasks_and_no_rows_are_refused(folder: Path) -> None:
    with pytest.raises(Fault, match="belongs to one task, and row 3 has another"):
        read_metadata(write(folder, "one.png,7,t,normal", "a/two.png,7,s,normal"))
    with pytest.raises(Fault, match="holds no row"):
        read_metadata(write(folder))


def test_one_reader_labels_a_slice_once(folder: Path) -> None:
    header = HEADER + ",slice,labeller"
    rows = ["one.png,7,t,normal,0,ann", "one.png,7,t,benign,0,bob", "one.png,7,t,normal,1,ann"]
    assert len(read_metadata(write(folder, *rows, header=header))) == 3
    with pytest.raises(Fault, match="the same reader has labelled a slice twice, repeated in row 5"):
        read_metadata(write(folder, *rows, rows[0], header=header))


def readings(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["labeller", "truth", "label"])


def test_pathology_outranks_any_number_of_readers() -> None:
    row = resolve_readings(
        readings(("a", "reader", "normal"), ("b", "reader", "normal"), ("c", "pathology", "malignant"))
    )
    assert row == {"label": "malignant", "truth": "pathology", "labeller": "c"}


def test_the_majority_of_readers_decides_and_its_members_are_named() -> None:
    row = resolve_readings(readings(("b", "reader", "benign"), ("a", "reader", "benign"), ("c", "reader", "normal")))
    assert (row["label"], row["labeller"]) == ("benign", "a;b")


def test_a_tie_of_readers_is_refused() -> None:
    with pytest.raises(Fault, match="its readers disagree on the label"):
        resolve_readings(readings(("a", "reader", "benign"), ("b", "reader", "normal")))


def test_with_refuse_every_disagreement_is_refused() -> None:
    reader_rows = readings(("a", "reader", "benign"), ("b", "reader", "benign"), ("c", "reader", "normal"))
    with pytest.raises(Fault, match="its readers disagree on the label"):
        resolve_readings(reader_rows, Disagreement.REFUSE)
    rows = pd.concat([reader_rows, readings(("d", "pathology", "normal"))])
    assert resolve_readings(rows, Disagreement.REFUSE)["label"] == "normal"
