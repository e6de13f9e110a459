"""Masks are paired with volumes by name, and the lesion value of a mask is asked for if it is ambiguous."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from data.batch import lesion_grid, manifest
from data.batch.metadata_table import read_metadata
from data.core_types import Scan, Task, ValueUnit
from data.importing import mask_volumes
from data.importing.import_folder import import_folder
from data.phantom import batch as phantom_batch
from data.phantom import files
from data.phantom import study as phantom_study
from data.scan.read import read_scan
from lineage.errors import Fault


def write_files(root: Path, *names: str) -> Path:
    """Write files with these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def paired_names(root: Path, only: str | None = None) -> dict[str, str]:
    pairs = mask_volumes.pair_volumes(root, only)
    return {scan.relative_to(root).as_posix(): mask.relative_to(root).as_posix() for scan, mask in pairs}


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("p/X.nii.gz", "p/X_mask.nii.gz"),
        ("p/X.nii", "p/X_seg.nii.gz"),
        ("p/X.nii.gz", "p/X-label.nii.gz"),
        ("p/Pre_Scan_T1.nii.gz", "p/Pre_Mask.nii.gz"),
        ("p/CT_scan.nii.gz", "p/CT_mask.nii.gz"),
        ("p/imaging.nii.gz", "p/segmentation.nii.gz"),
        ("p/volume-12.nii", "p/segmentation-12.nii"),
        ("p/B_001_t1ce.nii.gz", "p/B_001_seg.nii.gz"),
        ("p/scan.nii.gz", "p/tumormask.nii.gz"),
        ("imagesTr/p_01.nii.gz", "labelsTr/p_01.nii.gz"),
        ("imagesTr/p_01_0000.nii.gz", "labelsTr/p_01.nii.gz"),
        ("set/images/p.nii.gz", "set/masks/p.nii.gz"),
        ("p/T1_scan.nii.gz", "p/T1_scan_mask.nii.gz"),
        ("p/image.nii.gz", "p/image_seg.nii.gz"),
        ("P/T1.NII.GZ", "P/T1_MASK.NII.GZ"),
    ],
)
def test_a_mask_is_paired_by_its_name(tmp_path: Path, scan: str, mask: str) -> None:
    if mask == "p/tumormask.nii.gz":
        scan = "p/tumor_scan.nii.gz"
    write_files(tmp_path, scan, mask, "p/._X_mask.nii.gz")
    assert paired_names(tmp_path) == {scan: mask}


def test_unlabelled_scans_of_a_public_set_are_passed_over(tmp_path: Path) -> None:
    root = write_files(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b.nii.gz")
    assert paired_names(root) == {"imagesTr/a.nii.gz": "labelsTr/a.nii.gz"}


def test_similar_names_are_not_confused(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        "p/1.nii.gz",
        "p/10.nii.gz",
        "p/1_mask.nii.gz",
        "p/10_mask.nii.gz",
        "p/1_b.nii.gz",
        "p/1_b_mask.nii.gz",
    )
    assert paired_names(tmp_path) == {f"p/{name}.nii.gz": f"p/{name}_mask.nii.gz" for name in ("1", "10", "1_b")}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("p/X.nii.gz", "p/X_mask.nii.gz", "p/X_seg.nii.gz"), r"p/X\.nii\.gz: 2 masks match its name \(X_mask"),
        (("p/image.nii.gz", "p/image_mask.nii.gz", "p/Y.nii.gz"), r"p/Y\.nii\.gz: 0 masks match its name"),
        (("p/X.nii.gz", "p/X_mask.nii.gz", "p/Y.nii.gz"), r"p/Y\.nii\.gz: 0 masks match its name"),
        (("p/X.nii.gz", "p/X_mask.nii.gz", "p/Y_mask.nii.gz"), r"p/Y_mask\.nii\.gz: is named as a mask, and no scan"),
        (("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz"), r"imagesTr/b\.nii\.gz: 0 masks"),
    ],
)
def test_ambiguous_names_are_refused(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        paired_names(write_files(tmp_path, *names))


def test_file_names_in_split_folders_are_patients(tmp_path: Path) -> None:
    root = write_files(tmp_path, "imagesTr/p_01_0000.nii.gz", "labelsTr/p_01.nii.gz")
    patients, notes = mask_volumes.volume_patients([root / "imagesTr/p_01_0000.nii.gz"], root, None)
    assert patients == {"imagesTr/p_01_0000.nii.gz": "p_01"} and notes["patients_from"] == "file names"
    write_files(
        tmp_path, "p7/imagesTr/x.nii.gz", "p7/labelsTr/x.nii.gz", "p8/imagesTr/x.nii.gz", "p8/labelsTr/x.nii.gz"
    )
    scans = [root / f"{patient}/imagesTr/x.nii.gz" for patient in ("p7", "p8")]
    with pytest.raises(Fault, match=r"at level 1 2 \(p7, p8\)"):
        mask_volumes.volume_patients(scans, root, None)
    assert set(mask_volumes.volume_patients(scans, root, 1)[0].values()) == {"p7", "p8"}


def test_labels_follow_the_mask_by_affine(real_data: Path, tmp_path: Path, brain: Task) -> None:
    import_folder(real_data / "intake-faults/mask-other-orientation", tmp_path / "batch", brain)
    table = read_metadata(tmp_path / "batch")
    tumour_slices = (
        table[table["label"] == "tumour"]
        .groupby("patient_id")["slice"]
        .apply(lambda slices: [int(number) for number in slices])
    )
    assert tumour_slices.to_dict() == {"pat1": [4, 5, 6, 7], "pat2": [0, 1, 2, 3], "pat3": [4, 5, 6, 7]}


@pytest.mark.usefixtures("home")
def test_the_lesion_value_of_a_mask_with_two_values_is_asked_for(real_data: Path, tmp_path: Path, brain: Task) -> None:
    source = real_data / "intake-faults/mask-organ-and-tumour"
    with pytest.raises(Fault, match=r"T1_Mask\.nii\.gz: holds the values 1, 2 besides 0; .*--lesion-value 2"):
        import_folder(source, tmp_path / "asked", brain)
    import_folder(source, tmp_path / "batch", brain, lesion_value="2")
    table = read_metadata(tmp_path / "batch")
    assert set(table["lesion_value"]) == {"2"}
    tumour_counts = table[table["label"] == "tumour"].groupby("patient_id").size()
    assert "pat603" not in tumour_counts and 0 < tumour_counts["pat601"] < 8
    indexed = manifest.index_batch(tmp_path / "batch", tmp_path / "staging", brain)
    assert not indexed.refused
    grids = lesion_grid.read_grids(tmp_path / "staging" / lesion_grid.NAME)
    outlined = {unit for unit, grid in grids.items() if grid.any()}
    assert outlined == set(indexed.manifest.loc[indexed.manifest["label"] == "tumour", "unit_id"])


def test_masks_with_different_values_are_asked_for_across_the_import(
    real_data: Path, tmp_path: Path, brain: Task
) -> None:
    """One mask has the values {0, 1}, another {0, 2}: one of them can be the organ."""
    source = tmp_path / "set"
    shutil.copytree(real_data / "intake-faults/mask-other-orientation", source)
    path = source / "pat1/T1_Mask.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine), path)
    with pytest.raises(Fault, match=r"the masks hold different values: 1 \(first in pat2/.*\), 2 \(first in pat1/"):
        import_folder(source, tmp_path / "asked", brain)
    import_folder(source, tmp_path / "batch", brain, lesion_value="1,2")
    assert (read_metadata(tmp_path / "batch")["label"] == "tumour").sum() == 12
    record = import_folder(source, tmp_path / "none", brain, lesion_value="3")
    assert record["warning"] == "no mask holds the value 3: no slice is tumour"


@pytest.mark.usefixtures("home")
def test_the_lesion_value_is_asked_for_across_a_batch(tmp_path: Path, brain: Task) -> None:
    batch = tmp_path / "inbox/masked"
    phantom_batch.write_batch(batch, brain, 4, phantom_study.usual_scanner(brain), 3, slices=2, masks=True)
    rows = read_metadata(batch).to_dict("records")
    tumour_mask = next(row["mask"] for row in rows if row["label"] == "tumour")
    content = nibabel.Nifti1Image.from_bytes(gzip.decompress((batch / tumour_mask).read_bytes()))
    doubled = nibabel.Nifti1Image(np.asarray(content.dataobj) * 2, content.affine)
    (batch / tumour_mask).write_bytes(gzip.compress(doubled.to_bytes()))
    with pytest.raises(Fault, match="the masks hold different values"):
        manifest.index_batch(batch, tmp_path / "staging", brain)
    set_lesion_value(batch, "1;2")
    assert not manifest.index_batch(batch, tmp_path / "staging", brain).refused
    set_lesion_value(batch, "many")
    refused = manifest.index_batch(batch, tmp_path / "staging", brain).refused
    assert len(refused) == 4 and "lesion value 'many'" in refused[0].reason


def set_lesion_value(batch: Path, value: str) -> None:
    """Write this lesion_value into every row."""
    rows = [row | {"lesion_value": value} for row in read_metadata(batch).to_dict("records")]
    with (batch / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def picture(pixels: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


PICTURE = Scan("scan", np.zeros((1, 64, 64), np.float32), ValueUnit.DISPLAY, None, None, {"format": "picture"})


def lesion_mask(
    pixels: np.ndarray, kind: str = "PNG", values: tuple[float, ...] = (), **options: int
) -> lesion_grid.LesionMask:
    return lesion_grid.read_lesion_mask("mask", picture(pixels, kind, **options), PICTURE, values)


def disc(value: int, radius: int = 12) -> np.ndarray:
    rows, columns = np.mgrid[:64, :64]
    return np.where((rows - 30) ** 2 + (columns - 25) ** 2 < radius**2, value, 0).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 60, 95])
@pytest.mark.parametrize("radius", [2, 12])
def test_jpeg_noise_is_removed(quality: int, radius: int) -> None:
    outline = lesion_mask(disc(255, radius), "JPEG", quality=quality)
    assert (outline.lesion[0] == (disc(255, radius) > 0)).mean() > 0.998 and outline.values == {1.0}


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.maximum(disc(120, 20), disc(255, 6)), "grey areas that are neither black nor white"),
        (disc(1), r"brightest pixel is \d+, not white"),
        (disc(120), "not white"),
    ],
)
def test_a_jpeg_that_is_not_black_and_white_is_refused(pixels: np.ndarray, sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        lesion_mask(pixels, "JPEG", quality=90)


def test_white_in_a_picture_means_the_same_as_1_in_a_volume() -> None:
    assert (
        lesion_mask(disc(255)).values == lesion_mask(disc(1)).values == {1.0}
        and lesion_mask(disc(0)).values == frozenset()
    )
    two_values = np.maximum(disc(128, 20), disc(255, 6))
    with pytest.raises(Fault, match="holds the values 128, 255 besides 0"):
        lesion_mask(two_values)
    np.testing.assert_array_equal(lesion_mask(two_values, values=(255.0,)).lesion[0], disc(255, 6) > 0)
    with pytest.raises(Fault, match="everywhere and has no background"):
        lesion_mask(np.full((64, 64), 255, np.uint8))


def volume(values: np.ndarray) -> bytes:
    return bytes(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes())


def float_mask(values: list[float], lesion_values: tuple[float, ...] = ()) -> lesion_grid.LesionMask:
    array = np.zeros((4, 5, 2), np.float32)
    array.flat[1 : 1 + len(values)] = values
    return lesion_grid.read_lesion_mask(
        "mask", volume(array), read_scan("scan", volume(np.ones((4, 5, 2), np.float32))), lesion_values
    )


def test_whole_floats_are_labels() -> None:
    assert float_mask([1.0, 1.0]).lesion.sum() == 2 and float_mask([0.9999]).lesion.sum() == 1
    assert float_mask([1.0, 2.00001, 2.0], lesion_values=(2.0,)).lesion.sum() == 2
    for values, sentence in (
        ([0.2, 0.7, 1.0], "fractions between 0 and 1"),
        ([1.0, 7.5], "values that are no labels"),
        ([-1.0, 1.0], "holds the values -1, 1 besides 0"),
        ([-1.0], "holds the values -1"),
    ):
        with pytest.raises(Fault, match=sentence):
            float_mask(values)
    with pytest.raises(Fault, match="fractions between 0 and 1"):
        float_mask([0.2, 0.7, 1.0], lesion_values=(1.0,))


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_a_dicom_segmentation_is_refused(lung: Task, kind: str) -> None:
    import pydicom

    study = phantom_study.make_study(lung, phantom_study.usual_scanner(lung), 3, 0, "malignant")
    pixels, pixel = study.slice(0, 1)
    content = files.dicom(study, pixels, pixel, 0)
    header = pydicom.dcmread(io.BytesIO(content))
    header.Modality = kind
    stream = io.BytesIO()
    header.save_as(stream)
    with pytest.raises(Fault, match="is a DICOM segmentation, which can't be read yet; convert it to NIfTI"):
        lesion_grid.read_lesion_mask("mask", stream.getvalue(), read_scan("scan", content))


def test_the_lesion_value_is_written_into_a_ready_table(tmp_path: Path, brain: Task) -> None:
    batch = tmp_path / "inbox/masked"
    phantom_batch.write_batch(batch, brain, 2, phantom_study.usual_scanner(brain), 3, slices=2, masks=True)
    import_folder(batch, tmp_path / "batch", brain, lesion_value="1")
    assert set(read_metadata(tmp_path / "batch")["lesion_value"]) == {"1"}
    plain = tmp_path / "inbox/plain"
    phantom_batch.write_batch(plain, brain, 2, phantom_study.usual_scanner(brain), 3, slices=2)
    with pytest.raises(Fault, match="--lesion-value 2: no scan of the folder has a mask"):
        import_folder(plain, tmp_path / "none", brain, lesion_value="2")


@pytest.mark.parametrize("name", ["P1_T1_lesion.nii.gz", "P1_T1_seg1.nii.gz", "P1_T1_roi.nii.gz"])
def test_a_mask_without_a_mask_name_is_not_imported_as_a_scan(tmp_path: Path, brain: Task, name: str) -> None:
    """Otherwise it would be a second scan of the same patient, labelled by `P1_T1_mask.nii.gz`."""
    phantom_batch.write_batch(tmp_path / "made", brain, 2, phantom_study.usual_scanner(brain), 3, slices=4, masks=True)
    folder = tmp_path / "set" / "P1"
    folder.mkdir(parents=True)
    (folder / "P1_T1.nii.gz").write_bytes((tmp_path / "made" / "scan-0000.nii.gz").read_bytes())
    tumour = next(
        path
        for path in sorted((tmp_path / "made/masks").iterdir())
        if read_scan(path.name, path.read_bytes()).pixels.any()
    )
    for copy in ("P1_T1_mask.nii.gz", name):
        (folder / copy).write_bytes(tumour.read_bytes())
    with pytest.raises(
        Fault, match=f"{name}: was taken for the scan of P1_T1_mask.nii.gz, but is a computed map or a seg"
    ):
        import_folder(tmp_path / "set", tmp_path / "batch", brain)


def test_channels_that_share_a_mask_give_a_warning_and_unnamed_masks_a_fault(tmp_path: Path, brain: Task) -> None:
    phantom_batch.write_batch(tmp_path / "made", brain, 2, phantom_study.usual_scanner(brain), 3, slices=4, masks=True)
    for folder, ending in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", "")):
        for number in range(2):
            target = tmp_path / "set" / folder / f"case_{number}{ending}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tmp_path / "made" / ("masks" if folder == "labelsTr" else "") / f"scan-{number:04d}.nii.gz"
            target.write_bytes(source.read_bytes())
    record = import_folder(tmp_path / "set", tmp_path / "both", brain)
    assert "4 scans have 2 masks" in record["warning"] and "--only" in record["warning"]
    assert "warning" not in import_folder(tmp_path / "set", tmp_path / "one", brain, only="*_0000.nii.gz")
    write_files(tmp_path / "other", "s0/mri.nii.gz", "s0/segmentations/tumor.nii.gz")
    with pytest.raises(Fault, match=r"'s0' is none of the classes .*, and no NIfTI file is named as a mask"):
        import_folder(tmp_path / "other", tmp_path / "none", brain)
