"""The endpoint applies the ingest rules: a scan that breaks each rule of the list."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from data.batch import manifest as batch_manifest
from data.batch.examine_scan import scan_sha256
from data.core_types import FieldOfView, Modality, PixelSettings, Pooling, Task
from data.phantom import batch
from data.phantom import files as phantom_files
from data.phantom import study as phantom_study
from data.quality import suite
from data.scan import read, slice_features
from data.scan.slice_rules import Rule, scan_rules
from data.settings import IngestSettings
from lineage import site_hash
from lineage.record.verdict import Outcome
from serving.bundle import bento_build
from serving.inference import upload_checks
from serving.inference.accepted_sites import AcceptedSite
from serving.inference.gate import WARNING_PREFIX
from serving.inference.predict import Prediction, Upload, predict, to_json
from serving.inference.release import Release, load_release
from tests.serving.conftest import SIZE, facts, manifest

pytestmark = pytest.mark.usefixtures("home")
WINDOW = (-400.0, 1500.0)
CHEST = Task(
    "tiny-ct",
    "Lung",
    "lung",
    Modality.CT,
    ("CHEST", "LUNG"),
    ("normal", "tumour"),
    ("tumour",),
    "slice",
    "patient",
    False,
    PixelSettings(SIZE, WINDOW),
    Pooling("topk", 2),
    0.9,
    "",
)
BRAIN = replace(
    CHEST, name="tiny-mr", organ="brain", modality=Modality.MR, body_parts=("BRAIN",), pixels=PixelSettings(SIZE, None)
)
Change = Callable[[Dataset], None]
AXIAL, CORONAL = ["1", "0", "0", "0", "1", "0"], ["1", "0", "0", "0", "0", "-1"]


@lru_cache
def phantom_slice(index: int) -> bytes:
    study = phantom_study.make_study(CHEST, phantom_study.usual_scanner(CHEST), 3, 1, "normal")
    hounsfield, pixel = study.slice(index, 6)
    return phantom_files.dicom(study, hounsfield, pixel, index)


def chest(index: int = 0, change: Change | None = None, **attributes: Any) -> bytes:
    """A slice of a phantom chest, changed."""
    image = dcmread(io.BytesIO(phantom_slice(index)))
    if change:
        change(image)
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def hu(transform: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change the Hounsfield units of a file."""

    def change(image: Dataset) -> None:
        values = transform(image.pixel_array.astype(np.int32) + int(image.RescaleIntercept)) - int(
            image.RescaleIntercept
        )
        image.Rows, image.Columns = values.shape
        image.PixelData = values.astype("<i2").tobytes()

    return change


def some_pixels(value: int) -> Change:
    """Every twentieth pixel has this value."""

    def transform(values: np.ndarray) -> np.ndarray:
        values.flat[::20] = value + np.arange(len(values.flat[::20])) % 7  # a single value would count as padding
        return values

    return hu(transform)


def colours(image: Dataset) -> None:
    grey = np.clip((image.pixel_array.astype(np.float32) - 100) / 6, 0, 255).astype(np.uint8)
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = np.stack([grey, grey // 2, grey], -1).tobytes()


def perfusion(image: Dataset) -> None:
    """Two time points of two places in one object."""
    frame, groups = image.pixel_array, []
    for place in (0, 5, 0, 5):
        group, position, plane = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = ["-100", "-100", str(place)]
        plane.ImageOrientationPatient = AXIAL
        group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [plane]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence, image.NumberOfFrames = groups, 4
    image.PixelData = np.stack([frame, frame + 1, frame + 2, frame + 3]).astype("<i2").tobytes()


def without_rescale(image: Dataset) -> None:
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        del image[keyword]


def typed(*values: str) -> bytes:
    return chest(ImageType=["DERIVED", "SECONDARY", *values])


def png(transform: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The phantom as a picture in the task's window, changed."""
    image = dcmread(io.BytesIO(chest()))
    grey = np.clip((image.pixel_array + float(image.RescaleIntercept) + 1150) / 1500 * 255, 0, 255)
    stream = io.BytesIO()
    Image.fromarray(transform(grey).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def volume() -> bytes:
    """The phantom as a NIfTI volume whose header gives no orientation."""
    import nibabel

    image = dcmread(io.BytesIO(chest()))
    hounsfield = (image.pixel_array + int(image.RescaleIntercept)).T[:, :, None].astype("<i2")
    nifti_image = nibabel.Nifti1Image(hounsfield, None)
    nifti_image.header.set_zooms((2.3, 2.3, 3.0))
    return bytes(nifti_image.to_bytes())


STOPS: dict[str, Callable[[], bytes]] = {
    "modality is not CT": lambda: chest(Modality="PT"),
    "body part is none of CHEST, LUNG": lambda: chest(BodyPartExamined="KNEE"),
    "burned-in writing, says the header or the picture's border": lambda: chest(BurnedInAnnotation="YES"),
    "it is a localizer, not a slice": lambda: chest(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "it is a projection of several slices": lambda: typed("AXIAL", "MIP"),
    "it is a curved reformat": lambda: typed("CURVED_MPR"),
    "it is a secondary capture, not the scanner's image": lambda: chest(SOPClassUID=SecondaryCaptureImageStorage),
    "it is a computed map or a segmentation, not a scan": lambda: typed("PERFUSION", "RCBF"),
    "it is a picture of phases, not of magnitudes": lambda: chest(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]),
    "it is a picture in colours": lambda: chest(change=colours),
    "not an axial slice": lambda: chest(ImageOrientationPatient=CORONAL),
    "the series has several slices at one place": lambda: chest(change=perfusion),
    "spacing is not that of a scan of a body": lambda: chest(PixelSpacing=["20", "20"]),
    "blank": lambda: chest(change=hu(lambda values: np.full_like(values, -1000))),
    "saturated": lambda: chest(change=hu(lambda values: np.minimum(values, np.percentile(values, 40).astype(int)))),
    "fewer than 32 rows": lambda: chest(change=hu(lambda values: values[::6])),
    "fewer than 32 columns": lambda: chest(change=hu(lambda values: values[:, ::6])),
    "CT without Hounsfield units": lambda: chest(change=without_rescale),
    "values below what a scanner writes in HU": lambda: chest(change=some_pixels(-9000)),
    "values above metal in HU": lambda: chest(change=some_pixels(30000)),
    "denser than a body in HU": lambda: chest(change=hu(lambda values: values + 1024)),
    "thinner than a body in HU": lambda: chest(change=hu(lambda values: np.minimum(values, -700 + values // 100))),
    "wrong window, no air in HU": lambda: chest(change=hu(lambda values: np.maximum(values, -150))),
    "wrong window, air is black": lambda: png(lambda grey: np.where(grey < np.percentile(grey, 60), 0, grey)),
    "inverted, air is white": lambda: png(lambda grey: 255 - grey),
}
WARNS: dict[str, Callable[[], list[bytes]]] = {
    "body part holds more than the task's": lambda: [chest(BodyPartExamined="CHESTABDOMEN")],
    "it is a reformat of other slices": lambda: [typed("MPR")],
    "it is derived from other images": lambda: [typed("AXIAL")],
    "it is made after the examination": lambda: [chest(ImageType=["ORIGINAL", "SECONDARY", "AXIAL"])],
    "the series has uneven distances": lambda: [
        chest(position, ImagePositionPatient=["0", "0", str(z)]) for position, z in enumerate((0, 3, 6, 10.4))
    ],
    "the series has missing slices": lambda: [chest(0), chest(1), chest(3), chest(4)],
    "the series has gantry tilt": lambda: [
        chest(position, ImagePositionPatient=["0", str(position), str(3 * position)]) for position in range(4)
    ],
    "the picture does not hang the usual way (prone, on the side or flipped)": lambda: [
        chest(ImageOrientationPatient=["-1", "0", "0", "0", "-1", "0"])
    ],
    "the file does not say how the patient lies in it": lambda: [volume()],
    "slices more than 10 mm apart": lambda: [chest(SliceThickness="14")],
    "hardly any grey values": lambda: [
        chest(
            change=hu(
                lambda values: np.where(
                    values > 900, 30, np.where(np.arange(values.size).reshape(values.shape) % 12 == 0, 5, -1000)
                )
            )
        )
    ],
}


@pytest.fixture(scope="module")
def release(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of a chest CT and a brain MR task."""
    ct = facts(modality="CT", body_parts=["CHEST", "LUNG"], pixels={"size": SIZE, "window": list(WINDOW)})
    described = manifest(**{"tiny-ct": ct, "tiny-mr": facts()})
    return load_release(
        bento_build.assemble(
            tmp_path_factory.mktemp("releases") / "r1", described, dict.fromkeys(described["tasks"], tiny)
        )
    )


def answer_files(release: Release, *files: bytes, task: str = "tiny-ct") -> Prediction:
    uploads = [Upload(f"{number}.dcm", content) for number, content in enumerate(files)]
    return predict(accept_phantoms(release), uploads, task)


def accept_phantoms(release: Release) -> Release:
    """The release with the site and the scanners of the phantoms accepted for all tasks."""
    usual = [scanner for scanner in phantom_study.SCANNERS.values() if scanner.site == "Alder"]
    scanners = {site_hash.hash_scanner(f"{scanner.manufacturer} {scanner.model}") for scanner in usual}
    site = AcceptedSite(frozenset({"", site_hash.hash_site("Alder Hospital")}), frozenset(scanners), None)
    return replace(release, models={name: replace(model, sites=(site,)) for name, model in release.models.items()})


def rules_of(task: Task, error: bool) -> list[Rule]:
    rules = scan_rules(task.modality, task.body_parts, task.pixels.window, task.field_of_view)
    return [rule for rule in rules if rule.error is error]


def is_withheld(prediction: Prediction, meaning: str) -> bool:
    verdict = prediction.verdict
    reasons = [reason for reason in verdict.reasons if not reason.startswith(WARNING_PREFIX)]
    has_reason = any(meaning in reason for reason in reasons)
    return prediction.answer is None and verdict.outcome is Outcome.INCONCLUSIVE and has_reason


def test_a_usual_slice_is_answered_without_a_warning(release: Release) -> None:
    for content in (chest(), png(lambda grey: grey)):
        prediction = answer_files(release, content)
        assert prediction.verdict.outcome is Outcome.PASS and prediction.verdict.reasons == () and prediction.answer


def test_every_rule_of_the_list_has_a_scan_that_breaks_it() -> None:
    """A new rule needs a scan here, which shows that the endpoint applies the rule."""
    assert set(STOPS) == {rule.meaning for rule in rules_of(CHEST, True)}
    assert set(WARNS) == {rule.meaning for rule in rules_of(CHEST, False)}


@pytest.mark.parametrize("meaning", STOPS)
def test_an_ingest_error_withholds_the_answer(release: Release, meaning: str) -> None:
    by_value = {"modality": "the scan is PT, the task is for CT", "body part": "the scan shows KNEE"}
    reason = next((text for start, text in by_value.items() if meaning.startswith(start)), meaning)
    assert is_withheld(answer_files(release, STOPS[meaning]()), reason)


@pytest.mark.parametrize("meaning", WARNS)
def test_an_ingest_warning_comes_with_the_answer(release: Release, meaning: str) -> None:
    prediction = answer_files(release, *WARNS[meaning]())
    assert prediction.answer and prediction.verdict.outcome is Outcome.PASS
    assert any(reason.startswith(WARNING_PREFIX + meaning) for reason in prediction.verdict.reasons)


def test_ingest_gives_the_same_scans_the_same_reasons(home: Path) -> None:
    """The same files as a batch, with the real index and suite: Great Expectations agrees with the endpoint."""
    folder, rows = home.parent / "inbox" / "b", []
    folder.mkdir(parents=True)
    for number, make in enumerate(STOPS.values()):
        content = make()
        name = f"scan-{number:02d}" + (".png" if content.startswith(b"\x89PNG") else ".dcm")
        (folder / name).write_bytes(content)
        rows.append({"file_name": name, "patient_id": f"P{number}", "task": "tiny-ct", "label": "normal"})
    batch.write_metadata(folder, rows)
    indexed = batch_manifest.index_batch(folder, home.parent / "staging", CHEST, workers=1)
    settings = IngestSettings("scan", 0.2, 1, 0.97, 0.98)
    failing = suite.validate(indexed.manifest, CHEST, settings, home / "gx", "b").failing
    by_file = dict(zip(indexed.manifest["unit_id"], indexed.manifest["sha256"], strict=True))
    reasons_by_file: dict[str, set[str]] = {}
    for unit, reasons in failing.items():
        reasons_by_file.setdefault(by_file[unit], set()).update(reasons)
    order = [scan_sha256(folder / row["file_name"]) for row in rows]
    assert not indexed.refused
    for sha256, meaning in zip(order, STOPS, strict=True):
        assert meaning in reasons_by_file[sha256], meaning


def test_mr_has_its_own_list_of_rules(release: Release) -> None:
    assert is_withheld(
        answer_files(release, chest(BodyPartExamined="BRAIN"), task="tiny-mr"), "Hounsfield units outside of CT"
    )
    assert not any("Hounsfield" in rule.meaning for rule in rules_of(CHEST, True) if rule.meaning not in STOPS)


def test_text_at_the_border_withholds_the_answer(release: Release) -> None:
    image = dcmread(io.BytesIO(chest()))
    picture = Image.fromarray(np.clip(image.pixel_array / 8, 0, 255).astype(np.uint8)).resize((512, 512))
    from PIL import ImageDraw, ImageFont

    ImageDraw.Draw(picture).text((8, 8), "DOE JANE 1957", fill=255, font=ImageFont.load_default(size=22))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    prediction = answer_files(release, stream.getvalue())
    assert is_withheld(prediction, "burned-in writing") and prediction.description["burned_in"] == "detected"


def test_a_colour_picture_is_detected_by_its_pixels(release: Release) -> None:
    grey = np.asarray(Image.open(io.BytesIO(png(lambda grey: grey))))
    for tint, answered in ((1.0, True), (0.4, False)):
        stream = io.BytesIO()
        colours = np.stack([grey, grey, grey], -1)
        colours[40:60, 40:60, 2] = colours[40:60, 40:60, 2] * tint
        Image.fromarray(colours).save(stream, "JPEG", quality=80)
        prediction = answer_files(release, stream.getvalue())
        assert bool(prediction.answer) is answered and (
            answered or is_withheld(prediction, "it is a picture in colours")
        )


def test_pixel_faults_of_few_slices_warn_and_of_deciding_slices_withhold(release: Release) -> None:
    """Slices are 3 mm apart; the two that decide score highest."""
    bad = chest(5, change=some_pixels(30000))
    prediction = answer_files(release, *(chest(position) for position in range(5)), bad)
    scores = {entry["index"]: entry["score"] for entry in prediction.slices}
    decides = scores[5] >= sorted(scores.values())[-2]
    text = "values above metal in HU (1 of 6 slices)"
    assert is_withheld(prediction, text) if decides else f"{WARNING_PREFIX}{text}" in prediction.verdict.reasons
    many = answer_files(
        release,
        *(chest(position) for position in range(4)),
        *(chest(position, change=some_pixels(30000)) for position in (4, 5)),
    )
    assert is_withheld(many, "values above metal in HU (2 of 6 slices)")


def test_fewer_rules_apply_to_a_crop(release: Release, tiny: Path, home: Path) -> None:
    """A CT has its field of view in mm; for a picture the task declares it."""
    complete = STOPS["wrong window, no air in HU"]()
    crop = chest(change=hu(lambda values: np.maximum(values[40:90, 40:90], -150)))
    assert is_withheld(answer_files(release, complete), "no air") and answer_files(release, crop).answer
    without_intercept = chest(change=hu(lambda values: np.maximum(values[40:90, 40:90], -150) + 1024))
    assert is_withheld(answer_files(release, without_intercept), "denser than a body"), "also visible in a crop"
    crops = facts(modality="CT", pixels={"size": SIZE, "window": list(WINDOW)}, field_of_view=FieldOfView.CROP.value)
    described = manifest("r2", **{"tiny-ct": crops})
    crop_release = load_release(bento_build.assemble(home / "releases" / "r2", described, {"tiny-ct": tiny}))
    inverted = STOPS["inverted, air is white"]()
    assert is_withheld(answer_files(release, inverted), "inverted") and answer_files(crop_release, inverted).answer


def test_a_scout_in_a_series_is_left_out_by_name(release: Release) -> None:
    files = [Upload(f"ax{position}.dcm", chest(position)) for position in range(3)]
    scout = Upload("scout.dcm", chest(ImageOrientationPatient=CORONAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    prediction = predict(release, [scout, *files], "tiny-ct")
    assert prediction.answer == predict(release, files, "tiny-ct").answer and len(prediction.slices) == 3
    assert to_json(prediction)["left_out"] == [{"file": "scout.dcm", "reason": "a localizer, not a slice"}]
    assert f"{WARNING_PREFIX}1 file is left out: a localizer, not a slice" in prediction.verdict.reasons


def description(**changes: Any) -> dict[str, Any]:
    """The description of a usual slice, with changes."""
    scan = read.read_scan("a.dcm", chest())
    return slice_features.describe(scan.pixels[0], scan) | changes


@pytest.mark.parametrize(
    ("failing", "deciding", "outcome"),
    [({3}, {3}, "unfit"), ({3}, {0}, "warning"), ({3, 4}, {0}, "warning"), ({3, 4, 5}, {0}, "unfit"), (set(), {0}, "")],
)
def test_pixel_faults_of_deciding_or_many_slices_withhold(failing: set[int], deciding: set[int], outcome: str) -> None:
    """Of ten slices; more than a fifth are many."""
    usual, blank = description(), description(blank_share=1.0)
    rules = scan_rules(CHEST.modality, CHEST.body_parts, WINDOW, CHEST.field_of_view)
    findings = upload_checks.check([blank if position in failing else usual for position in range(10)], rules, deciding)
    text = (f"blank ({len(failing)} of 10 slices)",)
    assert (findings.header_faults, findings.pixel_faults, findings.warnings) == (
        (),
        text if outcome == "unfit" else (),
        text if outcome == "warning" else (),
    )


def test_a_header_fault_of_any_slice_withholds_and_left_out_files_are_counted() -> None:
    slices = [description(), description(plane="coronal"), description()]
    rules = scan_rules(CHEST.modality, CHEST.body_parts, WINDOW, CHEST.field_of_view)
    findings = upload_checks.check(slices, rules, {0}, ["a localizer, not a slice"] * 2, blank=1)
    assert findings.header_faults == ("not an axial slice (1 of 3 slices)",) and findings.pixel_faults == ()
    assert findings.warnings == (
        "2 files are left out: a localizer, not a slice",
        "1 of 4 slices are blank and are not used",
    )
