"""A scan that names people in what is kept of it: the answer, its reasons and the journal stay silent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import phantom
from data.describe import FACTS
from data.record import Modality, PixelSettings, Pooling, Scan, Task, Units
from lineage.fault import Fault
from serving import upload
from serving.request import Upload
from tests.pipelines import planted
from tests.pipelines.ward import images

from . import enemy

BRAIN = Task(
    name="brain-mr", title="Brain", organ="brain", modality=Modality.MR, body_parts=("BRAIN",),
    classes=("no_tumour", "tumour"), positive=("tumour",), unit="slice", cluster="patient", ordered=False,
    pixels=PixelSettings(64, None), pooling=Pooling("topk", 3), sensitivity=0.9, note="",
)  # fmt: skip


@pytest.fixture
def slices() -> list[bytes]:
    """Two slices whose manufacturer and kernel repeat the patient's name and number, as their headers spell them."""
    return images(BRAIN, 9, 1, ["tumour", "tumour"])


def secrets(text: str) -> set[str]:
    return {secret for secret in planted.SECRETS if secret.casefold() in text.casefold()}


@pytest.mark.parametrize("packed", [True, False])
def test_facts_that_repeat_the_patient_are_emptied(slices: list[bytes], packed: bool) -> None:
    raw = [Upload("0.zip", planted.zipped(*slices))]
    files = raw if packed else [Upload(f"{number}.dcm", content) for number, content in enumerate(slices)]
    scan = upload.scans(files)[0]
    assert len(scan.pixels) == 2 and scan.patient_id == planted.MRN
    kept = upload.description(scan.pixels[0], scan, files)
    assert secrets(json.dumps(kept)) == set() and kept["manufacturer"] == kept["kernel"] == ""
    assert kept["body_part"] == "BRAIN" and set(FACTS) <= set(kept)


def test_what_only_the_file_name_knows_is_not_kept_either(slices: list[bytes], tmp_path: Path) -> None:
    study = phantom.study(BRAIN, phantom.SCANNERS["alder-mr"], 9, 1, "tumour")
    pixels, pixel = study.slice(0, 1)
    content = phantom.phantom_files.dicom(study, pixels, pixel, 0, modality=Modality.MR)
    header = planted.image(content)
    header.Manufacturer = f"ACME for {planted.NAME}"
    files = [Upload(f"{planted.NAME}.dcm", planted.stored(header))]
    scan = upload.scans(files)[0]
    assert scan.header["manufacturer"].startswith("ACME"), "nothing in the header itself says that it is a name"
    assert upload.description(scan.pixels[0], scan, files)["manufacturer"] == ""
    same = [Upload("a.dcm", files[0].content)]
    assert upload.description(scan.pixels[0], scan, same)["manufacturer"] == f"ACME for {planted.NAME}"


def test_files_of_two_patients_and_no_file_at_all_are_refused(slices: list[bytes]) -> None:
    header = planted.image(slices[1])
    header.PatientID = "another"
    with pytest.raises(Fault, match="different patients"):
        upload.scans([Upload("a.dcm", slices[0]), Upload("b.dcm", planted.stored(header))])
    with pytest.raises(Fault, match="no file was sent"):
        upload.scans([])


def test_files_that_a_system_left_behind_are_passed_over(slices: list[bytes]) -> None:
    files = [Upload("a.dcm", slices[0]), Upload("._a.dcm", b"x"), Upload(".DS_Store", b"x"), Upload("b.dcm", slices[1])]
    assert len(upload.scans(files)[0].pixels) == 2
    with pytest.raises(Fault, match="no file was sent"):
        upload.scans([Upload("._a.dcm", slices[0])])


def test_one_number_for_all_does_not_make_them_one_person(slices: list[bytes]) -> None:
    one, other = (planted.image(content) for content in slices)
    one.PatientID = other.PatientID = "ANON"
    other.PatientBirthDate = "19010203"
    with pytest.raises(Fault, match="are of different patients by their birth date"):
        upload.scans([Upload("a.dcm", planted.stored(one)), Upload("b.dcm", planted.stored(other))])


def test_files_without_a_series_uid_are_not_put_together(slices: list[bytes]) -> None:
    one, other = (planted.image(content) for content in slices)
    del one.SeriesInstanceUID, other.SeriesInstanceUID
    with pytest.raises(Fault, match="has no series UID, so nobody knows what belongs with it"):
        upload.scans([Upload("a.dcm", planted.stored(one)), Upload("b.dcm", planted.stored(other))])


def test_a_header_that_breaks_when_it_is_read_is_named(slices: list[bytes]) -> None:
    """pydicom looks at a value when it is asked for: here one whose kind does not exist."""
    at = slices[0].index(b"\x08\x00\x90\x00PN")
    broken = slices[0][: at + 4] + b"XN" + slices[0][at + 6 :]
    with pytest.raises(Fault, match=r"^a\.dcm: .*export it again"):
        upload.scans([Upload("a.dcm", broken)])
    with pytest.raises(Fault, match=r"^s\.zip: .*\.dcm: .*export it again"):
        upload.scans([Upload("s.zip", planted.zipped(broken, slices[1]))])


def test_files_are_counted_together_and_a_long_row_is_not_squared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload.limits, "DECODED_BYTES", 3_000_000)
    one = enemy.picture(600, 600)
    assert len(upload.scans([Upload(f"{at}.png", one) for at in range(2)])) == 2
    with pytest.raises(Fault, match=r"^2\.png: with it the files are over 2 MiB decoded"):
        upload.scans([Upload(f"{at}.png", one) for at in range(3)])
    with pytest.raises(Fault, match=r"^row\.png: the header declares 2000×2000"):
        upload.scans([Upload("row.png", enemy.picture(2000, 1))])


def test_slices_of_one_file_have_its_numbers() -> None:
    one = Scan("a", np.zeros((3, 4, 4), np.float32), Units.RAW, None, None, order=(2, 1, 0))
    assert [upload.number([one], at) for at in range(3)] == [2, 1, 0]
    assert upload.number([replace(one, order=())], 1) == 1
    assert upload.number([one, one], 4) == 4
