"""Contradictions between the patient ids of a table and the identities in DICOM headers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest

from data.batch.manifest import IndexedBatch, index_batch, read_manifest
from data.batch.metadata_table import read_metadata
from data.core_types import HeaderIdentity, Task
from data.duplicates.admitted_units import find_related_units
from data.patients.contradictions import SIGNS
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.quality.gate import admit
from data.quality.leakage import Findings, check_leakage
from data.quality.suite import Validation
from data.scan.dicom import header_identity
from data.settings import IngestSettings
from lineage.errors import Fault
from lineage.record.verdict import Outcome

CLEAN = Validation(True, (), [], [], Path("page"), {})
Edit = Callable[[Callable[[list[dict[str, str]]], list[dict[str, str]] | None]], None]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory, lung: Task) -> Path:
    """Scans and table of six patients, two slices each."""
    folder = tmp_path_factory.mktemp("phantoms")
    phantom_batch.write_batch(folder, lung, 6, study.usual_scanner(lung), seed=1, slices=2)
    return folder


@pytest.fixture
def batch(home: Path, phantoms: Path) -> Path:
    """A copy of the phantoms in the inbox."""
    return Path(shutil.copytree(phantoms, home.parent / "inbox" / "first"))


def change_headers(folder: Path, change: Callable[[Any, int], None]) -> None:
    """Change the header of every DICOM file of a folder; the number counts patients, two files each."""
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        header = pydicom.dcmread(path)
        change(header, number // 2)
        header.save_as(path)


def judge(folder: Path, lung: Task, ingest: IngestSettings) -> tuple[Findings, Any]:
    """The findings of the leakage checks in a batch, and the gate's verdict on it."""
    indexed = index_batch(folder, folder.parent.parent / "staging" / folder.name, lung)
    findings = check_leakage(indexed.manifest, pd.DataFrame(), ingest, indexed.rows)
    verdict, _ = admit("b", CLEAN, findings, indexed.refused, len(indexed.manifest), ingest)
    return findings, verdict


def shift_ids(rows: list[dict[str, str]]) -> None:
    """Shift the column patient_id by one row."""
    ids = [row["patient_id"] for row in rows]
    for row, identity in zip(rows, [*ids[1:], ids[0]], strict=True):
        row["patient_id"] = identity


@pytest.mark.usefixtures("home")
def test_a_table_with_shifted_rows_stops_the_batch(
    real_data: Path, tmp_path: Path, lung: Task, ingest: IngestSettings
) -> None:
    shutil.copytree(real_data / "intake-faults" / "table-slipped-by-one-row", tmp_path / "inbox" / "slipped")
    findings, verdict = judge(tmp_path / "inbox" / "slipped", lung, ingest)
    assert verdict.outcome is Outcome.FAIL and len(findings.failing) == 8
    assert "the table's rows do not match their scans" in verdict.reasons[0]
    assert "rows 2, 3, 4, 5, 6 and 3 more" in verdict.reasons[0]
    assert "HOSP" not in str(verdict) and "Person" not in str(verdict)


def test_pseudonyms_of_the_hospital_are_accepted_if_they_are_one_to_one(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    edit(lambda rows: [row | {"patient_id": f"X{number // 2}"} for number, row in enumerate(rows)])
    assert judge(batch, lung, ingest)[0].failing == {}
    edit(shift_ids)
    findings, verdict = judge(batch, lung, ingest)
    assert len(findings.failing) == 12 and verdict.outcome is Outcome.FAIL


def test_one_wrong_row_stops_only_its_two_patients(batch: Path, lung: Task, ingest: IngestSettings, edit: Edit) -> None:
    edit(
        lambda rows: [
            row | ({"patient_id": rows[2]["patient_id"]} if index == 1 else {}) for index, row in enumerate(rows)
        ]
    )
    findings, _ = judge(batch, lung, ingest)
    assert len(findings.failing) == 4 and not findings.errors
    assert any("contradict each other in rows 2, 3, 4, 5" in warning for warning in findings.warnings)
    assert findings.figures["patient_contradictions"] == 1


def test_shifted_rows_are_detected_if_every_patient_has_one_scan(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    """Table and headers use the same ids, each once: the mapping is one-to-one and still wrong."""
    edit(lambda rows: rows[::2])
    assert judge(batch, lung, ingest)[0].failing == {}
    edit(shift_ids)
    findings, verdict = judge(batch, lung, ingest)
    assert len(findings.failing) == 6 and verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize("constant", ["", "ANON", "0", "Anonymous", "000000", "n/a", "SITE1"])
def test_constants_of_an_anonymiser_fail_no_unit(
    batch: Path, lung: Task, ingest: IngestSettings, constant: str
) -> None:
    def blank(header: Any, _patient: int) -> None:
        header.PatientID, header.PatientName, header.PatientBirthDate = constant, "ANON", ""

    change_headers(batch, blank)
    findings = judge(batch, lung, ingest)[0]
    assert findings.failing == {}
    assert any("every scan has the same PatientID" in text for text in findings.warnings) == (constant == "SITE1")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_one_study_under_two_patients_fails_for_any_ids(
    batch: Path, lung: Task, ingest: IngestSettings, keyword: str
) -> None:
    def share_uid(header: Any, patient: int) -> None:
        header.PatientID, header.PatientName, header.PatientBirthDate = "ANON", "ANON", ""
        if patient < 2:
            setattr(header, keyword, "1.2.3.4")

    change_headers(batch, share_uid)
    findings = judge(batch, lung, ingest)[0]
    assert len(findings.failing) == 4
    assert all(texts[-1].startswith("one person of the DICOM headers is two") for texts in findings.failing.values())


def test_a_constant_frame_of_reference_is_ignored(batch: Path, lung: Task, ingest: IngestSettings) -> None:
    change_headers(batch, lambda header, _: setattr(header, "FrameOfReferenceUID", "1.2.3.4"))
    findings = judge(batch, lung, ingest)[0]
    assert findings.failing == {} and any("same frame of reference" in text for text in findings.warnings)
    change_headers(batch, lambda header, _: setattr(header, "FrameOfReferenceUID", "1.2.840.10008.1.4.1.1"))
    assert judge(batch, lung, ingest)[0].failing == {}


def test_names_and_birth_dates_are_compared_without_ids(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    change_headers(batch, lambda header, _: setattr(header, "PatientID", "ANON"))
    assert judge(batch, lung, ingest)[0].failing == {}
    edit(shift_ids)
    assert len(judge(batch, lung, ingest)[0].failing) == 12


def test_two_birth_dates_under_one_id_of_the_table_fail(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    def blank(header: Any, patient: int) -> None:
        header.PatientID = header.PatientName = ""
        header.PatientBirthDate = f"195{patient}0203"

    change_headers(batch, blank)
    assert judge(batch, lung, ingest)[0].failing == {}
    edit(
        lambda rows: [
            row | ({"patient_id": rows[0]["patient_id"]} if index < 4 else {}) for index, row in enumerate(rows)
        ]
    )
    findings = judge(batch, lung, ingest)[0]
    assert len(findings.failing) == 4 and "by name or birth date" in next(iter(findings.failing.values()))[0]


def test_groups_are_compared_like_patients(batch: Path, lung: Task, ingest: IngestSettings, edit: Edit) -> None:
    edit(lambda rows: [row | {"patient_id": "", "group": f"G{index // 2}"} for index, row in enumerate(rows)])
    assert judge(batch, lung, ingest)[0].failing == {}
    edit(lambda rows: [row | {"group": f"G{(index + 1) // 2}"} for index, row in enumerate(rows)])
    assert len(judge(batch, lung, ingest)[0].failing) == 12


def test_a_group_of_several_patients_is_no_contradiction(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    edit(lambda rows: [row | {"group": f"G{index // 4}"} for index, row in enumerate(rows)])
    assert judge(batch, lung, ingest)[0].failing == {}


def admitted(batch: Path, lung: Task) -> pd.DataFrame:
    """The manifest of the batch as an admitted one."""
    target = batch.parent.parent / "admitted" / "first"
    return index_batch(batch, target, lung).manifest


def make_later(batch: Path, edit: Edit) -> None:
    """Turn the scans of the batch into later ones: other pixels, and only the first row of each patient."""
    edit(lambda rows: rows[::2])
    for path in batch.glob("*.dcm"):
        header = pydicom.dcmread(path)
        pixels = header.pixel_array.copy()
        pixels[:, ::-1] = pixels + 7
        header.PixelData = pixels.tobytes()
        header.SOPInstanceUID += ".1"
        header.save_as(path)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({}, ""),
        ({"patient_id": "another"}, "one person of the DICOM headers is two patients"),
        ({"patient_id": "as in the second row"}, "one person of the DICOM headers is two patients"),
    ],
)
def test_admitted_batches_are_compared_too(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit, cells: dict[str, str], words: str
) -> None:
    before = admitted(batch, lung)
    ids = read_metadata(batch)["patient_id"].drop_duplicates().tolist()
    make_later(batch, edit)
    cells = {name: cell.replace("as in the second row", ids[1]) for name, cell in cells.items()}
    edit(lambda rows: [rows[0] | cells])
    folder = batch.parent.parent / "admitted"
    new = index_batch(batch, batch.parent.parent / "staging" / "second", lung)
    related_units = find_related_units(folder, batch.parent.parent / "known", new.manifest)
    findings = check_leakage(new.manifest, related_units, ingest, new.rows)
    assert check_leakage(new.manifest, before, ingest, new.rows).failing == findings.failing
    reasons = [reason for texts in findings.failing.values() for reason in texts if "DICOM headers" in reason]
    assert len(reasons) == bool(words) and all(words in reason for reason in reasons)


@pytest.mark.parametrize("spelling", ["0{}", "{} .", "{}.0", "\uff10{}", "-{}"])
def test_another_spelling_than_in_an_admitted_batch_fails(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit, spelling: str
) -> None:
    change_headers(batch, lambda header, _: setattr(header, "PatientID", ""))
    edit(lambda rows: [row | {"patient_id": str(7 + index // 2)} for index, row in enumerate(rows)])
    before = admitted(batch, lung)
    make_later(batch, edit)
    for path in batch.glob("*.dcm"):
        header = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(header, keyword, getattr(header, keyword) + ".1")
        header.PatientName = header.PatientBirthDate = ""
        header.save_as(path)
    edit(lambda rows: [rows[0] | {"patient_id": spelling.format(7)}])
    new = index_batch(batch, batch.parent.parent / "staging" / "second", lung)
    reasons = next(iter(check_leakage(new.manifest, before, ingest, new.rows).failing.values()))
    assert any("the id of one patient is spelt in two ways" in reason for reason in reasons)


def test_an_older_manifest_without_signs_stops_nothing(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    old = admitted(batch, lung).drop(columns=list(SIGNS))
    make_later(batch, edit)
    new = index_batch(batch, batch.parent.parent / "staging" / "second", lung)
    reasons = [reason for texts in check_leakage(new.manifest, old, ingest).failing.values() for reason in texts]
    assert not [reason for reason in reasons if "person" in reason or "spelt" in reason]


def test_no_sign_in_the_manifest_is_an_identity(batch: Path, lung: Task) -> None:
    manifest = admitted(batch, lung)
    header = header_identity.read_identity(pydicom.dcmread(next(batch.glob("*.dcm"))))
    manifest_text = (batch.parent.parent / "admitted" / "first" / "manifest.csv").read_text()
    absent = ["header_others", "group_spelling"]
    assert (manifest[list(SIGNS)].drop(columns=absent) != "").all(axis=None)
    assert not [value for value in vars(header).values() if value and value in manifest_text]
    assert read_manifest(batch.parent.parent / "admitted" / "first" / "manifest.csv")[SIGNS[0]].notna().all()


def test_ids_that_differ_in_spelling_are_refused_with_their_rows(real_data: Path) -> None:
    with pytest.raises(Fault) as caught:
        read_metadata(real_data / "intake-faults" / "patient-id-spelling")
    assert "in rows 2 and 3, rows 4 and 5, rows 6 and 7, rows 8 and 9, rows 10 and 11;" in str(caught.value)
    assert "patient_id differs in its spelling alone" in str(caught.value) and "ller" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("7", "007"),
        ("12", "12.0"),
        ("12", "12,0"),
        ("A3", "a3"),
        ("A3", "A 3"),
        ("A3", "A\u00a03"),
        ("A3", "A-3"),
        ("A3", "A_03"),
        ("M\u00fcller-1", "Mu\u0308ller-1"),
        ("M\u00fcller", "MULLER"),
        ("A3", "\uff21\uff13"),
        ("A3", "A3\u200b"),
        ("7", "\u0667"),
        ("1-11", "1_11"),
        ("stra\u00dfe1", "STRASSE1"),
        ("P 0042", "p42"),
    ],
)
def test_ids_that_differ_in_spelling_are_one(first: str, second: str) -> None:
    assert header_identity.fold_id(first) == header_identity.fold_id(second)
    assert header_identity.spelling_variants(["x", first, first, second]) == [[1, 3]]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1-11", "11-1"),
        ("A1", "A10"),
        ("100", "1"),
        ("1.5", "15"),
        ("A1", "B1"),
        ("1-11", "111"),
        ("7", "70"),
        ("-", "_"),
    ],
)
def test_ids_that_differ_in_more_are_two(first: str, second: str) -> None:
    assert header_identity.fold_id(first) != header_identity.fold_id(second)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (HeaderIdentity("7 "), HeaderIdentity("007"), ""),
        (HeaderIdentity("7"), HeaderIdentity("8"), "patient"),
        (HeaderIdentity("7"), HeaderIdentity(""), "patient"),
        (HeaderIdentity("A", "Doe^Jane"), HeaderIdentity("A", "DOE^JANE^^"), ""),
        (HeaderIdentity("A", "Doe^Jane"), HeaderIdentity("A", "Roe^Jane"), "name"),
        (HeaderIdentity("A", "ANON"), HeaderIdentity("A", "Roe^Jane"), ""),
        (HeaderIdentity("A", "", "19500101"), HeaderIdentity("A", "", "1950.01.02"), "birth date"),
    ],
)
def test_a_difference_names_what_shows_two_people(first: HeaderIdentity, second: HeaderIdentity, expected: str) -> None:
    assert (
        header_identity.identity_difference(first, second)
        == header_identity.identity_difference(second, first)
        == expected
    )


def later(batch: Path, lung: Task, edit: Edit, **cells: str) -> IndexedBatch:
    """The first scan of the batch as that of a later examination, with other cells of the table."""
    make_later(batch, edit)
    for path in batch.glob("*.dcm"):
        header = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(header, keyword, getattr(header, keyword) + ".1")
        header.save_as(path)
    edit(lambda rows: [rows[0] | cells])
    return index_batch(batch, batch.parent.parent / "staging" / "second", lung)


def joined_reasons(findings: Findings) -> str:
    return " ".join(reason for texts in findings.failing.values() for reason in texts)


@pytest.mark.parametrize("in_sequence", [False, True])
def test_another_number_of_the_header_joins_two_patients_of_the_table(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit, in_sequence: bool
) -> None:
    def set_numbers(header: Any, number: int) -> None:
        header.PatientName = header.PatientBirthDate = ""
        if number == 1:
            header.PatientID = "MRN-B-77"
        elif number == 0 and in_sequence:
            item = pydicom.Dataset()
            item.PatientID = "mrn b 077"
            header.OtherPatientIDsSequence = [item]
        elif number == 0:
            header.OtherPatientIDs = ["x", "MRN-B-77"]

    change_headers(batch, set_numbers)
    findings = judge(batch, lung, ingest)[0]
    assert len(findings.failing) == 4 and "one person of the DICOM headers is two patients" in joined_reasons(findings)
    first_id = read_metadata(batch)["patient_id"].iloc[0]
    edit(lambda rows: [row | {"patient_id": first_id} if index < 4 else row for index, row in enumerate(rows)])
    assert judge(batch, lung, ingest)[0].failing == {}


def test_other_numbers_of_an_insurance_join_no_patients(batch: Path, lung: Task, ingest: IngestSettings) -> None:
    change_headers(batch, lambda header, number: setattr(header, "OtherPatientIDs", f"AOK-{number // 3}"))
    findings = judge(batch, lung, ingest)[0]
    assert findings.failing == {} and any("other patient IDs of the headers" in text for text in findings.warnings)


def test_another_number_is_compared_with_admitted_batches(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    before = admitted(batch, lung)
    first_id = pydicom.dcmread(sorted(batch.glob("*.dcm"))[0]).PatientID

    def change_number(header: Any, _: int) -> None:
        header.PatientID, header.OtherPatientIDs, header.PatientName, header.PatientBirthDate = "Z-9", first_id, "", ""

    change_headers(batch, change_number)
    new = later(batch, lung, edit, patient_id="Z-9")
    related_units = find_related_units(batch.parent.parent / "admitted", batch.parent.parent / "known", new.manifest)
    for table in (before, related_units):
        assert "is two patients of the table" in joined_reasons(check_leakage(new.manifest, table, ingest, new.rows))


def test_one_number_of_two_hospitals_is_two_people(batch: Path, lung: Task, ingest: IngestSettings, edit: Edit) -> None:
    before = admitted(batch, lung)
    change_headers(
        batch, lambda header, _: header.update({"PatientName": "Somebody^Else", "PatientBirthDate": "19010203"})
    )
    new = later(batch, lung, edit, patient_id="B-1")
    findings = check_leakage(new.manifest, before, ingest, new.rows)
    assert "DICOM headers" not in joined_reasons(findings)
    assert any("people of other names and birth dates: 1" in text for text in findings.warnings)


@pytest.mark.parametrize("same", ["PatientName", "PatientBirthDate", "neither is there"])
def test_one_number_with_one_name_or_birth_date_is_one_person(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit, same: str
) -> None:
    before = admitted(batch, lung)
    changes = {"PatientName": "Somebody^Else", "PatientBirthDate": "19010203"}
    changes.pop(same, "")
    changes = changes if len(changes) == 1 else dict.fromkeys(changes, "")
    change_headers(batch, lambda header, _: header.update(changes))
    new = later(batch, lung, edit, patient_id="B-1")
    assert "is two patients of the table" in joined_reasons(check_leakage(new.manifest, before, ingest, new.rows))


def test_a_group_spelt_differently_than_in_an_admitted_batch_fails(
    batch: Path, lung: Task, ingest: IngestSettings, edit: Edit
) -> None:
    edit(lambda rows: [row | {"group": f"Family {index // 4}"} for index, row in enumerate(rows)])
    before = admitted(batch, lung)
    change_headers(batch, lambda header, _: header.update({"PatientID": "", "PatientName": "", "PatientBirthDate": ""}))
    new = later(batch, lung, edit, patient_id="sister", group="family-00")
    related_units = find_related_units(batch.parent.parent / "admitted", batch.parent.parent / "known", new.manifest)
    for table in (before, related_units):
        assert "the group of its patient is spelt in two ways" in joined_reasons(
            check_leakage(new.manifest, table, ingest, new.rows)
        )


@pytest.mark.parametrize(
    ("first", "second"),
    [("А123", "A123"), ("ΡΟ12", "PO12"), ("HASTI1", "hastı1"), ("Łuk7", "LUK7"), ("КОТ-01", "KOT1")],
)
def test_look_alike_letters_of_another_script_give_the_same_id(first: str, second: str) -> None:
    assert header_identity.spelling_variants([first, second]) == [[0, 1]]


def test_a_patient_of_both_sexes_gets_a_warning(batch: Path, lung: Task, ingest: IngestSettings, edit: Edit) -> None:
    edit(lambda rows: [row | {"sex": "F"} for row in rows])
    assert not any("sexes" in text for text in judge(batch, lung, ingest)[0].warnings)
    edit(lambda rows: [row | {"sex": "FM"[index % 2]} for index, row in enumerate(rows)])
    assert any(
        "patients of both sexes, who may be two people: 6" in text for text in judge(batch, lung, ingest)[0].warnings
    )
