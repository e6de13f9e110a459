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


def test_a_lesion_is_answered_shown_and_described(tiny: Path, home: Path) -> None:
    said = predict(release(tiny, home), [Upload("a.dcm", dicom(True))])
    assert said.answer == said.map_class == "tumour" and said.score > said.threshold
    assert said.verdict.outcome is Outcome.PASS and said.verdict.reasons == ()
    assert said.cluster == keys.pseudonym("Jane^Doe") and "Jane" not in json.dumps(to_json(said))
    assert said.description["modality"] == "MR" and said.description["rows"] == SIZE
    assert len(said.embedding) == 32 and sum(said.probabilities) == pytest.approx(1)
    assert said.note.startswith("Research use only") and said.note.endswith("phantoms only")
    assert predict(release(tiny, home), [Upload("b.dcm", dicom(False, 1))]).answer == "normal"


def test_the_same_bytes_give_the_same_answer_to_the_last_digit(tiny: Path, home: Path) -> None:
    first, second = (predict(release(tiny, home), [Upload("a.dcm", dicom(True))]) for _ in range(2))
    assert first == second


def test_a_series_is_put_in_order_and_judged_as_one_case(tiny: Path, home: Path) -> None:
    slices = [Upload(f"{place}.dcm", dicom(place == 3, place, float(place))) for place in (4, 3, 0, 2, 1)]
    said = predict(release(tiny, home), slices)
    assert [entry["index"] for entry in said.slices] == [0, 1, 2, 3, 4]
    assert said.shown == 3 == max(said.slices, key=lambda entry: entry["score"])["index"]
    top = sorted((entry["score"] for entry in said.slices), reverse=True)[:2]
    assert said.score == pytest.approx(sum(top) / 2, rel=1e-6), "five slices of a millimetre are one look"


def test_pictures_of_nobody_knows_where_are_as_many_looks(tiny: Path, home: Path) -> None:
    said = predict(release(tiny, home), [Upload(f"{seed}.png", png(seed == 3, seed)) for seed in range(5)], "tiny-mr")
    top = sorted((entry["score"] for entry in said.slices), reverse=True)[:2]
    assert said.score == pytest.approx(float(adjust_to_prevalence(np.array(top), 0.5, 2 / 5).mean()), rel=1e-5)
    assert len(said.inputs) == 5 == len(set(said.inputs))


def test_pictures_of_one_case_keep_their_order_and_blank_ones_are_left_out(tiny: Path, home: Path) -> None:
    files = [Upload("flat.png", _flat()), Upload("a.png", png(True)), Upload("b.png", png(False))]
    said = predict(release(tiny, home), files, "tiny-mr")
    assert [entry["index"] for entry in said.slices] == [1, 2] and said.shown == 1
    assert said.cluster.startswith("unknown-") and said.answer == "tumour"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"Modality": "CT"}, "the scan is CT"), ({"BodyPartExamined": "KNEE"}, "the scan shows KNEE")],
)
def test_a_wrong_kind_of_scan_is_named_and_not_answered(
    tiny: Path, home: Path, changed: dict[str, str], reason: str
) -> None:
    said = predict(release(tiny, home), [Upload("a.dcm", dicom(True, **changed))], "tiny-mr")
    assert said.answer is None and said.verdict.outcome is Outcome.INCONCLUSIVE
    assert any(reason in given for given in said.verdict.reasons)
    assert to_json(said)["answer"] is None and to_json(said)["probabilities"]["tumour"] > 0.5


def test_doubt_strangeness_and_blankness_abstain(tiny: Path, home: Path) -> None:
    unsure = release(tiny, home, unsure=facts(temperature=1000.0, outlier_distance=0.1, classes=["normal", "tumour"]))
    said = predict(unsure, [Upload("a.dcm", dicom(True))])
    assert any("unlike those" in reason for reason in said.verdict.reasons)
    blank = predict(unsure, [Upload("flat.png", _flat())], "unsure")
    assert any("blank" in reason for reason in blank.verdict.reasons)


def test_the_header_chooses_the_task(tiny: Path, home: Path) -> None:
    both = release(tiny, home, brain=facts(), knee=facts(body_parts=["KNEE"]))
    assert predict(both, [Upload("a.dcm", dicom(True))]).task == "brain"
    assert predict(both, [Upload("a.dcm", dicom(True, BodyPartExamined="LEFTKNEE"))]).task == "knee"
    for changed, said in (
        ({"BodyPartExamined": ""}, "several tasks answer for MR of an unnamed body part"),
        ({"BodyPartExamined": "HAND"}, "no task answers for MR of HAND"),
        ({"Modality": "US"}, "no task answers for US of BRAIN"),
    ):
        with pytest.raises(Fault, match=f"a.dcm: {said}; name one of: brain, knee"):
            predict(both, [Upload("a.dcm", dicom(True, **changed))])
    with pytest.raises(Fault, match=r"x\.png: the file does not say what kind of scan it is.*brain, knee"):
        predict(both, [Upload("x.png", png(True))])
    with pytest.raises(Fault, match="no task 'liver' in release r1; name one of: brain, knee"):
        predict(both, [Upload("a.dcm", dicom(True))], "liver")


def test_a_task_of_stages_is_asked_by_name_where_another_fits(tiny: Path, home: Path) -> None:
    note = "phantoms only; size as a stand-in for the T category, not TNM"
    both = release(tiny, home, brain=facts(), stage=facts(ordered=True, note=note))
    assert predict(both, [Upload("a.dcm", dicom(True))]).task == "brain"
    said = predict(both, [Upload("a.dcm", dicom(True))], "stage")
    assert said.task == "stage" and to_json(said)["note"].endswith(note)
    alone = release(tiny, home / "other", stage=facts(ordered=True, note=note))
    assert predict(alone, [Upload("a.dcm", dicom(True))]).task == "stage"


def test_what_is_no_case_is_refused_by_name(tiny: Path, home: Path) -> None:
    known = release(tiny, home)
    with pytest.raises(Fault, match=r"junk\.dcm"):
        predict(known, [Upload("junk.dcm", b"\0" * 500)])
    with pytest.raises(Fault, match="no file was sent"):
        predict(known, [])
    with pytest.raises(Fault, match=r"b\.dcm and a\.dcm are of different patients"):
        predict(known, [Upload("a.dcm", dicom(True)), Upload("b.dcm", dicom(True, 1, 1.0, PatientID="John"))])
    with pytest.raises(Fault, match="different kinds"):
        predict(known, [Upload("a.dcm", dicom(True, PatientID="")), Upload("b.png", png(True))], "tiny-mr")


def test_a_prediction_fills_a_row_of_the_journal(tiny: Path, home: Path) -> None:
    said = predict(release(tiny, home), [Upload("a.dcm", dicom(True))], id="p1", at="2026-01-31T12:00:00Z")
    journal.append(journal_row(said, "eve"))
    kept = journal.get("p1")
    assert (kept["actor"], kept["task"], kept["answer"], kept["outcome"]) == ("eve", "tiny-mr", "tumour", "pass")
    assert kept["inputs"] == list(said.inputs) and kept["map"] == said.map
    assert "Jane" not in str(kept)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_both_engines_answer_the_same_case_alike(tiny: Path, home: Path, engine: str) -> None:
    described = manifest()
    described["serving"]["engine"] = engine
    known = load_release(bento_build.assemble(home / "releases" / engine, described, {"tiny-mr": tiny}))
    said = predict(known, [Upload("a.dcm", dicom(True))])
    assert said.engine["engine"] == engine and said.score == pytest.approx(0.97, abs=0.03)


def _flat() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 90).save(stream, "PNG")
    return stream.getvalue()


def nifti(values: np.ndarray) -> bytes:
    import nibabel

    return bytes(nibabel.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes())


def test_ct_as_nifti_is_answered_in_hounsfield_units_or_not_at_all(tiny: Path, home: Path) -> None:
    """The same slice as HU by NIfTI and by DICOM gives one answer; values that are no HU give a sentence."""
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
