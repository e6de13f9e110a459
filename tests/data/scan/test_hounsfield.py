"""CT as NIfTI is accepted if its values are Hounsfield units, else refused with advice."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from data.batch import manifest, pixel_cache
from data.batch.metadata_table import read_metadata
from data.core_types import Modality, Scan, Task, ValueUnit
from data.dataset import shards
from data.importing.import_folder import import_folder
from data.phantom import files
from data.phantom import study as phantom_study
from data.scan import hounsfield, preprocess
from data.scan.read import read_scan
from lineage.errors import Fault
from pipelines import params

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pancreas() -> Task:
    return params.load(ROOT).task("pancreas-ct")


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    """Six slices of an abdomen in HU, in the axis order of NIfTI: columns, rows, slices."""
    task = params.load(ROOT).task("pancreas-ct")
    study = phantom_study.make_study(task, phantom_study.usual_scanner(task), 5, 0, "tumour")
    return np.stack([study.slice(index, 6)[0] for index in range(6)])[:, ::-1, ::-1].transpose(2, 1, 0)


def scan(values: np.ndarray) -> Scan:
    return read_scan("scan", bytes(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes()))


@pytest.mark.usefixtures("home")
def test_a_public_pancreas_data_set_is_imported_indexed_and_packed(
    real_data: Path, tmp_path: Path, pancreas: Task
) -> None:
    record = import_folder(real_data / "intake-faults/ct-nifti", tmp_path / "batch", pancreas)
    assert record["files"] == 2 and set(record["labels"]) == {"normal", "tumour"}
    indexed = manifest.index_batch(tmp_path / "batch", tmp_path / "data/ct", pancreas)
    assert not indexed.refused and set(indexed.manifest["units"]) == {"HU"} and (indexed.manifest["p01"] < -200).all()
    table = read_metadata(tmp_path / "batch")
    assert set(table["mask"]) == {"pat611/CT_mask.nii.gz", "pat612/CT_mask.nii.gz"}
    cohort = {"task": pancreas.name, "side": "training", "epoch": 1}
    cohorts = pd.DataFrame([cohort | {"cluster": name} for name in indexed.manifest["cluster"].unique()])
    (tmp_path / "data/ct" / pixel_cache.RECORD).unlink()
    shards.pack_shards([tmp_path / "data/ct"], cohorts, pancreas, tmp_path / "packed")
    packed = shards.load_units(tmp_path / "packed")
    path = tmp_path / "data/ct" / indexed.manifest["file"].iloc[0]
    plane = read_scan("scan", path.read_bytes()).pixels[int(indexed.manifest["slice"].iloc[0])]
    np.testing.assert_array_equal(packed.pixels[0], preprocess.unit_pixels(plane, ValueUnit.HU, pancreas.pixels))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda hu: hu + 1024, "its darkest hundredth is"),
        (lambda hu: np.clip(hu, -160, 240), "its darkest hundredth"),
        (lambda hu: (np.clip(hu, -160, 240) + 160) / 400, "its darkest hundredth"),
        (lambda hu: (hu - hu.mean()) / hu.std(), "its darkest hundredth"),
        (lambda hu: hu * 10.0, "its values run from"),
        (lambda hu: np.where(hu < -500, hu, hu + 2000), "in the range of soft tissue"),
        (lambda hu: np.pad(hu, [(20, 20), (20, 20), (0, 0)]), "of it is exactly 0"),
        (lambda hu: np.where(hu < -950, 0, hu), "of it is exactly 0"),
    ],
)
def test_values_that_are_no_hounsfield_units_are_refused(
    body: np.ndarray, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    with pytest.raises(Fault, match=rf"scan: .*{reason}.*no Hounsfield units; convert it again from DICOM"):
        hounsfield.convert_to_task_units(scan(change(body.astype(np.float32)).astype(np.float32)), Modality.CT)


def test_hounsfield_units_are_refused_for_mr_and_other_formats_are_unchanged(body: np.ndarray) -> None:
    with pytest.raises(Fault, match="scan: its values are Hounsfield units, so it is a CT and no MR"):
        hounsfield.convert_to_task_units(scan(body), Modality.MR)
    signal = scan(np.abs(body) % 1200)
    assert hounsfield.convert_to_task_units(signal, Modality.MR) is signal
    dicom = replace(scan(body + 1024), header={"format": "dicom"})
    assert hounsfield.convert_to_task_units(dicom, Modality.CT) is dicom


@pytest.mark.parametrize("is_declared", [False, True])
def test_zeros_around_a_dicom_ct_are_padding_if_they_are_declared_and_else_refused(is_declared: bool) -> None:
    task = params.load(ROOT).task("lung-ct")
    study = phantom_study.make_study(task, phantom_study.usual_scanner(task), 5, 0, "normal")
    values, pixel = study.slice(0, 1)
    values[:14], values[-14:] = 0, 0
    image = dcmread(io.BytesIO(files.dicom(study, values, pixel, 0)))
    if is_declared:
        image.add_new("PixelPaddingValue", "SS", -files.INTERCEPT)
    stream = io.BytesIO()
    image.save_as(stream)
    padded = read_scan("slice", stream.getvalue())
    if is_declared:
        body_rows = study.slice(0, 1)[0][14:-14]
        filled = hounsfield.convert_to_task_units(padded, Modality.CT).pixels[0]
        assert filled[:14].max() < -900
        assert np.array_equal(filled[14:-14], np.where(body_rows == 0, -1024, body_rows))
    else:
        with pytest.raises(Fault, match=r"slice: 23% of it is exactly 0 HU, as where 0 was filled in for air or as p"):
            hounsfield.convert_to_task_units(padded, Modality.CT)


def test_an_import_of_other_values_is_refused_and_writes_nothing(
    body: np.ndarray, tmp_path: Path, pancreas: Task
) -> None:
    folder = tmp_path / "set/p1"
    folder.mkdir(parents=True)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(body + 1024, affine), folder / "CT.nii.gz")
    nibabel.save(nibabel.Nifti1Image((body > 400).astype(np.uint8), affine), folder / "CT_seg.nii.gz")
    with pytest.raises(Fault, match=r"CT\.nii\.gz: its darkest hundredth"):
        import_folder(tmp_path / "set", tmp_path / "batch", pancreas)
    assert not (tmp_path / "batch").exists()
