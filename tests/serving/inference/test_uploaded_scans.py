"""Scans with names in their headers: answer, reasons and journal contain no names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.core_types import Modality, Scan, ValueUnit
from data.phantom import files as phantom_files
from data.phantom import scanner
from data.phantom import study as phantom_study
from data.scan.slice_features import FACTS
from lineage.errors import Fault
from serving.inference import uploaded_scans
from serving.inference.request import Upload
from tests.pipelines import planted_identities
from tests.pipelines.running_workspace import images
from tests.serving import hostile_inputs
from tests.serving.brain_task import BRAIN


@pytest.fixture
def slices() -> list[bytes]:
    """Two slices whose manufacturer and kernel fields repeat the patient's name and number."""
    return images(BRAIN, 9, 1, ["tumour", "tumour"])


def leaked_secrets(text: str) -> set[str]:
    return {secret for secret in planted_identities.SECRETS if secret.casefold() in text.casefold()}


@pytest.mark.parametrize("packed", [True, False])
def test_header_texts_that_repeat_the_patient_are_emptied(slices: list[bytes], packed: bool) -> None:
    archive = [Upload("0.zip", planted_identities.zipped(*slices))]
    files = archive if packed else [Upload(f"{number}.dcm", content) for number, content in enumerate(slices)]
    scan = uploaded_scans.read_scans(files)[0]
    assert len(scan.pixels) == 2 and scan.patient_id == planted_identities.MRN
    described = uploaded_scans.describe_slices([scan], files, [0])[0]
    assert leaked_secrets(json.dumps(described)) == set() and described["manufacturer"] == described["kernel"] == ""
    assert described["body_part"] == "BRAIN" and set(FACTS) <= set(described)


def test_header_texts_that_repeat_only_the_file_name_are_emptied_too(slices: list[bytes], tmp_path: Path) -> None:
    study = phantom_study.make_study(BRAIN, scanner.SCANNERS["alder-mr"], 9, 1, "tumour")
    pixels, pixel = study.slice(0, 1)
    content = phantom_files.dicom(study, pixels, pixel, 0, modality=Modality.MR)
    header = planted_identities.read_dicom(content)
    header.Manufacturer = f"ACME for {planted_identities.NAME}"
    files = [Upload(f"{planted_identities.NAME}.dcm", planted_identities.dicom_bytes(header))]
    scan = uploaded_scans.read_scans(files)[0]
    assert scan.header["manufacturer"].startswith("ACME"), "nothing in the header itself marks it as a name"
    assert uploaded_scans.describe_slices([scan], files, [0])[0]["manufacturer"] == ""
    renamed = [Upload("a.dcm", files[0].content)]
    described = uploaded_scans.describe_slices([scan], renamed, [0])[0]
    assert described["manufacturer"] == f"ACME for {planted_identities.NAME}"


def test_files_of_two_patients_and_no_file_at_all_are_refused(slices: list[bytes]) -> None:
    header = planted_identities.read_dicom(slices[1])
    header.PatientID = "another"
    with pytest.raises(Fault, match="different patients"):
        uploaded_scans.read_scans([Upload("a.dcm", slices[0]), Upload("b.dcm", planted_identities.dicom_bytes(header))])
    with pytest.raises(Fault, match="no file was sent"):
        uploaded_scans.read_scans([])


def test_hidden_system_files_are_ignored(slices: list[bytes]) -> None:
    files = [Upload("a.dcm", slices[0]), Upload("._a.dcm", b"x"), Upload(".DS_Store", b"x"), Upload("b.dcm", slices[1])]
    assert len(uploaded_scans.read_scans(files)[0].pixels) == 2
    with pytest.raises(Fault, match="no file was sent"):
        uploaded_scans.read_scans([Upload("._a.dcm", slices[0])])


def test_files_with_the_same_patient_id_but_other_birth_dates_are_refused(slices: list[bytes]) -> None:
    first, second = (planted_identities.read_dicom(content) for content in slices)
    first.PatientID = second.PatientID = "ANON"
    second.PatientBirthDate = "19010203"
    with pytest.raises(Fault, match="are of different patients by their birth date"):
        uploaded_scans.read_scans(
            [
                Upload("a.dcm", planted_identities.dicom_bytes(first)),
                Upload("b.dcm", planted_identities.dicom_bytes(second)),
            ]
        )


def test_files_without_a_series_uid_are_not_combined(slices: list[bytes]) -> None:
    first, second = (planted_identities.read_dicom(content) for content in slices)
    del first.SeriesInstanceUID, second.SeriesInstanceUID
    with pytest.raises(Fault, match="has no series UID, so its series is unknown"):
        uploaded_scans.read_scans(
            [
                Upload("a.dcm", planted_identities.dicom_bytes(first)),
                Upload("b.dcm", planted_identities.dicom_bytes(second)),
            ]
        )


def test_a_header_that_cannot_be_parsed_is_named(slices: list[bytes]) -> None:
    """pydicom parses a value at its first use: here one with a value representation that does not exist."""
    position = slices[0].index(b"\x08\x00\x90\x00PN")
    broken = slices[0][: position + 4] + b"XN" + slices[0][position + 6 :]
    with pytest.raises(Fault, match=r"^a\.dcm: .*export it again"):
        uploaded_scans.read_scans([Upload("a.dcm", broken)])
    with pytest.raises(Fault, match=r"^s\.zip: .*\.dcm: .*export it again"):
        uploaded_scans.read_scans([Upload("s.zip", planted_identities.zipped(broken, slices[1]))])


def test_decoded_sizes_are_added_up_and_a_long_row_is_not_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploaded_scans.size_limits, "DECODED_BYTES", 3_000_000)
    picture = hostile_inputs.picture(600, 600)
    assert len(uploaded_scans.read_scans([Upload(f"{number}.png", picture) for number in range(2)])) == 2
    with pytest.raises(Fault, match=r"^2\.png: with this file the upload is over 2 MiB decoded"):
        uploaded_scans.read_scans([Upload(f"{number}.png", picture) for number in range(3)])
    with pytest.raises(Fault, match=r"^row\.png: the header declares 2000×2000"):
        uploaded_scans.read_scans([Upload("row.png", hostile_inputs.picture(2000, 1))])


def test_slices_of_a_single_file_have_the_numbers_of_the_file() -> None:
    scan = Scan("a", np.zeros((3, 4, 4), np.float32), ValueUnit.RAW, None, None, order=(2, 1, 0))
    assert [uploaded_scans.slice_number([scan], index) for index in range(3)] == [2, 1, 0]
    assert uploaded_scans.slice_number([replace(scan, order=())], 1) == 1
    assert uploaded_scans.slice_number([scan, scan], 4) == 4
