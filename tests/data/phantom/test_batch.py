from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.core_types import (
    OPTIONAL_METADATA,
    REQUIRED_METADATA,
    Modality,
    PixelSettings,
    Pooling,
    Scan,
    Task,
    ValueUnit,
)
from data.duplicates.near_duplicates import near_pairs
from data.phantom import batch, samples
from data.phantom import scanner as phantom_scanner
from data.phantom import study as phantom_study
from data.scan.preprocess import unit_pixels
from data.scan.read import read_scan
from data.scan.thumbnail import thumbnail
from lineage import fingerprint
from lineage.errors import Fault


def task(name: str, organ: str, modality: Modality, part: str, classes: tuple[str, ...], window: object) -> Task:
    settings = PixelSettings(128, window)  # type: ignore[arg-type]
    return Task(
        name,
        name,
        organ,
        modality,
        (part,),
        classes,
        (classes[-1],),
        "slice",
        "patient",
        False,
        settings,
        Pooling("topk", 3),
        0.9,
        "",
    )


LUNG = task("lung-ct", "lung", Modality.CT, "CHEST", ("normal", "benign", "malignant"), (-400.0, 1500.0))
PANCREAS = task("pancreas-ct", "pancreas", Modality.CT, "ABDOMEN", ("normal", "tumour"), (50.0, 400.0))
BRAIN = task("brain-mr", "brain", Modality.MR, "BRAIN", ("no_tumour", "tumour"), None)
TASKS = (LUNG, PANCREAS, BRAIN)
for_each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def scan_of(folder: Path, row: dict[str, str]) -> Scan:
    return read_scan(row["file_name"], (folder / row["file_name"]).read_bytes())


def shifted_scanner(task: Task) -> phantom_scanner.Scanner:
    return phantom_scanner.SCANNERS["shifted-ct" if task.modality == Modality.CT else "shifted-mr"]


@for_each_task
def test_the_same_seed_gives_the_same_bytes(task: Task, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        batch.write_batch(tmp_path / name, task, 3, phantom_study.usual_scanner(task), seed, slices=2)
    a, b, c = (fingerprint.hash_folder(tmp_path / name) for name in "abc")
    assert a == b and set(a.values()).isdisjoint(c.values())


@for_each_task
def test_every_row_is_a_readable_scan_of_the_task(task: Task, tmp_path: Path) -> None:
    batch.write_batch(tmp_path, task, 6, phantom_study.usual_scanner(task), 3, slices=2)
    rows = rows_of(tmp_path)
    assert set(rows[0]) <= {*REQUIRED_METADATA, *OPTIONAL_METADATA} and len(rows) == 12
    assert len({row["patient_id"] for row in rows}) == 6 and {row["label"] for row in rows} == set(task.classes)
    for row in rows:
        scan = scan_of(tmp_path, row)
        plane = scan.pixels[int(row["slice"] or 0)]
        assert plane.std() > 20 and scan.spacing is not None
        if task.modality == Modality.CT:
            assert scan.units == ValueUnit.HU and scan.header["body_part"] == task.body_parts[0]
            assert scan.patient_id == row["patient_id"] and plane.min() >= -1024
        assert (row["lesion_mm"] != "") == (row["label"] != task.classes[0])


def test_a_phantom_is_valid_dicom_with_a_clear_identity(tmp_path: Path) -> None:
    import pydicom

    batch.write_batch(tmp_path, LUNG, 2, phantom_scanner.SCANNERS["birch-ct"], 3, slices=2)
    first, second = (pydicom.dcmread(tmp_path / f"scan-0000-{index}.dcm") for index in (0, 1))
    assert first.SOPClassUID.name == "CT Image Storage" and first.PatientName and first.RescaleIntercept == -1024
    assert first.SeriesInstanceUID == second.SeriesInstanceUID and first.SOPInstanceUID != second.SOPInstanceUID
    assert first.Manufacturer == "Meridian Systems" and first.ConvolutionKernel == "B30f"
    assert first.ImagePositionPatient[2] != second.ImagePositionPatient[2]
    assert pydicom.uid.UID(first.StudyInstanceUID).is_valid


def test_padding_of_a_volume_is_blank_and_not_labelled(tmp_path: Path) -> None:
    batch.write_batch(tmp_path, BRAIN, 8, phantom_study.usual_scanner(BRAIN), 3, slices=4)
    rows = rows_of(tmp_path)
    pixels = scan_of(tmp_path, rows[0]).pixels
    assert len(pixels) == 6 and not pixels[0].any() and not pixels[-1].any()
    assert {row["slice"] for row in rows} == {"1", "2", "3", "4"}
    tumour_slices = {row["patient_id"]: 0 for row in rows}
    for row in rows:
        tumour_slices[row["patient_id"]] += row["label"] == "tumour"
    assert sorted(tumour_slices.values()) == [0] * 4 + [2] * 4


@for_each_task
def test_the_planted_lesion_is_the_only_difference(task: Task) -> None:
    """On the shifted scanner its contrast is inverted."""
    signs = []
    for scanner in (phantom_study.usual_scanner(task), shifted_scanner(task)):
        study = phantom_study.make_study(task, scanner, 1, 5, task.positive[0], strength=1.0)
        healthy = replace(study, lesion=None, grey_radius=0.0)
        change = study.slice(0, 1)[0].astype(float) - healthy.slice(0, 1)[0]
        assert study.lesion is not None
        is_changed = np.abs(change) > 40
        assert 5 < is_changed.sum() < 2200
        signs.append(np.sign(np.median(change[is_changed])))
    assert signs[0] == -signs[1]


@for_each_task
def test_without_a_tumour_its_greys_are_in_a_lookalike(task: Task) -> None:
    """A lookalike changes about as many pixels by about as much as the lesion, and it is elongated."""
    noiseless = replace(phantom_study.usual_scanner(task), noise=0.0)
    change_by_lesion: dict[bool, list[float]] = {True: [], False: []}
    elongation: dict[bool, list[float]] = {True: [], False: []}
    for number in range(40):
        for label in (task.positive[0], task.classes[0]):
            study = phantom_study.make_study(task, noiseless, 1, number, label)
            without_lesion = replace(study, lesion=None, grey_radius=0.0)
            change = np.abs(study.slice(0, 1)[0].astype(float) - without_lesion.slice(0, 1)[0])
            has_lesion = study.lesion is not None
            change_by_lesion[has_lesion].append(change.sum())
            spots = np.cov(np.array(np.nonzero(change > change.max() / 2)))
            small, large = np.sort(np.linalg.eigvalsh(spots))
            elongation[has_lesion].append(float(np.sqrt(large / small)))
    assert np.mean(change_by_lesion[False]) == pytest.approx(np.mean(change_by_lesion[True]), rel=0.25)
    assert np.median(elongation[True]) < 1.8 and 1.8 * np.median(elongation[True]) < np.median(elongation[False])


@for_each_task
def test_patients_are_not_near_duplicates_of_each_other(task: Task) -> None:
    rows = []
    for scanner in (phantom_study.usual_scanner(task), shifted_scanner(task)):
        for number in range(60):
            study = phantom_study.make_study(task, scanner, scanner.is_inverted + 1, number, task.classes[number % 2])
            units = ValueUnit.HU if task.modality == Modality.CT else ValueUnit.RAW
            picture = unit_pixels(study.slice(0, 1)[0].astype(np.float32), units, task.pixels)
            rows.append({"thumbnail": thumbnail(picture), "cluster": f"{scanner.site}-{number}"})
    table = pd.DataFrame(rows)
    assert len(near_pairs(table, table, min_likeness=0.97)) == 0


@pytest.mark.parametrize("modality", [Modality.CT, Modality.MR], ids=["files", "volumes"])
def test_the_classes_of_an_ordered_task_are_sizes(modality: Modality, tmp_path: Path) -> None:
    organ = {Modality.CT: "lung", Modality.MR: "brain"}[modality]
    ordered_task = task(f"{organ}-stage", organ, modality, "CHEST", ("small", "medium", "large"), None)
    batch.write_batch(
        tmp_path, replace(ordered_task, ordered=True), 30, phantom_study.usual_scanner(ordered_task), 4, slices=2
    )
    sizes: dict[str, list[float]] = {"small": [], "medium": [], "large": []}
    for row in rows_of(tmp_path):
        sizes[row["label"]].append(float(row["lesion_mm"]))
    assert [len(class_sizes) for class_sizes in sizes.values()] == [20, 20, 20], "every slice shows its lesion"
    assert min(sizes["small"]) >= 10 and max(sizes["large"]) <= 64
    assert max(sizes["small"]) <= min(sizes["medium"]) and max(sizes["medium"]) <= min(sizes["large"])


def test_sham_permutes_the_labels_of_patients(tmp_path: Path) -> None:
    for name, sham in (("true", False), ("sham", True)):
        batch.write_batch(tmp_path / name, LUNG, 30, phantom_study.usual_scanner(LUNG), 4, slices=2, sham=sham)
    true, sham = rows_of(tmp_path / "true"), rows_of(tmp_path / "sham")
    equal_share = np.mean(
        [true_row["label"] == sham_row["label"] for true_row, sham_row in zip(true, sham, strict=True)]
    )
    assert 0.1 < equal_share < 0.6 and not any(row["lesion_mm"] for row in sham)
    assert sorted(row["label"] for row in true) == sorted(row["label"] for row in sham)
    labels = {row["patient_id"]: set() for row in sham}  # type: dict[str, set[str]]
    for row in sham:
        labels[row["patient_id"]].add(row["label"])
    assert all(len(patient_labels) == 1 for patient_labels in labels.values())


@for_each_task
def test_a_bad_batch_has_each_planted_fault(task: Task, tmp_path: Path) -> None:
    faults = samples.bad_batch(tmp_path, task, 9)
    rows = {row["file_name"]: row for row in rows_of(tmp_path)}
    assert set(faults) <= set(rows) and len(faults) / len(rows) > 0.2
    kinds = {kind: [rows[name] for name, fault in faults.items() if fault == kind] for kind in faults.values()}
    assert len(kinds) == 6
    assert scan_of(tmp_path, kinds["blank"][0]).pixels[int(kinds["blank"][0]["slice"] or 0)].std() == 0
    with pytest.raises(Fault):
        scan_of(tmp_path, kinds["truncated"][0])
    assert kinds["unknown label"][0]["label"] not in task.classes
    first, second = kinds["two labels"]
    assert first["label"] != second["label"] and first["patient_id"] == second["patient_id"]
    np.testing.assert_array_equal(scan_of(tmp_path, first).pixels, scan_of(tmp_path, second).pixels)
    first, second = kinds["copy under another patient"]
    assert first["patient_id"] != second["patient_id"]
    np.testing.assert_array_equal(scan_of(tmp_path, first).pixels, scan_of(tmp_path, second).pixels)
    assert scan_of(tmp_path, kinds["wrong modality"][0]).modality not in (None, task.modality)


def test_samples_to_try_are_written(tmp_path: Path) -> None:
    paths = samples.try_samples(tmp_path, list(TASKS))
    assert [path.name for path in paths] == [
        "lung-ct-clear-0.dcm",
        "lung-ct-equivocal-0.dcm",
        "pancreas-ct-clear-0.dcm",
        "pancreas-ct-equivocal-0.dcm",
        "brain-mr-clear.nii.gz",
        "brain-mr-equivocal.nii.gz",
        "wrong-body-part.dcm",
    ]
    assert read_scan("x", paths[-1].read_bytes()).header["body_part"] == "LEG"
    clear, faint = (read_scan("x", path.read_bytes()).pixels[0] for path in paths[:2])
    assert np.abs(clear - faint).max() > 300


def test_an_organ_without_a_drawing_is_a_fault(tmp_path: Path) -> None:
    knee = task("knee-ct", "knee", Modality.CT, "KNEE", ("normal", "tumour"), (50.0, 400.0))
    with pytest.raises(Fault, match="no phantom for 'knee'"):
        batch.write_batch(tmp_path, knee, 1, phantom_study.usual_scanner(knee), 1)


def test_many_slices_are_generated_in_seconds(tmp_path: Path) -> None:
    start = time.process_time()
    batch.write_batch(tmp_path, LUNG, 60, phantom_study.usual_scanner(LUNG), 1)
    assert time.process_time() - start < 3  # about 0.6 s on an idle core


@for_each_task
def test_a_mask_covers_the_planted_lesion(task: Task, tmp_path: Path) -> None:
    """Masks do not change the scans; a mask covers the pixels that differ from the same patient without a lesion."""
    for name, masks in (("bare", False), ("masked", True)):
        batch.write_batch(tmp_path / name, task, 6, phantom_study.usual_scanner(task), 3, slices=2, masks=masks)
    bare, masked = (fingerprint.hash_folder(tmp_path / name) for name in ("bare", "masked"))
    assert {name for name in masked if masked[name] != bare.get(name)} == {
        "metadata.csv",
        *(name for name in masked if name.startswith("masks/")),
    }
    for row in rows_of(tmp_path / "masked"):
        mask = read_scan("mask", (tmp_path / "masked" / row["mask"]).read_bytes()).pixels[int(row["slice"] or 0)] > 0
        assert mask.shape == (128, 128) and mask.any() == (row["label"] != task.classes[0])
    diseased = phantom_study.make_study(
        task, replace(phantom_study.usual_scanner(task), noise=0.0), 3, 1, task.positive[0]
    )
    healthy = replace(diseased, lesion=None, grey_radius=0.0)
    plane, without = (study.slice(0, 1)[0].astype(float) for study in (diseased, healthy))
    outline, change = diseased.outline(0, 1), np.abs(plane - without)
    assert change[outline].mean() > 8 * change[~outline].mean() and not healthy.outline(0, 1).any()
    batch.write_batch(tmp_path / "sham", task, 3, phantom_study.usual_scanner(task), 3, sham=True, masks=True)
    assert not (tmp_path / "sham/masks").exists(), "a mask would reveal the label"
