"""From slices to one answer: which slices are pooled, what withholds the answer, and what is stored of it."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.core_types import PixelSettings, Pooling, ValueUnit
from data.scan import slice_features
from data.scan.preprocess import unit_pixels
from lineage import keys
from lineage.record.verdict import Outcome
from serving.bundle import bento_build
from serving.inference import outlier
from serving.inference.graph import Graph
from serving.inference.predict import NOTE, Prediction, Upload, journal_row, predict, probabilities, to_json
from serving.inference.release import Release, load_release
from tests.serving.conftest import BIAS, KERNEL, SIZE, dicom, facts, manifest, picture, png, write_graph

pytestmark = pytest.mark.usefixtures("home")


def _release(folder: Path, described: dict[str, Any], kernel: np.ndarray, bias: np.ndarray) -> Release:
    """A tiny network compiled once, with a reference of slices that are prepared like uploads."""
    write_graph(folder / "tiny", kernel, bias=bias)
    planes = [picture(seed % 2 == 1, seed) for seed in range(20)]
    prepared = np.stack([unit_pixels(plane * 4000, ValueUnit.RAW, PixelSettings(SIZE, None)) for plane in planes])
    outlier.save(folder / "tiny" / "reference.npz", Graph.load(folder / "tiny" / "graph.onnx").run(prepared)[1])
    return load_release(
        bento_build.assemble(folder / "r1", manifest(**{"tiny-mr": described}), {"tiny-mr": folder / "tiny"})
    )


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Two classes."""
    return _release(tmp_path_factory.mktemp("two"), facts(), KERNEL, BIAS)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Three classes, two of them positive: brightness is evidence for both, and more for the last one."""
    kernel = np.array([[0.0, 150.0, 240.0], [4.0, 0.0, 0.0]], np.float32)
    described = facts(classes=["normal", "benign", "malignant"], positive=["benign", "malignant"])
    bias = np.array([2.0, 0.5, 0.0], np.float32)
    return _release(tmp_path_factory.mktemp("three"), described, kernel, bias)


def with_facts(release: Release, **model: Any) -> Release:
    """The same compiled network with other facts."""
    return replace(release, models={"tiny-mr": replace(release.models["tiny-mr"], **model)})


def outlier_slice(seed: int = 9) -> np.ndarray:
    """A large bright lesion beside a dark half, unlike all slices of the reference."""
    plane = picture(True, seed)
    plane[:16, :16] = 0.98
    plane[:, 24:] = 0.02
    return plane


def as_dicom(plane: np.ndarray, seed: int, position: float = 0.0, **attributes: Any) -> bytes:
    return dicom(False, seed, position, PixelData=(plane * 4000).astype("<u2").tobytes(), **attributes)


def series(*planes: np.ndarray, distance: float = 1.0) -> list[Upload]:
    """One DICOM series, `distance` mm from slice to slice."""
    return [Upload(f"{n}.dcm", as_dicom(plane, n, n * distance)) for n, plane in enumerate(planes)]


def scores(prediction: Prediction) -> list[float]:
    return [entry["score"] for entry in prediction.slices]


def test_outlier_slices_are_neither_pooled_nor_shown(loaded: Release) -> None:
    usual = [picture(False, 0), picture(True, 1), picture(False, 2)]
    plain = with_facts(loaded, outlier_distance=3.0)
    case = predict(plain, series(*usual, outlier_slice()))
    assert [entry["counted"] for entry in case.slices] == [True, True, True, False]
    assert scores(case)[3] == max(scores(case)), "the outlier slice would have decided"
    assert case.shown_slice == 1 and case.answer == "tumour"
    assert case.score == pytest.approx(predict(plain, series(*usual)).score, rel=1e-6)
    assert (case.verdict.figures["slices_alike"], case.verdict.figures["slices"]) == (3, 4)
    assert case.verdict.figures["distance"] < 3
    everything = predict(with_facts(loaded, outlier_distance=1e6), series(*usual, outlier_slice()))
    assert everything.score > case.score + 0.01 and everything.shown_slice == 3


def test_if_all_slices_are_outliers_all_are_pooled_and_the_answer_is_withheld(loaded: Release) -> None:
    case = predict(with_facts(loaded, outlier_distance=0.0), series(picture(True, 0), picture(False, 1)))
    assert [entry["counted"] for entry in case.slices] == [True, True]
    assert case.answer is None and case.verdict.figures["slices_alike"] == 0
    assert any("unlike those the model was evaluated on" in reason for reason in case.verdict.reasons)


def test_a_distance_at_the_limit_is_no_outlier(loaded: Release) -> None:
    upload = [Upload("a.dcm", dicom(True))]
    distance = predict(loaded, upload).verdict.figures["distance"]
    assert predict(with_facts(loaded, outlier_distance=distance), upload).answer == "tumour"
    assert predict(with_facts(loaded, outlier_distance=distance * 0.999), upload).answer is None


def test_a_slice_at_the_limit_is_pooled_with_nearer_slices(loaded: Release) -> None:
    slices = series(*(picture(True, number) for number in range(3)))
    alone = [predict(loaded, [upload]).verdict.figures["distance"] for upload in slices]
    assert len(set(alone)) == 3
    case = predict(with_facts(loaded, outlier_distance=sorted(alone)[1]), slices)
    assert [entry["counted"] for entry in case.slices] == [distance <= sorted(alone)[1] for distance in alone]


def test_probabilities_are_calibrated_by_the_temperature_of_the_release(loaded: Release) -> None:
    upload = [Upload("a.dcm", dicom(True))]
    odds = [
        case.score / (1 - case.score)
        for case in (predict(with_facts(loaded, temperature=temperature), upload) for temperature in (1.0, 2.0))
    ]
    assert odds[1] == pytest.approx(odds[0] ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("pooling", "planes", "needed"),
    [
        (Pooling("topk", 2), [picture(True, 0), outlier_slice(1), outlier_slice(2)], 2),
        (Pooling("topk", 2), [picture(True, 0), picture(True, 1), outlier_slice(2)], None),
        (Pooling("topk", 2), [picture(True, 0)], None),  # a case of one slice needs one
        (Pooling("topk", 3), [picture(True, 0), picture(True, 1)], None),
        (Pooling("topk", 3), [picture(True, 0), outlier_slice(1)], 2),
        (Pooling("mean", 3), [picture(True, 0), outlier_slice(1), outlier_slice(2)], None),
    ],
)
def test_as_many_inlier_slices_are_needed_as_are_pooled(
    loaded: Release, pooling: Pooling, planes: list[np.ndarray], needed: int | None
) -> None:
    case = predict(with_facts(loaded, outlier_distance=3.0, pooling=pooling), series(*planes))
    if needed is None:
        assert case.verdict.outcome is Outcome.PASS, case.verdict.reasons
        return
    reason = f"of {len(planes)} slices 1 are like those the model was evaluated on, and {needed} are needed"
    assert case.answer is None and reason in case.verdict.reasons


def test_slices_ten_millimetres_apart_are_independent(loaded: Release) -> None:
    planes = [picture(number == 3, number) for number in range(5)]
    near, far = (predict(loaded, series(*planes, distance=distance)) for distance in (1.0, 20.0))
    assert scores(near) == pytest.approx(scores(far)) and far.score < near.score - 0.1


def test_slices_that_are_not_pooled_are_not_independent_slices(loaded: Release) -> None:
    """Two usual slices and many outliers are two independent slices: nothing is adjusted."""
    model = with_facts(loaded, outlier_distance=3.0)
    planes = [picture(True, 0), picture(True, 1), *(outlier_slice(seed) for seed in range(2, 6))]
    case = predict(model, series(*planes, distance=20.0))
    assert case.score == pytest.approx(sum(scores(case)[:2]) / 2, rel=1e-5)


SATURATED = np.where(np.arange(SIZE) < 20, 1.0, np.linspace(0.2, 0.9, SIZE)) * np.ones((SIZE, 1))
MOSTLY_BLANK = np.pad(np.full((4, 5), 0.9), ((0, SIZE - 4), (0, SIZE - 5)))


@pytest.mark.parametrize(
    ("plane", "reason"),
    [(SATURATED, "the quality is too low: saturated"), (MOSTLY_BLANK, "the quality is too low: blank")],
)
def test_a_scan_that_ingest_would_reject_is_not_answered(loaded: Release, plane: np.ndarray, reason: str) -> None:
    case = predict(loaded, [Upload("a.dcm", as_dicom(plane, 0))])
    assert case.answer is None and reason in case.verdict.reasons
    assert to_json(case)["answer"] is None and reason in to_json(case)["verdict"]["reasons"]


def test_a_dicom_picture_in_colours_is_not_answered(loaded: Release) -> None:
    grey = (picture(True) * 255).astype(np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, axis=2).tobytes()
    attributes = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": rgb,
    }
    case = predict(loaded, [Upload("a.dcm", dicom(True, **attributes))], "tiny-mr")
    assert case.answer is None and any("colour" in reason for reason in case.verdict.reasons), case.verdict.reasons


@pytest.mark.parametrize(
    ("quantiles", "possible"),
    [((0.5, 0.5), ["tumour"]), ((1.0, 0.5), ["normal", "tumour"]), ((0.5, 0.0), []), ((1.0, 0.0), ["normal"])],
)
def test_only_a_conformal_set_of_one_class_is_answered(
    loaded: Release, quantiles: tuple[float, float], possible: list[str]
) -> None:
    case = predict(with_facts(loaded, conformal=(0.9, quantiles)), [Upload("a.dcm", dicom(True))])
    assert case.verdict.figures["possible"] == possible and case.verdict.thresholds["conformal_level"] == 0.9
    assert (case.answer is not None) is (len(possible) == 1)


def test_a_class_at_its_quantile_is_in_the_conformal_set(loaded: Release) -> None:
    upload = [Upload("a.dcm", dicom(True))]
    normal = predict(loaded, upload).probabilities[0]
    at_quantiles, under_quantiles = ((1 - normal, 1.0), (np.nextafter(1 - normal, 0), 1.0))
    assert predict(with_facts(loaded, conformal=(0.9, at_quantiles)), upload).verdict.figures["possible"] == [
        "normal",
        "tumour",
    ]
    assert predict(with_facts(loaded, conformal=(0.9, under_quantiles)), upload).verdict.figures["possible"] == [
        "tumour"
    ]


def test_confidence_is_that_of_the_most_probable_class(loaded: Release) -> None:
    upload = [Upload("a.dcm", dicom(True))]
    case = predict(loaded, upload)
    assert case.verdict.figures["confidence"] == max(case.probabilities)
    sure = replace(loaded, abstain_below=max(case.probabilities))
    unsure = replace(loaded, abstain_below=float(np.nextafter(max(case.probabilities), 1)))
    assert predict(sure, upload).answer == "tumour" and predict(unsure, upload).answer is None


def test_of_two_positive_classes_the_more_probable_is_answered_and_mapped(three: Release) -> None:
    case = predict(three, [Upload("a.dcm", dicom(True))])
    normal, benign, malignant = case.probabilities
    assert malignant > benign > normal and case.answer == case.map_class == "malignant"
    assert case.score == pytest.approx(benign + malignant) and case.slices[0]["score"] == pytest.approx(case.score)
    healthy = predict(three, [Upload("b.dcm", dicom(False, 1))])
    assert healthy.answer == "normal" and healthy.map_class == "benign", (
        "the map is of the most probable positive class"
    )


def test_the_operating_point_is_the_sum_of_the_positive_classes(three: Release) -> None:
    upload = [Upload("a.dcm", dicom(True))]
    score = predict(three, upload).score
    assert predict(with_facts(three, threshold=score), upload).answer == "malignant"
    assert predict(with_facts(three, threshold=float(np.nextafter(score, 2))), upload).answer == "normal"


def test_the_map_marks_the_lesion_of_the_shown_slice(loaded: Release) -> None:
    case = predict(loaded, series(picture(False, 0), picture(True, 1)))
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(case.map))))[..., 3]
    assert alpha.shape == (SIZE // 4, SIZE // 4) and case.shown_slice == 1
    assert alpha[1:3, 1:3].min() > 200 and alpha[4:, 4:].max() == 0


def test_description_and_embedding_are_those_of_the_shown_slice(loaded: Release) -> None:
    case = predict(loaded, series(picture(False, 0), picture(True, 1), picture(False, 2)))
    alone = predict(loaded, [Upload("1.dcm", as_dicom(picture(True, 1), 1, 1.0))])
    assert case.shown_slice == 1 and case.embedding == alone.embedding
    for name in slice_features.DESCRIPTION[:10]:
        assert case.description[name] == alone.description[name], name
    assert len(case.embedding) == slice_features.EMBEDDING


def test_slice_numbers_continue_across_files(loaded: Release) -> None:
    """The shown slice of several files has the description and map of its own file."""
    files = [Upload(f"{number}.png", png(number == 2, number)) for number in range(4)]
    case = predict(loaded, files, "tiny-mr")
    assert case.shown_slice == 2 and case.slices[2]["index"] == 2
    alone = predict(loaded, files[2:3], "tiny-mr")
    assert case.description == alone.description and case.map == alone.map


def test_a_lesion_on_the_last_picture_is_shown(loaded: Release) -> None:
    case = predict(loaded, [Upload(f"{number}.png", png(number == 1, number)) for number in range(2)], "tiny-mr")
    assert case.shown_slice == 1


def test_the_cluster_is_a_pseudonym_or_a_hash_of_the_content(loaded: Release) -> None:
    with_patient = predict(loaded, [Upload("a.dcm", dicom(True))])
    assert with_patient.cluster == keys.pseudonym("Jane^Doe")
    files = [Upload("a.png", png(True)), Upload("b.png", png(False, 1))]
    without_patient = predict(loaded, files, "tiny-mr")
    assert without_patient.cluster == f"unknown-{hashlib.sha256(files[0].content).hexdigest()[:12]}"
    assert without_patient.inputs == tuple(hashlib.sha256(upload.content).hexdigest() for upload in files)


def test_the_note_includes_that_of_the_task(loaded: Release) -> None:
    upload = [Upload("a.dcm", dicom(True))]
    assert predict(with_facts(loaded, note="phantoms only"), upload).note == f"{NOTE} phantoms only"
    assert predict(with_facts(loaded, note=""), upload).note == NOTE


def test_modality_and_body_part_are_compared_as_the_file_states_them(loaded: Release) -> None:
    case = predict(loaded, [Upload("a.dcm", dicom(True, Modality="US"))], "tiny-mr")
    assert case.answer is None and "the scan is US, the task is for MR" in case.verdict.reasons
    unnamed = predict(loaded, [Upload("a.png", png(True))], "tiny-mr")
    assert unnamed.answer == "tumour" and unnamed.verdict.figures["modality"] == ""


def test_the_endpoints_answer_and_the_journal_row_match_the_prediction(loaded: Release) -> None:
    case = predict(loaded, series(picture(False, 0), picture(True, 1)), id="p-1", at="2026-01-31T12:00:00Z")
    case = replace(case, duration_ms=12.5)
    answer = to_json(case)
    answer_fields = (
        "id",
        "at",
        "task",
        "title",
        "release",
        "version",
        "answer",
        "score",
        "threshold",
        "map",
        "map_class",
        "engine",
        "note",
        "duration_ms",
    )
    assert {name: answer[name] for name in answer_fields} == {name: getattr(case, name) for name in answer_fields}
    assert answer["shown"] == case.shown_slice
    assert (case.id, case.at, case.task, case.release, case.version) == (
        "p-1",
        "2026-01-31T12:00:00Z",
        "tiny-mr",
        "r1",
        "1",
    )
    assert case.title == "Tumour on a tiny MR slice" and answer["shape"] == [SIZE, SIZE]
    assert answer["probabilities"] == {"normal": case.probabilities[0], "tumour": case.probabilities[1]}
    assert answer["verdict"]["outcome"] == "pass" and answer["verdict"]["figures"] == dict(case.verdict.figures)
    assert answer["slices"] == list(case.slices) and answer["inputs"] == list(case.inputs)

    row = vars(journal_row(case, "carla"))
    row_fields = ("id", "at", "release", "task", "version", "cluster", "answer", "score", "map", "engine")
    row_fields += ("duration_ms",)
    assert {name: row[name] for name in row_fields} == {name: getattr(case, name) for name in row_fields}
    assert (row["actor"], row["outcome"], row["reasons"]) == ("carla", "pass", list(case.verdict.reasons))
    for name in ("inputs", "embedding", "probabilities", "slices"):
        assert row[name] == list(getattr(case, name)), name
    assert row["description"] == case.description


def test_fields_that_the_caller_does_not_set_are_empty(loaded: Release) -> None:
    case = predict(loaded, [Upload("a.dcm", dicom(True))])
    assert (case.id, case.at, case.duration_ms, case.left_out) == ("", "", 0.0, ())


def test_probabilities_are_float32_for_logits_of_any_size() -> None:
    """Two machines that differ in the last bits of float64 give the same answer."""
    softmax = probabilities(np.array([[3.0, 1.0], [-2000.0, 2000.0]], np.float32), 0.5)
    assert softmax.dtype == np.float32 and np.allclose(softmax, [[0.98201376, 0.01798621], [0, 1]])


def test_blank_slices_are_not_used_and_are_counted(loaded: Release) -> None:
    flat = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 90).save(flat, "PNG")
    files = [Upload("flat.png", flat.getvalue()), Upload("a.png", png(True)), Upload("b.png", png(True, 1))]
    case = predict(loaded, files, "tiny-mr")
    assert case.answer == "tumour" and case.verdict.reasons == ("warning: 1 of 3 slices are blank and are not used",)
    assert predict(loaded, files[1:], "tiny-mr").verdict.reasons == ()


def test_a_localizer_is_left_out_by_name_and_the_series_is_answered(loaded: Release) -> None:
    scout = dicom(
        False,
        8,
        50.0,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[0.0, 1.0, 0.0, 0.0, 0.0, -1.0],
    )
    slices = series(picture(True, 0), picture(True, 1))
    case = predict(loaded, [*slices, Upload("scout.dcm", scout)])
    assert case.answer == "tumour" and len(case.slices) == 2
    ((name, reason),) = case.left_out
    assert name == "scout.dcm" and case.verdict.reasons == (f"warning: 1 file is left out: {reason}",)
    assert to_json(case)["left_out"] == [{"file": name, "reason": reason}]
