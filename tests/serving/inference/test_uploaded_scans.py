"""A scan that names people in what is kept of it: the answer, its reasons and the journal stay silent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.phantom import files as phantom_files
from data.phantom import scanner
from data.phantom import study as phantom_study
from data.record import Modality, PixelSettings, Pooling, Scan, Task, ValueUnit
from data.scan.slice_features import FACTS
from lineage.errors import Fault
from serving.inference import uploaded_scans
from serving.inference.request import Upload
from tests.pipelines import planted_identities
from tests.pipelines.running_workspace import images
from tests.serving import hostile_inputs

BRAIN = Task(
    name="brain-mr",
    title="Brain",
    organ="brain",
    modality=Modality.MR,
    body_parts=("BRAIN",),
    classes=("no_tumour", "tumour"),
    positive=("tumour",),
    unit="slice",
    cluster="patient",
    ordered=False,
    pixels=PixelSettings(64, None),
    pooling=Pooling("topk", 3),
    sensitivity=0.9,
    note="",
)


@pytest.fixture
def slices() -> list[bytes]:
    """Two slices whose manufacturer and kernel repeat the patient's name and number, as their headers spell them."""
    return images(BRAIN, 9, 1, ["tumour", "tumour"])


def secrets(text: str) -> set[str]:
    return {secret for secret in planted_identities.SECRETS if secret.casefold() in text.casefold()}


@pytest.mark.parametrize("packed", [True, False])
def test_facts_that_repeat_the_patient_are_emptied(slices: list[bytes], packed: bool) -> None:
    raw = [Upload("0.zip", planted_identities.zipped(*slices))]
    files = raw if packed else [Upload(f"{number}.dcm", content) for number, content in enumerate(slices)]
    scan = uploaded_scans.scans(files)[0]
    assert len(scan.pixels) == 2 and scan.patient_id == planted_identities.MRN
    kept = uploaded_scans.description(scan.pixels[0], scan, files)
    assert secrets(json.dumps(kept)) == set() and kept["manufacturer"] == kept["kernel"] == ""
    assert kept["body_part"] == "BRAIN" and set(FACTS) <= set(kept)


def test_what_only_the_file_name_knows_is_not_kept_either(slices: list[bytes], tmp_path: Path) -> None:
    study = phantom_study.make_study(BRAIN, scanner.SCANNERS["alder-mr"], 9, 1, "tumour")
    pixels, pixel = study.slice(0, 1)
    content = phantom_files.dicom(study, pixels, pixel, 0, modality=Modality.MR)
    header = planted_identities.read_dicom(content)
    header.Manufacturer = f"ACME for {planted_identities.NAME}"
    files = [Upload(f"{planted_identities.NAME}.dcm", planted_identities.dicom_bytes(header))]
    scan = uploaded_scans.scans(files)[0]
    assert scan.header["manufacturer"].startswith("ACME"), "nothing in the header itself says that it is a name"
    assert uploaded_scans.description(scan.pixels[0], scan, files)["manufacturer"] == ""
    same = [Upload("a.dcm", files[0].content)]
    assert (
        uploaded_scans.description(scan.pixels[0], scan, same)["manufacturer"] == f"ACME for {planted_identities.NAME}"
    )


def test_files_of_two_patients_and_no_file_at_all_are_refused(slices: list[bytes]) -> None:
    header = planted_identities.read_dicom(slices[1])
    header.PatientID = "another"
    with pytest.raises(Fault, match="different patients"):
        uploaded_scans.scans([Upload("a.dcm", slices[0]), Upload("b.dcm", planted_identities.dicom_bytes(header))])
    with pytest.raises(Fault, match="no file was sent"):
        uploaded_scans.scans([])


def test_files_that_a_system_left_behind_are_passed_over(slices: list[bytes]) -> None:
    files = [Upload("a.dcm", slices[0]), Upload("._a.dcm", b"x"), Upload(".DS_Store", b"x"), Upload("b.dcm", slices[1])]
    assert len(uploaded_scans.scans(files)[0].pixels) == 2
    with pytest.raises(Fault, match="no file was sent"):
        uploaded_scans.scans([Upload("._a.dcm", slices[0])])


def test_one_number_for_all_does_not_make_them_one_person(slices: list[bytes]) -> None:
    one, other = (planted_identities.read_dicom(content) for content in slices)
    one.PatientID = other.PatientID = "ANON"
    other.PatientBirthDate = "19010203"
    with pytest.raises(Fault, match="are of different patients by their birth date"):
        uploaded_scans.scans(
            [
                Upload("a.dcm", planted_identities.dicom_bytes(one)),
                Upload("b.dcm", planted_identities.dicom_bytes(other)),
            ]
        )


def test_files_without_a_series_uid_are_not_put_together(slices: list[bytes]) -> None:
    one, other = (planted_identities.read_dicom(content) for content in slices)
    del one.SeriesInstanceUID, other.SeriesInstanceUID
    with pytest.raises(Fault, match="has no series UID, so its series is unknown"):
        uploaded_scans.scans(
            [
                Upload("a.dcm", planted_identities.dicom_bytes(one)),
                Upload("b.dcm", planted_identities.dicom_bytes(other)),
            ]
        )


def test_a_header_that_breaks_when_it_is_read_is_named(slices: list[bytes]) -> None:
    """pydicom looks at a value when it is asked for: here one whose kind does not exist."""
    at = slices[0].index(b"\x08\x00\x90\x00PN")
    broken = slices[0][: at + 4] + b"XN" + slices[0][at + 6 :]
    with pytest.raises(Fault, match=r"^a\.dcm: .*export it again"):
        uploaded_scans.scans([Upload("a.dcm", broken)])
    with pytest.raises(Fault, match=r"^s\.zip: .*\.dcm: .*export it again"):
        uploaded_scans.scans([Upload("s.zip", planted_identities.zipped(broken, slices[1]))])


def test_files_are_counted_together_and_a_long_row_is_not_squared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploaded_scans.size_limits, "DECODED_BYTES", 3_000_000)
    one = hostile_inputs.picture(600, 600)
    assert len(uploaded_scans.scans([Upload(f"{at}.png", one) for at in range(2)])) == 2
    with pytest.raises(Fault, match=r"^2\.png: with it the files are over 2 MiB decoded"):
        uploaded_scans.scans([Upload(f"{at}.png", one) for at in range(3)])
    with pytest.raises(Fault, match=r"^row\.png: the header declares 2000×2000"):
        uploaded_scans.scans([Upload("row.png", hostile_inputs.picture(2000, 1))])


def test_slices_of_one_file_have_its_numbers() -> None:
    one = Scan("a", np.zeros((3, 4, 4), np.float32), ValueUnit.RAW, None, None, order=(2, 1, 0))
    assert [uploaded_scans.number([one], at) for at in range(3)] == [2, 1, 0]
    assert uploaded_scans.number([replace(one, order=())], 1) == 1
    assert uploaded_scans.number([one, one], 4) == 4
