"""A name in a coded field, or an id of a nested item in a stored text, reaches no answer, journal, log or copy."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from data.deidentify import deidentify_file as deidentify_dicom
from lineage import accounts, paths
from lineage.errors import Fault
from lineage.record import journal
from serving.bundle import bento_build
from serving.inference.answer import answer
from serving.inference.predict import Upload
from serving.inference.release import Release, load_release
from tests.serving.conftest import dicom, facts, manifest

NAME, MRN, ACCESSION, ORDER, DOCTOR = "QUILLFEATHER", "MRN77418529", "ACC88932147", "REQ55510987", "HEXELBARTH"
CODED = (
    "Modality",
    "BodyPartExamined",
    "BurnedInAnnotation",
    "ConvolutionKernel",
    "Laterality",
    "PatientPosition",
    "ScanOptions",
    "ScanningSequence",
    "SequenceVariant",
    "FilterType",
    "MRAcquisitionType",
    "RotationDirection",
    "ImageLaterality",
    "LossyImageCompression",
    "RecognizableVisualFeatures",
    "VOILUTFunction",
    "PresentationLUTShape",
    "SoftwareVersions",
    "Manufacturer",
    "ManufacturerModelName",
)
QUOTED = ("BodyPartExamined", "ConvolutionKernel", "Manufacturer", "ManufacturerModelName", "SoftwareVersions")


@pytest.fixture
def release(home: Path, tiny: Path) -> Release:
    accounts.add("eve", "clinician")
    tasks = {"tiny-mr": facts()}
    return load_release(bento_build.assemble(home / "releases" / "r1", manifest(**tasks), {"tiny-mr": tiny}))


def item(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def scan(changes: dict[str, Any]) -> bytes:
    """A usual slice with these attributes."""
    header = pydicom.dcmread(io.BytesIO(dicom(True)))
    for keyword, value in changes.items():
        setattr(header, keyword, value)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def all_outputs(release: Release, content: bytes, caplog: pytest.LogCaptureFixture) -> str:
    """All outputs for an upload: answer or refusal, with and without a task, journal, log, copy and database file."""
    outputs = []
    with caplog.at_level(logging.DEBUG):
        for task in ("tiny-mr", None):
            try:
                outputs.append(json.dumps(answer(release, [Upload("a.dcm", content)], task, "eve")))
            except Fault as fault:
                outputs.append(str(fault))
        try:
            copy = deidentify_dicom.deidentify_file("a.dcm", content, {"patient_id": "4"})[1]
            outputs += [copy.decode("latin-1"), str(pydicom.dcmread(io.BytesIO(copy)))]
        except Fault as fault:
            outputs.append(str(fault))
    outputs += [str(row) for row in journal.rows().to_dict("records")]
    outputs += [path.read_bytes().decode("latin-1") for path in paths.home().glob("oncoloop.db*")]
    return "\n".join([*outputs, caplog.text]).upper()


@pytest.mark.parametrize("keyword", CODED)
@pytest.mark.parametrize("text", [NAME, f"X{NAME}", "NG"])
def test_a_patients_name_in_a_coded_field_reaches_no_output(
    release: Release, caplog: pytest.LogCaptureFixture, keyword: str, text: str
) -> None:
    content = scan({"PatientName": f"{NAME}^NG", "PatientID": "P-4", keyword: text})
    outputs = all_outputs(release, content, caplog)
    if text == "NG":  # two letters occur in many words, so only separate words count
        words = {word for line in outputs.splitlines() for word in line.replace("'", '"').split('"')}
        assert "NG" not in words, keyword
    else:
        assert NAME not in outputs, keyword


@pytest.mark.parametrize("keyword", ["Modality", "BurnedInAnnotation", "Laterality"])
def test_a_text_outside_a_closed_list_of_terms_reaches_no_output(
    release: Release, caplog: pytest.LogCaptureFixture, keyword: str
) -> None:
    """Nothing else in the header marks it as a name."""
    outputs = all_outputs(release, scan({"PatientName": "", "PatientID": "P-4", keyword: DOCTOR}), caplog)
    assert DOCTOR not in outputs


NESTED = {
    "another number of the patient": ("OtherPatientIDsSequence", {"PatientID": MRN}, MRN),
    "a request's accession number": ("RequestAttributesSequence", {"AccessionNumber": ACCESSION}, ACCESSION),
    "a requested procedure": ("RequestAttributesSequence", {"RequestedProcedureID": ORDER}, ORDER),
    "a scheduled step": ("RequestAttributesSequence", {"ScheduledProcedureStepID": ORDER}, ORDER),
    "a person of a nested item": ("PersonIdentificationCodeSequence", {"PersonName": f"{DOCTOR}^Ivo"}, DOCTOR),
    "a clinic of a nested item": ("ReferringPhysicianIdentificationSequence", {"InstitutionName": DOCTOR}, DOCTOR),
    "a study of another hospital": ("ReferencedStudySequence", {"StudyID": ORDER}, ORDER),
}


@pytest.mark.parametrize("keyword", QUOTED)
@pytest.mark.parametrize("case", NESTED)
@pytest.mark.parametrize("depth", [1, 2])
def test_an_id_of_a_nested_item_that_a_stored_text_repeats_reaches_no_output(
    release: Release, caplog: pytest.LogCaptureFixture, case: str, keyword: str, depth: int
) -> None:
    sequence, attributes, secret = NESTED[case]
    inner = item(**attributes)
    if depth == 2:
        inner = item(RequestAttributesSequence=[inner])
    content = scan({sequence: [inner], "PatientID": "P-4", keyword: f"for {secret}"})
    assert secret not in all_outputs(release, content, caplog)


def test_numbers_that_repeat_an_id_are_emptied_and_others_stay(release: Release) -> None:
    changes = {"PatientID": "77418529", "TableHeight": "77418529", "SeriesNumber": "77418529", "EchoTime": "4.5"}
    copy = pydicom.dcmread(io.BytesIO(deidentify_dicom.deidentify_file("a.dcm", scan(changes), {"patient_id": "4"})[1]))
    assert not copy.get("TableHeight") and not copy.get("SeriesNumber")
    assert (copy.EchoTime, list(copy.PixelSpacing)) == (4.5, [1.0, 1.0])


def test_usual_codes_stay_unchanged(release: Release, caplog: pytest.LogCaptureFixture) -> None:
    """Also if a patient's short name equals a usual code, because every file contains that code."""
    usual_codes = {
        "PatientName": "Fa^Se",
        "Modality": "MR",
        "BodyPartExamined": "BRAIN",
        "BurnedInAnnotation": "NO",
        "ScanningSequence": "SE",
        "ScanOptions": "FS",
        "PatientPosition": "HFS",
        "Laterality": "L",
        "MRAcquisitionType": "2D",
        "Manufacturer": "ACME",
        "ConvolutionKernel": "B30f",
    }
    copy = pydicom.dcmread(
        io.BytesIO(deidentify_dicom.deidentify_file("a.dcm", scan(usual_codes), {"patient_id": "4"})[1])
    )
    for keyword, value in list(usual_codes.items())[1:]:
        assert copy.get(keyword) == value, keyword
    result = answer(release, [Upload("a.dcm", scan(usual_codes))], None, "eve")
    row = journal.get(result["id"]).description
    assert [row[name] for name in ("modality", "body_part", "burned_in", "laterality", "kernel")] == [
        "MR",
        "BRAIN",
        "NO",
        "L",
        "B30f",
    ]
