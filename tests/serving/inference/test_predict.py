from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineage import keys
from lineage.errors import Fault
from lineage.record import journal
from lineage.record.verdict import Outcome
from serving.bundle import bento_build
from serving.inference.pooling import adjust_to_prevalence
from serving.inference.predict import Upload, decide, journal_row, predict, probabilities, to_json
from serving.inference.release import Release, load_release
from tests.serving.conftest import SIZE, dicom, facts, manifest, png

pytestmark = pytest.mark.usefixtures("home")


def release(tiny: Path, home: Path, **tasks: dict[str, Any]) -> Release:
    described = manifest(**tasks)
    return load_release(
        bento_build.assemble(home / "releases" / "r1", described, dict.fromkeys(described["tasks"], tiny))
    )


def test_probabilities_are_softmax_with_temperature() -> None:
    logits = np.array([[2.0, 0.0], [1000.0, -1000.0]], np.float32)
    np.testing.assert_allclose(probabilities(logits, 1.0)[0], [0.880797, 0.119203], rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, 2.0)[0], [0.731059, 0.268941], rtol=1e-5)
    assert np.array_equal(probabilities(logits, 1.0)[1], [1, 0])


@pytest.mark.parametrize(
    ("case", "threshold", "expected"),
    [([0.6, 0.1, 0.3], 0.3, 2), ([0.6, 0.1, 0.3], 0.31, 0), ([0.1, 0.5, 0.4], 0.5, 1), ([0.0, 0.0, 1.0], 0.5, 2)],
)
def test_the_operating_point_decides_not_the_largest_probability(
    case: list[float], threshold: float, expected: int
) -> None:
    assert decide(np.array(case), (2,), threshold) == expected


def test_a_lesion_is_answered_mapped_and_described(tiny: Path, home: Path) -> None:
    prediction = predict(release(tiny, home), [Upload("a.dcm", dicom(True))])
    assert prediction.answer == prediction.map_class == "tumour" and prediction.score > prediction.threshold
    assert prediction.verdict.outcome is Outcome.PASS and prediction.verdict.reasons == ()
    assert prediction.cluster == keys.pseudonym("Jane^Doe") and "Jane" not in json.dumps(to_json(prediction))
    assert prediction.description["modality"] == "MR" and prediction.description["rows"] == SIZE
    assert len(prediction.embedding) == 32 and sum(prediction.probabilities) == pytest.approx(1)
    assert prediction.note.startswith("Research use only") and prediction.note.endswith("phantoms only")
    assert predict(release(tiny, home), [Upload("b.dcm", dicom(False, 1))]).answer == "normal"


def test_the_same_bytes_give_the_same_answer_to_the_last_digit(tiny: Path, home: Path) -> None:
    first, second = (predict(release(tiny, home), [Upload("a.dcm", dicom(True))]) for _ in range(2))
    assert first == second


def test_a_series_is_ordered_and_answered_as_one_case(tiny: Path, home: Path) -> None:
    slices = [Upload(f"{place}.dcm", dicom(place == 3, place, float(place))) for place in (4, 3, 0, 2, 1)]
    prediction = predict(release(tiny, home), slices)
    assert [entry["index"] for entry in prediction.slices] == [0, 1, 2, 3, 4]
    assert prediction.shown_slice == 3 == max(prediction.slices, key=lambda entry: entry["score"])["index"]
    top = sorted((entry["score"] for entry in prediction.slices), reverse=True)[:2]
    assert prediction.score == pytest.approx(sum(top) / 2, rel=1e-6), (
        "five slices of a millimetre are one independent slice"
    )


def test_pictures_without_positions_are_independent(tiny: Path, home: Path) -> None:
    prediction = predict(
        release(tiny, home), [Upload(f"{seed}.png", png(seed == 3, seed)) for seed in range(5)], "tiny-mr"
    )
    top = sorted((entry["score"] for entry in prediction.slices), reverse=True)[:2]
    assert prediction.score == pytest.approx(float(adjust_to_prevalence(np.array(top), 0.5, 2 / 5).mean()), rel=1e-5)
    assert len(prediction.inputs) == 5 == len(set(prediction.inputs))


def test_pictures_of_one_case_keep_their_order_and_blank_ones_are_left_out(tiny: Path, home: Path) -> None:
    files = [Upload("flat.png", _flat()), Upload("a.png", png(True)), Upload("b.png", png(False))]
    prediction = predict(release(tiny, home), files, "tiny-mr")
    assert [entry["index"] for entry in prediction.slices] == [1, 2] and prediction.shown_slice == 1
    assert prediction.cluster.startswith("unknown-") and prediction.answer == "tumour"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"Modality": "CT"}, "the scan is CT"), ({"BodyPartExamined": "KNEE"}, "the scan shows KNEE")],
)
def test_a_wrong_kind_of_scan_is_named_and_not_answered(
    tiny: Path, home: Path, attributes: dict[str, str], reason: str
) -> None:
    prediction = predict(release(tiny, home), [Upload("a.dcm", dicom(True, **attributes))], "tiny-mr")
    assert prediction.answer is None and prediction.verdict.outcome is Outcome.INCONCLUSIVE
    assert any(reason in text for text in prediction.verdict.reasons)
    assert to_json(prediction)["answer"] is None and to_json(prediction)["probabilities"]["tumour"] > 0.5


def test_outliers_and_blank_scans_are_abstentions(tiny: Path, home: Path) -> None:
    unsure = release(tiny, home, unsure=facts(temperature=1000.0, outlier_distance=0.1, classes=["normal", "tumour"]))
    prediction = predict(unsure, [Upload("a.dcm", dicom(True))])
    assert any("unlike those" in reason for reason in prediction.verdict.reasons)
    blank = predict(unsure, [Upload("flat.png", _flat())], "unsure")
    assert any("blank" in reason for reason in blank.verdict.reasons)


def test_the_header_chooses_the_task(tiny: Path, home: Path) -> None:
    two_tasks = release(tiny, home, brain=facts(), knee=facts(body_parts=["KNEE"]))
    assert predict(two_tasks, [Upload("a.dcm", dicom(True))]).task == "brain"
    assert predict(two_tasks, [Upload("a.dcm", dicom(True, BodyPartExamined="LEFTKNEE"))]).task == "knee"
    for attributes, reason in (
        ({"BodyPartExamined": ""}, "several tasks fit MR of an unnamed body part"),
        ({"BodyPartExamined": "HAND"}, "no task fits MR of HAND"),
        ({"Modality": "US"}, "no task fits US of BRAIN"),
    ):
        with pytest.raises(Fault, match=f"a.dcm: {reason}; name one of: brain, knee"):
            predict(two_tasks, [Upload("a.dcm", dicom(True, **attributes))])
    with pytest.raises(Fault, match=r"x\.png: the file names no modality.*brain, knee"):
        predict(two_tasks, [Upload("x.png", png(True))])
    with pytest.raises(Fault, match="no task 'liver' in release r1; name one of: brain, knee"):
        predict(two_tasks, [Upload("a.dcm", dicom(True))], "liver")


def test_a_task_with_ordered_classes_must_be_named_if_another_task_fits(tiny: Path, home: Path) -> None:
    note = "phantoms only; size as a stand-in for the T category, not TNM"
    two_tasks = release(tiny, home, brain=facts(), stage=facts(ordered=True, note=note))
    assert predict(two_tasks, [Upload("a.dcm", dicom(True))]).task == "brain"
    prediction = predict(two_tasks, [Upload("a.dcm", dicom(True))], "stage")
    assert prediction.task == "stage" and to_json(prediction)["note"].endswith(note)
    alone = release(tiny, home / "other", stage=facts(ordered=True, note=note))
    assert predict(alone, [Upload("a.dcm", dicom(True))]).task == "stage"


def test_files_that_are_not_one_case_are_refused_by_name(tiny: Path, home: Path) -> None:
    loaded = release(tiny, home)
    with pytest.raises(Fault, match=r"junk\.dcm"):
        predict(loaded, [Upload("junk.dcm", b"\0" * 500)])
    with pytest.raises(Fault, match="no file was sent"):
        predict(loaded, [])
    with pytest.raises(Fault, match=r"b\.dcm and a\.dcm are of different patients"):
        predict(loaded, [Upload("a.dcm", dicom(True)), Upload("b.dcm", dicom(True, 1, 1.0, PatientID="John"))])
    with pytest.raises(Fault, match="different kinds"):
        predict(loaded, [Upload("a.dcm", dicom(True, PatientID="")), Upload("b.png", png(True))], "tiny-mr")


def test_a_prediction_fills_a_row_of_the_journal(tiny: Path, home: Path) -> None:
    prediction = predict(release(tiny, home), [Upload("a.dcm", dicom(True))], id="p1", at="2026-01-31T12:00:00Z")
    journal.append(journal_row(prediction, "eve"))
    row = journal.get("p1")
    assert (row.actor, row.task, row.answer, row.outcome) == ("eve", "tiny-mr", "tumour", "pass")
    assert row.inputs == list(prediction.inputs) and row.map == prediction.map
    assert "Jane" not in str(row)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_both_engines_give_the_same_answer(tiny: Path, home: Path, engine: str) -> None:
    described = manifest()
    described["serving"]["engine"] = engine
    loaded = load_release(bento_build.assemble(home / "releases" / engine, described, {"tiny-mr": tiny}))
    prediction = predict(loaded, [Upload("a.dcm", dicom(True))])
    assert prediction.engine["engine"] == engine and prediction.score == pytest.approx(0.97, abs=0.03)


def _flat() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 90).save(stream, "PNG")
    return stream.getvalue()


def nifti(values: np.ndarray) -> bytes:
    import nibabel

    return bytes(nibabel.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes())


def test_ct_as_nifti_is_answered_only_in_hounsfield_units(tiny: Path, home: Path) -> None:
    """The same HU slice as NIfTI and as DICOM gets the same answer; values that are not HU are refused."""
    window = {"size": SIZE, "window": [0, 2000]}
    tasks = {"tiny-ct": facts(modality="CT", pixels=window), "tiny-mr": facts()}
    released = release(tiny, home, **tasks)
    hounsfield = np.random.default_rng(3).integers(-1000, 900, (SIZE, SIZE))
    stored = (hounsfield + 1024).astype("<u2")
    ct = dicom(True, Modality="CT", RescaleSlope="1", RescaleIntercept="-1024", PixelData=stored.tobytes())
    by_dicom = predict(released, [Upload("a.dcm", ct)], "tiny-ct")
    volume = nifti(hounsfield[None, ::-1, ::-1].transpose(2, 1, 0))
    by_nifti = predict(released, [Upload("a.nii", volume)], "tiny-ct")
    assert by_nifti.probabilities == by_dicom.probabilities and by_nifti.description["units"] == "HU"
    with pytest.raises(
        Fault, match=r"a\.nii: its darkest hundredth .* no Hounsfield units; convert it again from DICOM"
    ):
        predict(released, [Upload("a.nii", nifti(hounsfield[..., None] + 1024))], "tiny-ct")
    with pytest.raises(Fault, match=r"a\.nii: its values are Hounsfield units, so it is a CT and no MR"):
        predict(released, [Upload("a.nii", volume)], "tiny-mr")
