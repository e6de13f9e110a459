from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data.batch import metadata_table
from data.core_types import Task
from data.importing.import_folder import import_folder
from data.patients.ids_in_names import contradicting_rows, group_visits
from lineage.errors import Fault
from tests.data.importing.test_import_folder import fault_folder, write_volume

Row = dict[str, str]
Edit = Callable[[Callable[[list[Row]], list[Row] | None]], None]


@pytest.mark.parametrize(
    ("names", "ids", "expected"),
    [
        (["P01/a.png", "P02/a.png"], ["P02", "P01"], [0, 1]),
        (["P01/a.png", "P02/a.png"], ["P01", "P02"], []),
        (["P01/a.png", "P02/a.png"], ["p1", "p2"], []),
        (["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"], ["sub-02", "sub-01"], [0, 1]),
        (["x/4711 b.png", "x/4712 b.png"], ["4712", "4711"], [0, 1]),
        (["ct_1.png", "ct_2.png"], ["2", "1"], []),  # slice numbers
        (["ct_0001.png", "ct_0002.png"], ["2", "1"], []),
        (["P01_P02.png", "P02_P01.png"], ["P01", "P02"], []),  # both ids, the own one among them
        (["a/1.png", "b/2.png"], ["P01", "P02"], []),
        (["mueller/1.png", "schmidt/1.png"], ["Schmidt", "Müller"], [1]),
    ],
)
def test_files_with_the_id_of_another_row_are_detected(names: list[str], ids: list[str], expected: list[int]) -> None:
    assert contradicting_rows(names, ids, range(len(names))) == expected


def test_rows_that_are_shifted_against_their_folders_stop_the_batch(batch: Path, edit: Edit) -> None:
    """A picture or NIfTI volume has no header with a patient, but its folder names one."""
    patients: list[str] = []

    def move_into_folders(rows: list[Row]) -> None:
        for row in rows:
            path = f"{row['patient_id']}/{row['file_name']}"
            (batch / path).parent.mkdir(exist_ok=True)
            shutil.move(batch / row["file_name"], batch / path)
            row["file_name"] = path
            patients.append(row["patient_id"])

    def shift_ids(rows: list[Row]) -> None:
        for row, patient in zip(rows, [*patients[1:], patients[0]], strict=True):
            row["patient_id"] = patient

    edit(move_into_folders)
    assert len(metadata_table.read_metadata(batch)) == 12
    edit(shift_ids)
    with pytest.raises(Fault, match=r"the files of rows 3, 5, 7, 9, 11 and 1 more have in name or folder"):
        metadata_table.read_metadata(batch)


def test_ids_that_may_be_visits_get_a_warning_unless_a_group_is_given(batch: Path, edit: Edit) -> None:
    def name_visits(rows: list[Row]) -> None:
        for row in rows:
            row["patient_id"] = f"{row['patient_id']}_ses-{1 + int(row['slice'] or 0)}"
        rows[0]["patient_id"], rows[1]["patient_id"] = "P7_baseline", "P7_follow-up"

    edit(name_visits)
    assert any("may be visits of one patient, for example: rows 2 and 3" in text for text in remarks(batch))

    def fill_groups(rows: list[Row]) -> None:
        for row in rows:
            row["group"] = row["patient_id"].partition("_")[0]

    edit(fill_groups)
    assert not any("visits" in text for text in remarks(batch))


def remarks(batch: Path) -> list[str]:
    return metadata_table.read_with_remarks(batch)[1]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"), [["sub-01_ses-1", "sub-01_ses-2"]]),
        (("P1_baseline", "P1_Follow-Up", "P2_baseline"), [["P1_baseline", "P1_Follow-Up"]]),
        (("Patient-001_week-000", "Patient-001_week-012"), [["Patient-001_week-000", "Patient-001_week-012"]]),
        (("mueller_20200101", "mueller_20210303", "roy_20200101"), [["mueller_20200101", "mueller_20210303"]]),
        (("GLI-00001-000", "GLI-00001-001", "GLI-00002-000", "GLI-00003-000"), [["GLI-00001-000", "GLI-00001-001"]]),
        (("GLI-00001-000", "GLI-00002-000", "GLI-00003-000"), []),
        (("center1-001", "center1-002", "center2-001", "center2-003"), []),
        (("2020_001", "2021_001", "2021_002", "2022_001"), []),
        (("case_20200101", "case_20200102"), []),
        (("lung_v1", "lung_v2", "study-001", "study-002"), []),
        (("p1", "p2", "p10"), []),
    ],
)
def test_names_that_only_differ_in_a_visit_are_grouped(names: tuple[str, ...], groups: list[list[str]]) -> None:
    assert group_visits(names) == groups


def test_folders_that_may_be_visits_need_a_patient_level(real_data: Path, tmp_path: Path, brain: Task) -> None:
    for name in ("sub-01_ses-1", "sub-01_ses-2"):
        write_volume(tmp_path / "set" / "images" / name, real_data, "T1")
    with pytest.raises(Fault, match=r"sub-01_ses-1 and sub-01_ses-2 may be visits .* --patient-level 2 says"):
        import_folder(tmp_path / "set", tmp_path / "batch", brain)
    record = import_folder(tmp_path / "set", tmp_path / "batch", brain, patient_level=2)
    assert record["clusters"] == 2 and "taken for different people: sub-01_ses-1 and" in record["warning"]


def test_file_names_that_may_be_visits_need_a_patient_level(real_data: Path, tmp_path: Path, brain: Task) -> None:
    source = fault_folder(real_data, "appledouble-files") / "pat66"
    for name in ("sub-01_ses-01", "sub-01_ses-02"):
        for folder, channel, kind in (("imagesTr", "_0000", "Scan"), ("labelsTr", "", "Mask")):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(source / f"T1_{kind}.nii.gz", tmp_path / "set" / folder / f"{name}{channel}.nii.gz")
    with pytest.raises(Fault, match=r"sub-01_ses-01 and sub-01_ses-02 may be visits .* --patient-level 0 says"):
        import_folder(tmp_path / "set", tmp_path / "batch", brain)


@pytest.mark.parametrize("word", ["nan", "NULL", "unknown", "ANONYMOUS", "n/a", "-", "?"])
@pytest.mark.parametrize("column", ["patient_id", "group"])
def test_a_word_for_an_unknown_patient_is_no_id(batch: Path, edit: Edit, word: str, column: str) -> None:
    edit(lambda rows: [row | {column: word} if index < 4 else row for index, row in enumerate(rows)])
    with pytest.raises(Fault, match=rf"{column} is a word for nobody in rows 2, 3, 4, 5"):
        metadata_table.read_metadata(batch)


@pytest.mark.parametrize("ids", ["ABCDEF", "012345"])
def test_letters_and_zero_are_ids(batch: Path, edit: Edit, ids: str) -> None:
    edit(lambda rows: [row | {"patient_id": ids[index // 2]} for index, row in enumerate(rows)])
    assert metadata_table.read_metadata(batch)["patient_id"].nunique() == 6
