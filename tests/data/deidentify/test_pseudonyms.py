from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest

from data.batch.manifest import index_batch
from data.batch.metadata_table import read_with_remarks
from data.core_types import OPTIONAL_METADATA, REQUIRED_METADATA, Scan, Task, ValueUnit
from data.deidentify.pseudonyms import age_in_years, age_string, identity_columns, parse_number, shift_date
from lineage.errors import Fault


def row(**cells: str) -> dict[str, str]:
    return dict.fromkeys((*REQUIRED_METADATA, *OPTIONAL_METADATA), "") | cells


def scan(slices: int = 1, **header: str) -> Scan:
    return Scan("x", np.zeros((slices, 4, 4), np.float32), ValueUnit.HU, None, None, header)


@pytest.mark.usefixtures("home")
def test_a_patient_has_one_pseudonym_and_one_date_shift() -> None:
    first = identity_columns(row(patient_id="Doe 1", study_date="2024-03-01"), scan(), "a" * 64)
    later = identity_columns(row(patient_id="Doe 1", study_date="2024-03-31"), scan(), "b" * 64)
    assert first["patient"] == later["patient"] == first["cluster"]
    assert "Doe" not in str(first)
    interval = date.fromisoformat(later["study_date"]) - date.fromisoformat(first["study_date"])
    assert interval.days == 30 and first["study_date"] < "2024-03-01"
    assert first["case"] == f"{first['patient']}-{first['study_date']}" != later["case"]


@pytest.mark.usefixtures("home")
def test_without_a_date_a_volume_is_a_case_and_single_pictures_share_one() -> None:
    undated = row(patient_id="1")
    volumes = [identity_columns(undated, scan(24), digest * 64)["case"] for digest in "ab"]
    pictures = [identity_columns(undated, scan(), digest * 64)["case"] for digest in "ab"]
    assert volumes[0] != volumes[1] and pictures[0] == pictures[1]


@pytest.mark.usefixtures("home")
def test_a_group_is_the_cluster_and_replaces_an_unknown_patient() -> None:
    with_patient = identity_columns(row(patient_id="1", group="g"), scan(), "")
    without_patient = identity_columns(row(group="g"), scan(), "")
    assert with_patient["cluster"] == without_patient["cluster"] != with_patient["patient"]
    assert without_patient["patient"] not in ("", with_patient["patient"])


@pytest.mark.usefixtures("home")
def test_the_header_fills_empty_cells_of_the_table() -> None:
    columns = identity_columns(row(patient_id="1", sex="f"), scan(manufacturer="ACME", model="One"), "")
    assert (columns["scanner"], columns["sex"]) == ("ACME One", "F")


@pytest.mark.parametrize(("text", "years"), [("63", 63.0), ("063Y", 63.0), ("94", 90.0), ("008M", 0.67), ("", None)])
def test_ages_are_years_and_those_above_90_become_90(text: str, years: float | None) -> None:
    assert age_in_years(text) == years


@pytest.mark.parametrize("text", ["old", "-3", "nan", "1e999"])
def test_an_invalid_number_is_refused_with_its_column(text: str) -> None:
    with pytest.raises(Fault, match="lesion_mm"):
        parse_number(text, "lesion_mm")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("text", ["31.12.2024", "2024-02-30", "0001-01-01"])
def test_an_invalid_date_is_refused(text: str) -> None:
    with pytest.raises(Fault, match="not a date such as 2026-01-31"):
        shift_date(text, "someone")


@pytest.mark.parametrize(
    ("text", "years", "age_text"),
    [
        ("063Y", 63.0, "063Y"),
        ("63Y", 63.0, "063Y"),
        ("063", 63.0, "063Y"),
        (" 63 y ", 63.0, "063Y"),
        ("0063Y", 63.0, "063Y"),
        ("000Y", 0.0, "000Y"),
        ("018M", 1.5, "018M"),
        ("6m", 0.5, "006M"),
        ("026W", 0.5, "026W"),
        ("010D", 0.03, "010D"),
        ("1.5", 1.5, "018M"),
        ("63,5", 63.5, "762M"),
        ("85.5", 85.5, "086Y"),
        ("094Y", 90.0, "090Y"),
        ("1200M", 90.0, "090Y"),
        ("89Y", 89.0, "089Y"),
        ("ANON", None, ""),
        ("N/A", None, ""),
        ("", None, ""),
        ("-3", None, ""),
        ("nan", None, ""),
        ("999Y", None, ""),
        ("old", None, ""),
        ("63 years", None, ""),
        ("1e3", None, ""),
    ],
)
def test_an_age_is_read_in_every_spelling(text: str, years: float | None, age_text: str) -> None:
    assert age_in_years(text) == years and age_string(text) == age_text
    assert age_in_years(age_string(text)) == (None if years is None else pytest.approx(years, abs=0.6))


@pytest.mark.usefixtures("home")
def test_for_an_invalid_age_in_the_table_the_header_counts() -> None:
    assert identity_columns(row(patient_id="1", age="old"), scan(age="018M"), "")["age"] == 1.5
    assert identity_columns(row(patient_id="1", age="old"), scan(age="ANON"), "")["age"] is None
    assert identity_columns(row(patient_id="1", age="40"), scan(age="018M"), "")["age"] == 40.0


@pytest.mark.usefixtures("home")
def test_ages_in_the_manifest_equal_those_in_the_stored_copies(real_data: Path, tmp_path: Path, lung: Task) -> None:
    source = Path(shutil.copytree(real_data / "intake-faults" / "patient-age", tmp_path / "batch"))
    indexed = index_batch(source, tmp_path / "staging", lung)
    assert not indexed.refused
    ages = [None if value != value else value for value in indexed.manifest["age"].tolist()]
    assert ages == [None, 63.0, 63.0, 0.0, 0.5, None, None, 1.5, 63.0]
    for file, value in zip(indexed.manifest["file"], ages, strict=True):
        stored = str(pydicom.dcmread(tmp_path / "staging" / file).get("PatientAge") or "")
        assert age_in_years(stored) == value
    text = (source / "metadata.csv").read_text().replace("truth\n", "truth,age\n").replace("reader\n", "reader,old\n")
    (source / "metadata.csv").write_text(text)
    assert any("no age in the column age" in remark for remark in read_with_remarks(source)[1])
